"""How fast a population trains, beside loops that train its nets one by one, and the limits of the machine.

    python scripts/benchmark_zoo.py [families=[small_cnn,nws_cnn,mlp]] [batch_size=64] [device=cuda] [out=zoo.md]

Three ways to train the same nets on the same random images of 28 x 28: "plain" is the loop as one writes it (one
process with all cores, the ordinary allocator, nn.Module and torch.optim); "tuned" is the best such loop (a process per
core, one thread each, fused optimizer, tuned allocator); "stacked" is what make_zoo.py does. The ways take turns, and
the median of the rounds counts. Takes two to three minutes on two cores that are otherwise idle.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import rich.console
import torch
import torch.nn.functional as F

from metanet import commandline, machine
from metanet.progress import progress
from metanet.reporting.tables import Cell, Column, Table, print_to, to_markdown
from metanet.zoo import nets, optimisers, plan, sizes
from metanet.zoo.families import task
from metanet.zoo.feed import standardise
from metanet.zoo.fit import Training
from metanet.zoo.hyperparameters import NEUTRAL
from metanet.zoo.images import Images
from metanet.zoo.pixel_feed import places
from metanet.zoo.spec import Net
from metanet.zoo.tasks import TASKS

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "small_cnn": {"batch_norm": False, "conv_depth": 3, "conv_width": 16},
    "nws_cnn": {
        "batch_norm": True,
        "filter_size": 5,
        "conv_depth": 3,
        "conv_width": 8,
        "dense_depth": 2,
        "dense_width": 128,
    },
    "mlp": {"batch_norm": False, "depth": 2, "width": 64},
    "model_zoos_cnn": {"variant": "cnn"},
    "resnet": {"depth": 8, "width": 8, "norm": "batch"},
    "vit": {"depth": 2, "width": 32, "heads": 4, "patch": 7, "readout": "class"},
    "wild_park": {"depth": 3, "kernels": "3-5-3", "widths": "8-16-8", "skips": "0-0-2"},
    "cnn1d": {"batch_norm": False, "filter_size": 3, "conv_depth": 2, "conv_width": 32, "dense_width": 32},
    "deep_sets": {"depth": 3, "width": 32, "dense_depth": 1, "stride": 2, "readout": "mean"},
    "siren": {"depth": 2, "width": 32, "omega": 30},
}
WAYS = ("plain", "tuned", "stacked")
NUM_IMAGES = 8192


@dataclass
class Options:
    families: list[str] = field(default_factory=lambda: list(ARCHITECTURES), metadata={"help": "of nets"})
    batch_size: int = field(default=64, metadata={"help": "images per net and step"})
    optimizer: str = field(default="adam", metadata={"help": "of every net"})
    activations: list[str] = field(default_factory=lambda: ["relu"], metadata={"help": "shared out between the nets"})
    augmentation: bool = field(default=False, metadata={"help": "stacked only: the loops never augment"})
    stack: int | None = field(default=None, metadata={"help": "nets trained together; if left out as make_zoo.py"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    processes: int | None = field(default=None, metadata={"help": "one per core if left out; one on a GPU"})
    seconds: float = field(default=2.0, metadata={"help": "of each measurement"})
    rounds: int = field(default=3, metadata={"help": "measurements of each way"})
    out: str | None = field(default=None, metadata={"help": "a Markdown file for the table"})


def main(options: Options) -> dict[str, dict[str, float]]:
    """Measures and prints; steps of one net per second, by family and way.

    Raises:
        ValueError: an unknown family, optimizer or activation.
    """
    for found, known in (
        (options.families, ARCHITECTURES),
        ([options.optimizer], optimisers.OPTIMIZERS),
        (options.activations, nets.ACTIVATIONS),
    ):
        if unknown := set(found) - set(known):
            raise ValueError(f"{', '.join(sorted(unknown))} on the command line: expected some of {', '.join(known)}")
    rates: dict[str, dict[str, float]] = {}
    with progress("benchmark", len(options.families) * options.rounds * len(WAYS), "measurements") as advance:
        for name in options.families:
            rates[name] = measure(name, options, lambda way, name=name: advance(1, f"{name} {way}"))
    gemm, copy = machine.sgemm_rate(options.device), machine.memcpy_rate(options.device)
    text = (
        f"{machine.describe(options.device)}. Limits in this run: {gemm / 1e9:,.0f} GFLOP/s in sgemm, "
        f"{copy / 1e9:,.1f} GB/s in memcpy. Steps of one net per second, {options.optimizer}, batches of "
        f"{options.batch_size}; stacks of {_stack(options)} in {_processes(options)} processes. "
        f"Of sgemm: forward and backward products of the stacked nets."
    )
    table = tabulated(rates, options, gemm)
    console = rich.console.Console()
    console.print(text, highlight=False)
    print_to(console, table, "Training a population")
    if options.out:
        command = f"python scripts/benchmark_zoo.py {' '.join(sys.argv[1:])}".strip()
        Path(options.out).write_text(f"{text}\n\n{to_markdown(table)}\n`{command}`\n", encoding="utf-8")
        print(f"wrote {options.out}", file=sys.stderr)
    return rates


def measure(name: str, options: Options, done: Callable[[str], None]) -> dict[str, float]:
    """The median rate of each way; all their processes are there all the time, and one way's work at once."""
    with contextlib.ExitStack() as stack:
        ways = {way: stack.enter_context(_started(name, way, options)) for way in WAYS}
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, rate in ways.items():
                rates[way].append(rate())
                done(way)
    return {way: statistics.median(found) for way, found in rates.items()}


@contextlib.contextmanager
def _started(name: str, way: str, options: Options) -> Iterator[Callable[[], float]]:
    """Fresh processes that train in one way; the yielded function gives their rate together."""
    count = 1 if way == "plain" else _processes(options)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin, (name, way, options, context.Barrier(count))) as pool:
        yield lambda: sum(task.result() for task in [pool.submit(_rate, options.seconds) for _ in range(count)])


_work: tuple[
    Callable[[], None], int, Barrier, str
]  # of a worker: one step, of how many nets, together with whom, where


def _begin(name: str, way: str, options: Options, barrier: Barrier) -> None:
    """Makes a worker ready to train."""
    global _work
    if way != "plain":
        torch.set_num_threads(1)
        machine.tune_allocator()
    group = group_of(name, options)
    images = random_images(tuple(group.arch["image_shape"])).to(options.device)
    if way == "stacked":
        training = Training(group, {images.name: images}, 0, torch.device(options.device), torch.float32)
        _work = training.step, len(group), barrier, options.device
    else:
        _work = plain_step(group.nets[0], images, options.device, fused=way == "tuned"), 1, barrier, options.device


def _rate(seconds: float) -> float:
    """Steps of one net per second in this process, at a time when all the others measure too."""
    step, count, barrier, device = _work
    step()
    barrier.wait()  # so every worker takes one measurement, and none has the machine to itself
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
        if device != "cpu":
            torch.cuda.synchronize()
    return steps * count / (time.perf_counter() - start)


def plain_step(net: Net, images: Images, device: str, fused: bool) -> Callable[[], None]:
    """One step of an ordinary loop over one net."""
    chosen = net.hyperparameters
    module = nets.build(net.arch, activation=chosen["activation"], dropout=chosen["dropout"]).to(device).train()
    optimizer = TORCH_OPTIMIZERS[chosen["optimizer"]](module.parameters(), chosen["learning_rate"], fused)
    fitted = task(net.arch) == "image_fitting"
    place, value = places(*images.train.shape[2:]).T.contiguous().to(device), images.train[0].flatten(1).T.contiguous()
    order = torch.randperm(len(place) if fitted else net.train_images, device=device)
    size, done = chosen["batch_size"], 0

    def step() -> None:
        nonlocal done
        batch = order[done * size : (done + 1) * size]
        done = (done + 1) % net.steps_per_epoch
        optimizer.zero_grad()
        if fitted:
            loss = F.mse_loss(module(place[batch]), standardise(value[batch].float() / 255))
        else:
            loss = F.cross_entropy(module(standardise(images.train[batch].float() / 255)), images.train_labels[batch])
        loss.backward()
        optimizer.step()

    return step


TORCH_OPTIMIZERS: dict[str, Callable[[Any, float, bool], torch.optim.Optimizer]] = {
    "adam": lambda weights, rate, fused: torch.optim.Adam(weights, rate, fused=fused),
    "adamw": lambda weights, rate, fused: torch.optim.AdamW(weights, rate, fused=fused),
    "rmsprop": lambda weights, rate, fused: torch.optim.RMSprop(weights, rate, foreach=fused),
    "momentum": lambda weights, rate, fused: torch.optim.SGD(weights, rate, momentum=0.95, fused=fused),
    "sgd": lambda weights, rate, fused: torch.optim.SGD(weights, rate, fused=fused),
}


def group_of(name: str, options: Options) -> plan.Group:
    """A stack of nets of one family."""
    arch = {"family": name, "image_shape": [1, 28, 28], "num_classes": 10, **ARCHITECTURES[name]}
    count, kinds = _stack(options), options.activations
    members = []
    for number in range(count):
        hyperparameters = NEUTRAL | {
            "optimizer": options.optimizer,
            "learning_rate": 1e-3,
            "batch_size": options.batch_size,
            "activation": kinds[number * len(kinds) // count],
            "initialisation": "he_normal",
            "augmentation": options.augmentation,
            "dropout": 0.0,
            "weight_decay": 0.0,
        }
        members.append(
            Net(
                net=number,
                lineage=number,
                arch=arch,
                arch_name=nets.arch_name(arch),
                image_set="random",
                hyperparameters=hyperparameters,
                train_images=NUM_IMAGES,
                eval_images=None,
                epochs=1,
                steps_per_epoch=TASKS[task(arch)].samples(NUM_IMAGES, arch["image_shape"]) // options.batch_size,
                learning_rate_decay=1.0,
                snapshots=(1.0,),
            )
        )
    return plan.Group(name, tuple(members))


def random_images(shape: tuple[int, ...]) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (NUM_IMAGES, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (NUM_IMAGES,), generator=generator)
    return Images("random", pixels, labels, pixels[:1], labels[:1], 10)


def tabulated(rates: dict[str, dict[str, float]], options: Options, gemm: float) -> Table:
    columns = [Column("net"), *map(Column, (*WAYS, "over plain", "over tuned", "GFLOP/s", "of sgemm"))]
    rows = []
    for name, each in rates.items():
        group = group_of(name, options)
        flops = 3 * sizes.size(group).flops * options.batch_size * each["stacked"]
        cells = [f"{each[way]:,.0f}" for way in WAYS]
        cells += [f"{each['stacked'] / each[way]:.2f}x" for way in WAYS[:2]]
        cells += [f"{flops / 1e9:,.1f}", f"{flops / gemm:.0%}"]
        rows.append([Cell(group.arch_name), *map(Cell, cells)])
    return Table(columns, rows)


def _stack(options: Options) -> int:
    return options.stack or plan.STACK[options.device.split(":")[0]]


def _processes(options: Options) -> int:
    if options.device != "cpu":
        return options.processes or 1
    return options.processes or machine.num_cores()


if __name__ == "__main__":
    commandline.run(main, Options)
