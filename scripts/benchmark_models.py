"""How fast every model reads nets, beside the same model reading them one by one, and the limits of the machine.

    python scripts/benchmark_models.py [device=cuda] [nets=64] [models=[gnn,dmc]] [out=models.md]

The nets are random CNNs and MLPs of four architectures, stacked as in a zoo. A training step is forward, loss and
backward; a fitted model is timed once on `fit`, and on prediction. Takes one to two minutes on two cores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rich.console
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import metanet
from metanet import commandline, machine, runs
from metanet.dataset import Batch, Nets, Schema
from metanet.progress import progress
from metanet.reporting.tables import Cell, Column, Table, print_to, to_markdown
from metanet.targets import Target, mean_loss
from metanet.zoo.nets import arch_name, build

CONFIGS = Path(__file__).parents[1] / "configs" / "model"
CNN: dict[str, Any] = {
    "family": "nws_cnn",
    "filter_size": 3,
    "conv_depth": 3,
    "conv_width": 8,
    "dense_depth": 2,
    "dense_width": 64,
}
MLP: dict[str, Any] = {"family": "mlp", "depth": 3, "width": 64}
ARCHITECTURES: tuple[dict[str, Any], ...] = tuple(
    arch | {"image_shape": [1, 14, 14], "num_classes": 10, "batch_norm": batch_norm}
    for arch, batch_norm in (
        (CNN, True),
        (CNN | {"filter_size": 5, "conv_depth": 5, "conv_width": 4}, False),
        (CNN | {"conv_depth": 4, "dense_depth": 3, "dense_width": 32}, False),
        (MLP, True),
    )
)
TARGETS = (
    Target("optimizer", "classification", ("adam", "momentum", "rmsprop", "sgd")),
    Target("test_accuracy", "regression"),
)
GROUPS = ("", *["nets/s"] * 5, *["per net"] * 3)  # of the table's columns
ALONE = 8  # nets that are read one by one: enough for a rate


@dataclass
class Options:
    nets: int = field(default=64, metadata={"help": "nets in a batch, a quarter of each architecture"})
    models: list[str] | None = field(default=None, metadata={"help": "names in configs/model; all if left out"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    out: str | None = field(default=None, metadata={"help": "a Markdown file for the table"})


@dataclass(frozen=True)
class Speed:
    """Nets per second, and what a training step takes; None where a model has no such step."""

    parameters: int
    train: float | None
    alone: float | None  # the same step, a net at a time
    predict: float
    fit: float | None
    saved: float | None  # bytes kept for backward, per net
    flops: float | None  # of a training step, per net


def main(options: Options) -> dict[str, Speed]:
    """Measures and prints; the speed of every model.

    Raises:
        ValueError: an unknown model, or fewer nets than architectures.
    """
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    chosen = options.models or known
    unknown = sorted(set(chosen) - set(known))
    if unknown or options.nets < len(ARCHITECTURES):
        raise ValueError(
            f"models={','.join(chosen)} nets={options.nets}: expected models among {', '.join(known)} and at least "
            f"{len(ARCHITECTURES)} nets"
        )
    machine.tune_allocator()
    batch = random_nets(options.nets // len(ARCHITECTURES), options.device)
    speeds: dict[str, Speed] = {}
    with progress("benchmark", len(chosen), "models") as advance:
        for name in chosen:
            advance(0, name)
            speeds[name] = speed(name, batch, options.device)
            advance()
    gemm, copy = machine.sgemm_rate(options.device), machine.memcpy_rate(options.device)
    text, table = described(batch, options.device, gemm, copy), tabulated(speeds, gemm)
    console = rich.console.Console()
    console.print(text, highlight=False)
    print_to(console, table, "Models")
    if options.out:
        command = f"python scripts/benchmark_models.py nets={options.nets} device={options.device}"
        command += f" models=[{','.join(options.models)}]" if options.models else ""
        Path(options.out).write_text(f"{text}\n\n{to_markdown(table)}\n`{command}`\n", encoding="utf-8")
        print(f"wrote {options.out}", file=sys.stderr)
    return speeds


def random_nets(count: int, device: str) -> Batch:
    """`count` nets of each architecture with random weights and targets."""
    torch.manual_seed(0)
    batch = []
    for arch in ARCHITECTURES:
        module = build(arch)
        template = metanet.trace(module, torch.randn(2, *arch["image_shape"]))
        state = module.state_dict()
        params = {name: torch.randn(count, *state[name].shape, device=device) for name in template.shapes}
        for name in params:
            if name.endswith("running_var"):
                params[name] = params[name].square() + 0.1
        targets = {
            "optimizer": torch.randint(4, (count,), device=device),
            "test_accuracy": torch.randn(count, device=device),
        }
        rows = torch.arange(count, device=device) + len(batch) * count
        batch.append(Nets(arch_name(arch), template, params, rows, targets))
    return batch


def speed(name: str, batch: Batch, device: str) -> Speed:
    """Everything that is measured of one model."""
    schema = Schema(TARGETS, {nets.arch: nets.template for nets in batch})
    config = OmegaConf.create({"model": OmegaConf.load(CONFIGS / f"{name}.yaml"), "seed": 0})
    model = runs.build(config, schema)
    count = sum(map(len, batch))
    if hasattr(model, "fit"):
        start = time.perf_counter()
        model.fit(batch, batch)
        fit = count / (time.perf_counter() - start)
        parameters = sum(tensor.numel() for tensor in runs.state_of(model).values())
        return Speed(parameters, None, None, predicting(model, batch, device), fit, None, None)
    assert isinstance(model, nn.Module), "what is not fitted is trained"
    model.to(device)
    if hasattr(model, "prepare"):
        model.prepare([batch])  # pyright: ignore[reportCallIssue]
    singles = [[nets.select(torch.tensor([0]))] for nets in batch for _ in range(ALONE // len(batch))]
    alone = machine.seconds_per_call(lambda: [step(model, single) for single in singles], device)
    train = machine.seconds_per_call(lambda: step(model, batch), device)
    with FlopCounterMode(display=False) as counter:
        step(model, batch)
    return Speed(
        sum(parameter.numel() for parameter in model.parameters()),
        count / train,
        len(singles) / alone,
        predicting(model, batch, device),
        None,
        saved_bytes(lambda: step(model, batch)) / count,
        counter.get_total_flops() / count,
    )


def step(model: nn.Module, batch: Batch) -> None:
    """Forward, loss, backward."""
    model.train()
    outputs = model(batch)
    truths = {target.name: torch.cat([nets.targets[target.name] for nets in batch]) for target in TARGETS}
    mean_loss(TARGETS, outputs, truths).backward()
    model.zero_grad(set_to_none=True)


def predicting(model: Any, batch: Batch, device: str) -> float:
    """Nets per second of prediction."""
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        return sum(map(len, batch)) / machine.seconds_per_call(lambda: model(batch), device)


def saved_bytes(work: Callable[[], object]) -> int:
    """Bytes that autograd keeps between forward and backward, parameters included; the same on every device."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(kept.values())


def described(batch: Batch, device: str, gemm: float, copy: float) -> str:
    """What was measured on what: the machine, its limits in FLOP/s and bytes/s, the nets, the columns."""
    weights = sum(tensor.nbytes for nets in batch for tensor in nets.params.values()) / sum(map(len, batch))
    return (
        f"{machine.describe(device)}. Limits in this run: {gemm / 1e9:,.0f} GFLOP/s in sgemm, "
        f"{copy / 1e9:,.1f} GB/s in memcpy. {sum(map(len, batch))} nets of {len(batch)} architectures with "
        f"{weights / 4:,.0f} weights on average, which memcpy alone would pass at {copy / (2 * weights):,.0f} nets/s. "
        f"Train: forward, loss and backward of the whole batch; one by one: the same, a net at a time; fit: once, all "
        f"nets. Per net: floating-point operations of a training step, and what it keeps for backward."
    )


def tabulated(speeds: dict[str, Speed], gemm: float) -> Table:
    names = ("parameters", "train", "one by one", "gain", "predict", "fit", "MFLOP", "of sgemm", "KB kept")
    columns = [Column("model"), *(Column(name, group) for name, group in zip(names, GROUPS, strict=True))]
    rows = []
    for name, each in speeds.items():
        gain = each.train / each.alone if each.train and each.alone else None
        share = each.flops * each.train / gemm if each.flops and each.train else None
        rows.append(
            [
                Cell(name),
                Cell(f"{each.parameters:,}"),
                Cell(_rate(each.train)),
                Cell(_rate(each.alone)),
                Cell("–" if gain is None else f"{gain:.1f}x"),
                Cell(_rate(each.predict)),
                Cell(_rate(each.fit)),
                Cell("–" if each.flops is None else f"{each.flops / 1e6:,.0f}"),
                Cell("–" if share is None else f"{share:.0%}"),
                Cell("–" if each.saved is None else f"{each.saved / 1e3:,.0f}"),
            ]
        )
    return Table(columns, rows)


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


if __name__ == "__main__":
    commandline.run(main, Options)
