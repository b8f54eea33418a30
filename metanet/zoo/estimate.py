"""Estimate: how long a plan takes on this machine, and how much memory, from a few steps of some of its groups.

Of every family some groups are trained for a moment, from the cheapest step to the dearest, by as many processes at
once as will train the zoo, on random images. What a step takes per unit of `sizes.training_cost` is interpolated
between them over the logarithm of that cost; so is what an evaluation takes. Not counted: the start of the processes,
reading images, and writing shards.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier

import numpy as np
import torch

from metanet import machine
from metanet.zoo import families, images, sizes
from metanet.zoo.feed import EVAL_BATCH
from metanet.zoo.fit import Training
from metanet.zoo.images import Images
from metanet.zoo.plan import Group
from metanet.zoo.spec import Spec
from metanet.zoo.way import Way

SAMPLES = 12  # groups, shared out between the families, at least 3 each
SECONDS = 0.3  # of training each


@dataclass(frozen=True)
class Estimate:
    """Of a whole plan."""

    seconds: float
    processes: int
    bytes: int  # of memory in each process; on a GPU, of the GPU's

    def __str__(self) -> str:
        hours, rest = divmod(round(self.seconds), 3600)
        return (
            f"{'time':14s} about {hours}:{rest // 60:02d}:{rest % 60:02d} in {self.processes} processes here\n"
            f"{'memory':14s} about {self.bytes / 1e6:,.0f} MB in each"
        )


@dataclass(frozen=True)
class Measured:
    """Of one group."""

    step: float  # seconds
    evaluation: float  # seconds, of EVAL_BATCH images of either part, or of all pixels


def estimate(spec: Spec, groups: Sequence[Group], device: str, processes: int | None, way: Way) -> Estimate:
    """What the groups will take, on a GPU one after the other. Trains a sample of them: takes about half a minute."""
    sample = _sample(groups)
    of = sample, spec.seed, device, way
    if device == "cpu":
        count = processes or machine.num_cores()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, context, _begin, (context.Barrier(count),)) as pool:
            found = [task.result() for task in [pool.submit(_measure, *of) for _ in range(count)]]
    else:
        count, found = 1, [_measure(*of)]
    measured = {
        group.name: Measured(*(float(np.mean(values)) for values in zip(*each, strict=True)))
        for group, *each in zip(sample, *([(m.step, m.evaluation) for m in one] for one, _ in found), strict=True)
    }
    seconds = [interpolated(group, [other for other in sample if _alike(other, group)], measured) for group in groups]
    pixels = sum(images.SETS[name].num_train + images.SETS[name].num_test for name in spec.images)
    peak = max(peak for _, peak in found) + pixels * math.prod(spec.image_shape)
    if device == "cpu":
        peak += max((_gathered(group) for group in groups if group.stops_early), default=0)
    return Estimate(max(sum(seconds) / count, *seconds), count, peak)


def _gathered(group: Group) -> int:
    """Bytes of all snapshots of nets that stop early: they come together when the last one has ended."""
    return len(group) * group.num_snapshots * sizes.size(group).bytes


def _alike(first: Group, second: Group) -> bool:
    return first.arch["family"] == second.arch["family"]


def _unit(group: Group) -> float:
    return sizes.training_cost(group) / group.steps


def _sample(groups: Sequence[Group]) -> list[Group]:
    """Of every family, groups at equal distances in the order of their cost, the cheapest and the dearest included."""
    by_family: dict[str, list[Group]] = {}
    for group in sorted(groups, key=_unit):
        by_family.setdefault(group.arch["family"], []).append(group)
    count = max(3, SAMPLES // len(by_family))
    chosen: dict[str, Group] = {}
    for members in by_family.values():
        for place in np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int):
            chosen[members[place].name] = members[place]
    return list(chosen.values())


def interpolated(group: Group, sample: Sequence[Group], measured: dict[str, Measured]) -> float:
    """Seconds of all steps and evaluations of a group, from those of the sample of its family."""
    units = [_unit(other) for other in sample]

    def taken(values: list[float]) -> float:
        per_unit = [value / unit for value, unit in zip(values, units, strict=True)]
        return _unit(group) * float(np.interp(math.log(_unit(group)), np.log(units), per_unit))

    step = taken([measured[other.name].step for other in sample])
    # an evaluation is a forward pass of other batches: its time goes with the cost of a step, but for the batch size
    evaluation = taken([measured[other.name].evaluation * other.batch_size for other in sample]) / group.batch_size
    validations = group.epochs * group.valid_images / (2 * EVAL_BATCH)
    return group.steps * step + (group.num_snapshots * _evaluations(group) + validations) * evaluation


def _evaluations(group: Group) -> float:
    """How many times EVAL_BATCH images of either part a net is evaluated on; all pixels count once."""
    if families.task(group.arch) == "image_fitting":
        return 1.0
    most = group.nets[0].eval_images or math.inf
    test = max(images.SETS[net.image_set].num_test for net in group.nets)
    return (min(most, group.train_images) + min(most, test)) / (2 * EVAL_BATCH)


_barrier: Barrier  # of a worker: with whom it measures


def _begin(barrier: Barrier) -> None:
    global _barrier
    torch.set_num_threads(1)
    machine.tune_allocator()
    _barrier = barrier


def _measure(sample: Sequence[Group], seed: int, device: str, way: Way) -> tuple[list[Measured], int]:
    """Each group in turn, at a time when all the other processes measure too; and the most memory that one took."""
    if device == "cpu":
        _barrier.wait()
    with way.on(device):
        return [measured_alone(group, seed, device, way) for group in sample], machine.peak_bytes(device)


def measured_alone(group: Group, seed: int, device: str, way: Way) -> Measured:
    """A step and an evaluation of a group that has the device for itself."""
    count = max(EVAL_BATCH, group.batch_size)
    steps = group.steps_per_epoch if families.task(group.arch) == "image_fitting" else 1
    few = {"train_images": count, "valid_images": 0, "eval_images": EVAL_BATCH, "steps_per_epoch": steps}
    small = [replace(net, **few) for net in group.nets]
    nets = replace(group, nets=tuple(small))
    training = Training(nets, _random_images(nets, count, device), seed, torch.device(device), torch.float32, way)
    step = machine.seconds_per_call(training.step, device, SECONDS)
    evaluation = machine.seconds_per_call(training.snapshot, device, 0.0)
    return Measured(step, evaluation)


def _random_images(group: Group, count: int, device: str) -> dict[str, Images]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *group.arch["image_shape"]), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, group.arch["num_classes"], (count,), generator=generator)
    made = Images("random", pixels, labels, pixels, labels, group.arch["num_classes"]).to(device)
    return {net.image_set: made for net in group.nets}
