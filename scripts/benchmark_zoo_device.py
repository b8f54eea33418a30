"""All about training on one GPU in one call of less than ten minutes: is it right, how fast, which way is best.

    python scripts/benchmark_zoo_device.py out=bench [spec=zoo_specs/nws_main.yaml] [tf32=false]
    python scripts/benchmark_zoo_device.py out=bench device=cpu stack=2 samples=2 seconds=0.01 batch_size=4  # rehearsal

1. Right: nets of every family, trained on the device in float64 in every way, against the CPU, which the tests hold
   equal to plain loops.
2. Families: steps of one net per second, of a plain loop, of the same with a fused optimizer, and of stacks with each
   way to convolve, with and without CUDA graphs.
3. The spec: a sample of its groups from the cheapest to the dearest, against the plain loop; several at once on streams
   of their own, where one does not fill the device; and what the whole spec would take.

Every finding is in OUT/device.json as soon as it is there; OUT/device.md is written at the end.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from benchmark_zoo import ARCHITECTURES, group_of, plain_step, random_images
from benchmark_zoo import Options as GroupOptions

from metanet import commandline, machine
from metanet.reporting.tables import Cell, Column, Table, to_markdown
from metanet.zoo import plan, sizes
from metanet.zoo.convolutions import VARIANTS, why_not
from metanet.zoo.estimate import estimate
from metanet.zoo.fit import Training
from metanet.zoo.plan import Group
from metanet.zoo.spec import load_spec
from metanet.zoo.way import Way

PLAIN = ("plain", "fused")


@dataclass
class Options:
    out: str = field(default="bench", metadata={"help": "a folder for device.md and device.json"})
    device: str = field(default="cuda", metadata={"help": "cuda or cpu"})
    families: list[str] = field(default_factory=lambda: list(ARCHITECTURES), metadata={"help": "of nets"})
    spec: str | None = field(default="zoo_specs/nws_main.yaml", metadata={"help": "whose groups are measured; or null"})
    stack: int = field(default=512, metadata={"help": "nets of a family trained together"})
    batch_size: int = field(default=64, metadata={"help": "images per net and step, of the families"})
    samples: int = field(default=6, metadata={"help": "groups of the spec"})
    streams: list[int] = field(default_factory=lambda: [1, 4, 16], metadata={"help": "so many groups at once"})
    seconds: float = field(default=0.5, metadata={"help": "of each measurement"})
    tf32: bool = field(default=True, metadata={"help": "products and convolutions in tf32"})
    budget: float = field(default=480.0, metadata={"help": "seconds after which nothing new is begun"})


Found = dict[str, Any]


def main(options: Options) -> Found:
    """Measures, prints, and writes."""
    begun = time.monotonic()
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = options.tf32
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    found: Found = {"options": asdict(options), "device": machine.describe(options.device), "left_out": []}
    found["sgemm"], found["memcpy"] = machine.sgemm_rate(options.device, 4096), machine.memcpy_rate(options.device)
    jobs: list[tuple[str, str, Callable[[], Found]]] = [
        *(("right", name, lambda name=name: right(name, options)) for name in options.families),
        *(("families", name, lambda name=name: family(name, options)) for name in options.families),
    ]
    if options.spec:
        spec = load_spec(options.spec)
        groups = plan.plan(spec.nets(), plan.STACK[options.device.split(":")[0]])
        chosen = sample(groups, options.samples)
        jobs += [("spec", group.name, lambda group=group: of_spec(group, options)) for group in chosen]
        jobs += [("whole", spec.name, lambda: {"seconds": estimate(spec, groups, options.device, 1, Way()).seconds})]
    for section, name, job in jobs:
        if time.monotonic() - begun > options.budget:
            found["left_out"].append(f"{section} {name}")
            continue
        start = time.monotonic()
        found.setdefault(section, {})[name] = job()
        print(f"{time.monotonic() - begun:4.0f} s  {section} {name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
        (out / "device.json").write_text(json.dumps(found, indent=1))
    text = written(found)
    (out / "device.md").write_text(text)
    print(text)
    return found


def ways(device: str) -> dict[str, Found]:
    """The arguments of `Training` for every way to train a stack, by name."""
    graphs = (False, True) if device.startswith("cuda") else (False,)
    return {
        f"{convolution}{', graph' if graph else ''}": {"convolution": convolution, "graphs": graph}
        for convolution in VARIANTS
        if why_not(convolution, torch.device(device)) is None
        for graph in graphs
    }


def right(name: str, options: Options) -> Found:
    """The largest difference of any weight after three float64 steps, relative to the largest of its tensor, by way."""
    small = GroupOptions(stack=4, batch_size=8, activations=["relu", "tanh"], device=options.device)

    def state(device: str, **way: Any) -> dict[str, torch.Tensor]:
        training = trained(group_of(name, small), device, torch.float64, **way)
        for _ in range(3):
            training.step()
        return {key: value.detach().cpu() for key, value in (training.parameters | training.buffers).items()}

    expected = state("cpu")
    return {
        way: max(
            float((value - expected[key]).abs().max() / expected[key].abs().max().clamp(min=1e-9))
            for key, value in state(options.device, **arguments).items()
        )
        for way, arguments in ways(options.device).items()
    }


def family(name: str, options: Options) -> Found:
    """Steps of one net per second by way, and the FLOPs of a step."""
    group = group_of(name, GroupOptions(stack=options.stack, batch_size=options.batch_size, device=options.device))
    return measured(group, options)


def of_spec(group: Group, options: Options) -> Found:
    """The same of a group of the spec, on random images; and with several such groups at once."""
    shape = tuple(group.arch["image_shape"])
    images = len(random_images(shape).train)
    steps = max(1, images // group.batch_size)
    nets = [replace(net, train_images=images, image_set="random", steps_per_epoch=steps) for net in group.nets]
    found = measured(replace(group, nets=tuple(nets)), options)
    best = max(ways(options.device), key=lambda way: found[way] or 0.0)
    for count in options.streams:
        found[f"{count} at once"] = at_once(
            replace(group, nets=tuple(nets)), count, options, ways(options.device)[best]
        )
    return found


def measured(group: Group, options: Options) -> Found:
    """Steps of one net per second by way, null where the memory does not suffice."""
    images = random_images(tuple(group.arch["image_shape"])).to(options.device)
    found: Found = {"nets": len(group), "flops": 3 * sizes.size(group).flops * group.batch_size}
    for way in PLAIN:
        found[way] = rate(plain_step(group.nets[0], images, options.device, way == "fused"), 1, options)
    for way, arguments in ways(options.device).items():
        found[way] = at_once(group, 1, options, arguments)
    return found


def at_once(group: Group, count: int, options: Options, arguments: Found) -> float | None:
    """Steps of one net per second, of `count` groups that take turns, each on a stream of its own."""
    try:
        trainings = [trained(group, options.device, torch.float32, **arguments) for _ in range(count)]
        on_gpu = options.device.startswith("cuda")
        streams = [torch.cuda.stream(torch.cuda.Stream()) if on_gpu else contextlib.nullcontext() for _ in trainings]

        def step() -> None:
            for training, stream in zip(trainings, streams, strict=True):
                with stream:
                    training.step()

        return rate(step, count * len(group), options)
    except torch.OutOfMemoryError:
        return None
    finally:
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()


def rate(step: Callable[[], object], nets: int, options: Options) -> float:
    """Of steps that train so many nets."""
    return nets / machine.seconds_per_call(step, options.device, options.seconds)


def trained(group: Group, device: str, dtype: torch.dtype, **way: Any) -> Training:
    images = random_images(tuple(group.arch["image_shape"])).to(device)
    return Training(group, {"random": images}, 0, torch.device(device), dtype, Way(**way))


def sample(groups: Sequence[Group], count: int) -> list[Group]:
    """At equal distances in the order of their cost."""
    ordered = sorted(groups, key=sizes.training_cost)
    places = {round(i * (len(ordered) - 1) / max(1, count - 1)) for i in range(count)}
    return [ordered[place] for place in sorted(places)]


def written(found: Found) -> str:
    """The tables."""
    sgemm = found["sgemm"]
    lines = [
        f"{found['device']}. Limits in this run: {sgemm / 1e12:,.1f} TFLOP/s in sgemm"
        f"{' (tf32)' if found['options']['tf32'] else ''}, {found['memcpy'] / 1e9:,.0f} GB/s in memcpy.",
        f"`python scripts/benchmark_zoo_device.py {' '.join(sys.argv[1:])}`",
    ]
    if found["left_out"]:
        lines.append("Not measured, for want of time: " + ", ".join(found["left_out"]))
    for section, title in (
        ("right", "Largest relative difference from the CPU after three steps in float64"),
        ("families", "Steps of one net per second, by family"),
        ("spec", "Steps of one net per second, by group of the spec"),
    ):
        if section in found:
            lines += [f"## {title}", to_markdown(tabulated(found[section], sgemm))]
    gains = [best(each) / each["plain"] for each in found.get("spec", {}).values()]
    if gains:
        lines.append(
            f"Groups of the spec train {min(gains):.1f} to {max(gains):.1f} times as fast as the plain loop, "
            f"{statistics.median(gains):.1f} in the median."
        )
    for name, whole in found.get("whole", {}).items():
        lines.append(f"All of {name}: {whole['seconds'] / 3600:.1f} hours, one group at a time, grouped, no graphs.")
    return "\n\n".join(lines) + "\n"


def best(each: Found) -> float:
    """The highest rate of a stack."""
    return max(value or 0.0 for way, value in each.items() if way not in (*PLAIN, "nets", "flops"))


def tabulated(section: dict[str, Found], sgemm: float) -> Table:
    """A row per family or group; rates with the gain and the TFLOP/s of the best, or differences."""
    names = list(next(iter(section.values())))
    rates = "flops" in names
    shown = [name for name in names if name != "flops"]
    columns = [
        Column("net"),
        *map(Column, shown),
        *(map(Column, ("over plain", "TFLOP/s", "of sgemm")) if rates else ()),
    ]
    rows = []
    for name, each in section.items():
        cells = ["–" if each[key] is None else f"{each[key]:,.0f}" if rates else f"{each[key]:.1e}" for key in shown]
        if rates:
            flops = each["flops"] * best(each)
            cells += [f"{best(each) / each['plain']:.1f}x", f"{flops / 1e12:.2f}", f"{flops / sgemm:.0%}"]
        rows.append([Cell(name), *map(Cell, cells)])
    return Table(columns, rows)


if __name__ == "__main__":
    commandline.run(main, Options)
