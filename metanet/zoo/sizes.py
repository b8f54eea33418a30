"""Sizes: what a plan will take, counted on the architectures without training anything."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from metanet.zoo import nets
from metanet.zoo.plan import Group

# What a step takes beside its products, in FLOPs that could be done meanwhile: fitted to seconds per step of the groups
# of digits_mini on one core (within a factor 1.3 for most). Only for the order of groups and an even progress bar.
PER_IMAGE, PER_NET, PER_STEP = 1.5e5, 7e6, 1.1e8


@dataclass(frozen=True)
class Size:
    """Of one net."""

    parameters: int
    bytes: int  # of its state_dict
    flops: int  # of products and convolutions, for one image forward


def size(group: Group) -> Size:
    """The size of each net of a group."""
    return _size(json.dumps(dict(group.arch)))


@functools.cache
def _size(arch: str) -> Size:
    with torch.device("meta"):
        module = nets.build(json.loads(arch)).eval()
        image = torch.empty(1, *nets.input_shape(json.loads(arch)))
    with FlopCounterMode(display=False) as counter:
        module(image)
    return Size(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        bytes=sum(tensor.nbytes for tensor in module.state_dict().values()),
        flops=counter.get_total_flops(),
    )


def training_cost(group: Group) -> float:
    """What it takes to train a group, forward and backward, in FLOPs. For shares of a plan, not for seconds."""
    per_net = (3 * size(group).flops + PER_IMAGE) * group.batch_size + PER_NET
    return group.steps * (len(group) * per_net + PER_STEP)


def summary(groups: list[Group]) -> str:
    """Nets, groups, parameters, bytes and FLOPs of a plan, a line each."""
    of_nets = sorted((size(group) for group in groups for _ in group.nets), key=lambda size: size.parameters)
    snapshots = sum(len(group) * group.num_snapshots for group in groups)
    on_disk = sum(len(group) * group.num_snapshots * size(group).bytes for group in groups)
    flops = sum(3 * size(group).flops * len(group) * group.steps * group.batch_size for group in groups)
    lines = {
        "nets": f"{len(of_nets):,}",
        "architectures": f"{len({group.arch_name for group in groups}):,}",
        "groups": f"{len(groups):,} of up to {max(len(group) for group in groups)} nets",
        "snapshots": f"{snapshots:,}",
        "parameters": f"{of_nets[0].parameters:,} to {of_nets[-1].parameters:,}, median "
        f"{of_nets[len(of_nets) // 2].parameters:,}",
        "bytes": f"{on_disk:,} of weights",
        "training": f"{sum(len(group) * group.steps for group in groups):,} net-steps, {flops:.3g} FLOPs",
    }
    return "\n".join(f"{name:14s} {text}" for name, text in lines.items())
