"""Operators that move no number: views, and what eval mode makes an identity."""

import math
from dataclasses import replace

import torch
from torch import nn

from metanet.arch.axes import Axis, factors_of, fixed, merge
from metanet.arch.record import Call, Value


def identity(call: Call) -> Value:
    """Dropout in eval mode, contiguous, alias, ..."""
    if call.arguments.get("train"):
        raise call.unsupported("it drops values in eval mode too")
    return call.activation("input" if "input" in call.arguments else "self")


def reshape(call: Call) -> Value:
    """aten.flatten, view, reshape, squeeze, unsqueeze: they merge neighbouring axes and split fixed ones.

    Positions that are merged with the channels become taps of the layer that reads them.
    """
    x = call.activation("self")
    value, done = x, []
    for old, new in _groups(x.shape, call.shape):
        merged = [x.axes[k] for k in old]
        place = old.index(x.channel) if x.channel in old else None
        long = [k for k, size in enumerate(new) if size > 1] or [0]
        if len(long) == 1:
            axes = [fixed(1) for _ in new]
            axes[long[0]] = merge(merged)
        elif place is None and all(factor.fixed for factor in factors_of(merged)):
            axes = [fixed(size) for size in new]
        else:
            raise call.unsupported(f"it splits an axis that is not fixed, shape {x.shape} to {call.shape}")
        if place is not None:
            value = replace(_with_taps(call, value, merged, place), channel=len(done) + long[0])
        done.extend(axes)
    return replace(value, axes=tuple(done))


def _with_taps(call: Call, value: Value, merged: list[Axis], place: int) -> Value:
    """The value whose channels, at `place` among the merged axes, have those before or behind them as taps."""
    before = tuple(axis.size for axis in merged[:place])
    behind = tuple(axis.size for axis in merged[place + 1 :])
    if math.prod(before + behind) == 1:
        return value
    if math.prod(before) > 1 and math.prod(behind) > 1:
        raise call.unsupported("it merges positions on both sides of the channels")
    if value.taps:
        raise call.unsupported("it flattens a grid that is flattened already")
    return replace(value, taps=behind if math.prod(behind) > 1 else before, taps_first=math.prod(before) > 1)


def permute(call: Call) -> Value:
    """aten.permute(self, dims) and aten.transpose(self, dim0, dim1): the same axes in another order."""
    x = call.activation("self")
    order = list(range(len(x.axes)))
    if "dims" in call.arguments:
        order = [dim % len(order) for dim in call["dims"]]
    else:
        first, second = call["dim0"], call["dim1"]
        order[first], order[second] = order[second], order[first]
    channel = None if x.channel is None else order.index(x.channel)
    return replace(x, axes=tuple(x.axes[k] for k in order), channel=channel)


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Shortest runs of old axes (their numbers) and of new axes (their sizes) that hold the same values."""
    numbers, sizes = list(range(len(old))), list(new)
    groups: list[tuple[list[int], list[int]]] = []
    while numbers and sizes:
        run = ([numbers.pop(0)], [sizes.pop(0)])
        while (left := math.prod(old[k] for k in run[0])) != (right := math.prod(run[1])):
            run[left > right].append((numbers, sizes)[left > right].pop(0))
        groups.append(run)
    groups[-1][0].extend(numbers)  # axes of size 1 at the end
    groups[-1][1].extend(sizes)
    return groups


RULES = {
    "aten.dropout": identity,
    "aten.feature_dropout": identity,
    "aten.alpha_dropout": identity,
    "aten.contiguous": identity,
    "aten.alias": identity,
    "aten.detach": identity,
    "aten.permute": permute,
    "aten.transpose": permute,
    "aten.flatten": reshape,
    "aten.view": reshape,
    "aten.reshape": reshape,
    "aten.squeeze": reshape,
    "aten.unsqueeze": reshape,
}
OPERATIONS = {}
EXAMPLES = {
    "aten.dropout": ((4, 5), lambda: nn.Dropout(0.5)),
    "aten.feature_dropout": ((4, 5, 5), lambda: nn.Dropout2d(0.5)),
    "aten.alpha_dropout": ((4, 5), lambda: nn.AlphaDropout(0.5)),
    "aten.contiguous": ((4, 5), lambda: lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
    "aten.alias": ((4, 5), lambda: torch.ops.aten.alias),
    "aten.detach": ((4, 5), lambda: torch.detach),
    "aten.permute": ((4, 3, 5), lambda: lambda x: x.permute(0, 2, 3, 1).flatten(1)),
    "aten.transpose": ((4, 5), lambda: lambda x: x.transpose(1, 2).flatten(1)),
    "aten.flatten": ((4, 5, 3), nn.Flatten),
    "aten.view": ((4, 5, 3), lambda: lambda x: x.view(len(x), -1)),
    "aten.reshape": ((4, 6), lambda: lambda x: x.reshape(len(x), 4, 2, 3)),
    "aten.squeeze": ((4, 1), lambda: lambda x: x.squeeze(-1)),
    "aten.unsqueeze": ((4, 5), lambda: lambda x: x.unsqueeze(1).squeeze(1)),
}
