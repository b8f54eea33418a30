"""Operators that put channels behind each other, or take some of them out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from metanet.arch.axes import Axis, Factor, Segment, concatenate, free
from metanet.arch.record import Call, Value
from metanet.arch.rules.arithmetic import join


def cat(call: Call) -> Value:
    """aten.cat(tensors, dim) along the channels: a new space with the nodes of all, linked node by node."""
    parts: Sequence[Value] = call["tensors"]
    if not all(isinstance(part, Value) and part.space is not None for part in parts):
        raise call.unsupported("it must put activations together, found a parameter or a constant")
    dim = call["dim"] % len(parts[0].axes)
    if any(part.taps for part in parts):
        raise call.unsupported("it joins flattened grids; join them before they are flattened")
    for part in parts:
        call.channels(part, dim)
        for k, axis in enumerate(part.axes):
            if k != dim:
                call.equate(parts[0].axes[k], axis)
    axes = list(parts[0].axes)
    axes[dim] = concatenate([part.axes[dim] for part in parts])
    joined, start = call.write(tuple(axes), dim), 0
    for part in parts:
        call.link("cat", part, joined, start=start)
        start += part.axes[dim].size
    return joined


def split(call: Call) -> list[Value]:
    """aten.split(self, size or sizes, dim), aten.split_with_sizes and aten.chunk(self, chunks, dim)."""
    x = call.activation("self")
    dim, size = call["dim"] % len(x.axes), x.axes[call["dim"]].size
    if "chunks" in call.arguments:
        step = -(-size // call["chunks"])
        sizes = [min(step, size - start) for start in range(0, size, step)]
    else:
        given = call["split_sizes"] if "split_sizes" in call.arguments else call["split_size"]
        sizes = given if isinstance(given, list) else [min(given, size - start) for start in range(0, size, given)]
    return _split(call, x, dim, sizes)


def slice_(call: Call) -> Value:
    """aten.slice(self, dim, start, end, step)."""
    x, step = call.activation("self"), call["step"]
    dim = call["dim"] % len(x.axes)
    size = x.axes[dim].size
    start, end, _ = slice(call["start"], call["end"]).indices(size)
    taken = np.arange(start, end, step)
    if len(taken) == size:
        return x
    channels = _whole_channels(call, x, dim)
    left = np.setdiff1d(np.arange(size), taken)
    part = free(len(taken))
    call.equate(channels, Axis((Segment(part.segments[0].factors, taken), Segment((Factor(len(left)),), left))))
    return _part(call, x, dim, part, start, step)


def glu(call: Call) -> Value:
    """aten.glu(self, dim): one half of the channels times the sigmoid of the other."""
    x = call.activation("self")
    dim = call["dim"] % len(x.axes)
    values, gates = _split(call, x, dim, [x.axes[dim].size // 2] * 2)
    return join(call, "mul", values, call.operate(gates, "sigmoid"))


def _split(call: Call, x: Value, dim: int, sizes: Sequence[int]) -> list[Value]:
    parts = [free(size) for size in sizes]
    call.equate(_whole_channels(call, x, dim), concatenate(parts))
    return [_part(call, x, dim, part, sum(sizes[:number]), 1) for number, part in enumerate(parts)]


def _whole_channels(call: Call, x: Value, dim: int) -> Axis:
    if x.taps:
        raise call.unsupported("it divides a flattened grid; divide it before it is flattened")
    return call.channels(x, dim)


def _part(call: Call, x: Value, dim: int, part: Axis, start: int, step: int) -> Value:
    """A new space with the nodes start, start + step, ... of the old one, whose memory it shares."""
    taken = call.write((*x.axes[:dim], part, *x.axes[dim + 1 :]), dim)
    call.link("slice", x, taken, start=start, step=step)
    return replace(taken, storage=x.storage)


RULES = {
    "aten.cat": cat,
    "aten.split": split,
    "aten.split_with_sizes": split,
    "aten.chunk": split,
    "aten.slice": slice_,
    "aten.glu": glu,
}
OPERATIONS = {}
EXAMPLES = {
    "aten.cat": ((4, 5), lambda: lambda x: torch.cat([x.tanh(), x, x.sigmoid()], 1)),
    "aten.split": ((5, 4), lambda: lambda x: torch.mul(*x.split(2, 1)[:2])),
    "aten.split_with_sizes": ((5, 4), lambda: lambda x: torch.ops.aten.split_with_sizes(x, [2, 3], 1)[1]),
    "aten.chunk": ((6, 4), lambda: lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1]),
    "aten.slice": ((6, 4), lambda: lambda x: x[:, 1::2] + x[:, ::2]),
    "aten.glu": ((6, 4), lambda: nn.GLU(1)),
}
