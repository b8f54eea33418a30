"""All about training on one GPU in one call of less than ten minutes: is it right, how fast, which way is best.

    python scripts/benchmark_zoo_device.py out=bench [spec=zoo_specs/nws_main.yaml] [tf32=false]
    python scripts/benchmark_zoo_device.py out=bench device=cpu stack=2 samples=2 seconds=0.01 batch_size=4  # rehearsal

1. Right: nets of every family, trained on the device in float64 in every way, against the CPU, which the tests hold
   equal to plain loops.
2. The spec: a sample of its groups from the cheapest to the dearest. Steps of one net per second of a plain loop, of
   the same with a fused optimizer, of stacks with each way to convolve, with and without CUDA graphs; of several groups
   at once on streams of their own; and of what make_zoo.py does, in float32 and in tf32. From these, interpolated over
   the cost of a group, what all of the spec would take, by make_zoo.py and by the plain loop.
3. Families: the same of a full stack of each.
4. Shapes: the time of every convolution that was met, in every way.

Every finding is in OUT/device.json as soon as it is there; OUT/device.md is written at the end. What fails is a finding
too, and the rest goes on.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from benchmark_zoo import ARCHITECTURES, NUM_IMAGES, group_of, plain_step, random_images
from benchmark_zoo import Options as GroupOptions
from benchmark_zoo_device_tables import written

from metanet import commandline, machine
from metanet.zoo import plan, sizes
from metanet.zoo.convolutions import FASTEST, VARIANTS, why_not
from metanet.zoo.estimate import Measured, interpolated, measured_alone
from metanet.zoo.executors import local
from metanet.zoo.fit import Training
from metanet.zoo.plan import Group
from metanet.zoo.spec import load_spec
from metanet.zoo.way import Way, choose

PLAIN = {"plain": False, "plain, fused": True}


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
    tf32: bool = field(
        default=True, metadata={"help": "products and convolutions in tf32, but where both are compared"}
    )
    budget: float = field(default=480.0, metadata={"help": "seconds after which nothing new is begun"})


Found = dict[str, Any]


def main(options: Options) -> Found:
    """Measures, prints, and writes."""
    begun = time.monotonic()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    found: Found = {
        "options": asdict(options),
        "device": machine.describe(options.device),
        "left_out": [],
        "failed": {},
    }
    found["command"] = f"python scripts/benchmark_zoo_device.py {' '.join(sys.argv[1:])}".strip()
    with Way(tf32=options.tf32).on(options.device):
        found["sgemm"] = machine.sgemm_rate(options.device, 1024 if options.device == "cpu" else 8192)
        found["memcpy"] = machine.memcpy_rate(options.device)
        for section, name, job in _jobs(options, found):
            if time.monotonic() - begun > options.budget:
                found["left_out"].append(f"{section} {name}")
                continue
            start = time.monotonic()
            result = tried(f"{section} {name}", job, found)
            if result is not None:
                found.setdefault(section, {})[name] = result
            print(
                f"{time.monotonic() - begun:4.0f} s  {section} {name}: {time.monotonic() - start:.1f} s",
                file=sys.stderr,
            )
            found["shapes"] = shapes()
            (out / "device.json").write_text(json.dumps(found, indent=1))
    text = written(found)
    (out / "device.md").write_text(text)
    print(text)
    return found


def _jobs(options: Options, found: Found) -> list[tuple[str, str, Callable[[], Found]]]:
    """Section, name and work of everything that is measured, the most important first."""
    jobs: list[tuple[str, str, Callable[[], Found]]] = [
        ("right", name, lambda name=name: right(name, options, found)) for name in options.families
    ]
    if options.spec:
        spec = load_spec(options.spec)
        groups = plan.plan(spec.nets(), plan.STACK[options.device.split(":")[0]])
        chosen = sample(groups, options.samples)
        jobs += [("spec", group.name, lambda group=group: of_spec(group, options, found)) for group in chosen]
        jobs += [("whole", spec.name, lambda: whole(groups, chosen, found.get("spec", {})))]
    return [*jobs, *(("families", name, lambda name=name: family(name, options, found)) for name in options.families)]


def tried(what: str, work: Callable[[], Any], found: Found) -> Any:
    """What `work` gives; None, and the error in `found`, if it fails: a machine with a GPU is not had every day."""
    try:
        return work()
    except Exception as error:
        found["failed"][what] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        return None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def ways(options: Options) -> dict[str, Way]:
    """Every way to train a stack, by name."""
    graphs = (False, True) if options.device != "cpu" else (False,)
    return {
        f"{convolution}{', graph' if graph else ''}": Way(convolution, graph, options.tf32)
        for convolution in VARIANTS
        if why_not(convolution, torch.device(options.device)) is None
        for graph in graphs
    }


def right(name: str, options: Options, found: Found) -> Found:
    """The largest difference of any weight after three float64 steps, relative to the largest of its tensor, by way."""
    small = GroupOptions(stack=4, batch_size=8, activations=["relu", "tanh"], device=options.device)

    def state(device: str, way: Way) -> dict[str, torch.Tensor]:
        training = trained(group_of(name, small), device, way, torch.float64)
        for _ in range(3):
            training.step()
        return {key: value.detach().cpu() for key, value in (training.parameters | training.buffers).items()}

    def difference(way: Way) -> float:
        ours = state(options.device, way)
        return max(
            float((ours[key] - value).abs().max() / value.abs().max().clamp(min=1e-9))
            for key, value in expected.items()
        )

    expected = state("cpu", Way())
    return {
        label: tried(f"right {name} {label}", lambda way=way: difference(way), found)
        for label, way in ways(options).items()
    }


def family(name: str, options: Options, found: Found) -> Found:
    """Steps of one net per second by way, and the FLOPs of a step."""
    group = group_of(name, GroupOptions(stack=options.stack, batch_size=options.batch_size, device=options.device))
    return measured(group, options, found)


def of_spec(group: Group, options: Options, found: Found) -> Found:
    """The same of a group of the spec, on random images; with several such groups at once, and as make_zoo.py does it:
    with as many as fill the device.
    """
    group = on_random_images(group)
    rates = measured(group, options, found)
    rates["groups"] = max(1, min(local.AT_ONCE, local.IMAGES // (len(group) * group.batch_size)))
    usual = {"make_zoo": choose(options.device)}
    if options.device != "cpu":
        usual["make_zoo, tf32"] = choose(options.device, tf32=True)
    counts = {f"{count} at once": (count, list(usual.values())[-1 if options.tf32 else 0]) for count in options.streams}
    counts |= {name: (rates["groups"], way) for name, way in usual.items()}
    for name, (count, way) in counts.items():
        work = functools.partial(at_once, group, count, options, way)
        rates[name] = tried(f"spec {group.name} {name}", work, found)
    way = list(usual.values())[-1]
    with way.on(options.device):
        rates["evaluation"] = measured_alone(group, 0, options.device, way).evaluation
    return rates


def on_random_images(group: Group) -> Group:
    """The group with so many random images as there are; a step of it takes as long."""
    steps = max(1, NUM_IMAGES // group.batch_size)
    new: Found = {
        "train_images": steps * group.batch_size,
        "image_set": "random",
        "steps_per_epoch": steps,
        "valid_images": 0,
    }
    return replace(group, nets=tuple(replace(net, **new) for net in group.nets))


def measured(group: Group, options: Options, found: Found) -> Found:
    """Steps of one net per second by way, null for what fails."""
    images = random_images(tuple(group.arch["image_shape"])).to(options.device)
    rates: Found = {"nets": len(group), "flops": 3 * sizes.size(group).flops * group.batch_size}
    for name, fused in PLAIN.items():
        step = plain_step(group.nets[0], images, options.device, fused)
        rates[name] = 1 / machine.seconds_per_call(step, options.device, options.seconds)
    for name, way in ways(options).items():
        work = functools.partial(at_once, group, 1, options, way)
        rates[name] = tried(f"{group.name} {name}", work, found)
    return rates


def at_once(group: Group, count: int, options: Options, way: Way) -> float:
    """Steps of one net per second, of `count` groups that take turns, each on a stream of its own."""
    on_gpu = options.device != "cpu"
    with way.on(options.device):
        trainings = [trained(group, options.device, way) for _ in range(count)]
        streams = [torch.cuda.Stream() if on_gpu else None for _ in trainings]
        if on_gpu:
            torch.cuda.synchronize()  # the streams read what this one has written

        def step() -> None:
            for training, stream in zip(trainings, streams, strict=True):
                with torch.cuda.stream(stream):
                    training.step()

        return count * len(group) / machine.seconds_per_call(step, options.device, options.seconds)


def trained(group: Group, device: str, way: Way, dtype: torch.dtype = torch.float32) -> Training:
    images = random_images(tuple(group.arch["image_shape"])).to(device)
    return Training(group, {"random": images}, 0, torch.device(device), dtype, way)


def sample(groups: Sequence[Group], count: int) -> list[Group]:
    """At equal distances in the order of their cost."""
    ordered = sorted(groups, key=sizes.training_cost)
    places = {round(i * (len(ordered) - 1) / max(1, count - 1)) for i in range(count)}
    return [ordered[place] for place in sorted(places)]


def whole(groups: Sequence[Group], chosen: Sequence[Group], rates: dict[str, Found]) -> Found:
    """Hours that all groups of the spec take, interpolated between those that were measured. The plain loop's count no
    evaluations.
    """
    chosen = [group for group in chosen if group.name in rates]
    if not chosen:
        raise ValueError("none of its groups could be measured")
    hours = {}
    for way in ("plain", *(name for name in rates[chosen[0].name] if name.startswith("make_zoo"))):
        steps = {group.name: Measured(len(group) / rates[group.name][way], 0.0) for group in chosen}
        evaluations = {group.name: Measured(0.0, rates[group.name]["evaluation"]) for group in chosen}
        hours[way] = {
            "steps": sum(interpolated(group, chosen, steps) for group in groups) / 3600,
            "evaluations": sum(interpolated(group, chosen, evaluations) for group in groups) / 3600,
        }
    hours["plain"]["evaluations"] = 0.0
    flops = sum(3 * sizes.size(group).flops * len(group) * group.steps * group.batch_size for group in groups)
    return {"nets": sum(map(len, groups)), "flops": flops, "hours": hours}


def shapes() -> list[Found]:
    """Every convolution that was tried in all ways: seconds of each, null where memory did not suffice."""
    return [
        {
            "case": str(case),
            "flops": case.flops,
            "seconds": {name: value if math.isfinite(value) else None for name, value in seconds.items()},
        }
        for case, seconds in FASTEST.seconds.items()
    ]


if __name__ == "__main__":
    commandline.run(main, Options)
