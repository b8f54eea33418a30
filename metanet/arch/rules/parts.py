"""Operators that put values behind each other, or take some of their places out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from metanet.arch import layout
from metanet.arch.axes import Axis, concatenate, fixed, free, renumber
from metanet.arch.call import Call
from metanet.arch.layout import REPEAT, Dim, Misaligned
from metanet.arch.rules.arithmetic import join
from metanet.arch.value import Value, draft_of


def split(call: Call) -> list[Value | Tensor]:
    """aten.split(self, size or sizes, dim), aten.split_with_sizes and aten.chunk(self, chunks, dim)."""
    x = call["self"]
    dim, size = call["dim"] % len(x.axes), x.shape[call["dim"]]
    if "chunks" in call.arguments:
        step = -(-size // call["chunks"])
        sizes = [min(step, size - start) for start in range(0, size, step)]
    else:
        given = call["split_sizes"] if "split_sizes" in call.arguments else call["split_size"]
        sizes = given if isinstance(given, list) else [min(given, size - start) for start in range(0, size, given)]
    return [_some(call, x, dim, sum(sizes[:number]), 1, part) for number, part in enumerate(sizes)]


def split_apart(call: Call) -> list[Value | Tensor]:
    """aten.unsafe_split, unsafe_chunk: parts with memory of their own."""
    return [replace(part, storage=None) if isinstance(part, Value) else part for part in split(call)]


def slice_(call: Call) -> Value | Tensor:
    """aten.slice(self, dim, start, end, step)."""
    x, step = call["self"], call["step"]
    dim = call["dim"] % len(x.axes)
    start, end, _ = slice(call["start"], call["end"]).indices(x.shape[dim])
    return _some(call, x, dim, start, step, len(range(start, end, step)))


def narrow(call: Call) -> Value | Tensor:
    """aten.narrow(self, dim, start, length)."""
    x = call["self"]
    dim = call["dim"] % len(x.axes)
    return _some(call, x, dim, call["start"] % x.shape[dim], 1, call["length"])


def select_(call: Call) -> Value:
    """aten.select(self, dim, index): one place of an axis, which goes."""
    x = call["self"]
    dim = call["dim"] % len(x.axes)
    one = taken(call, x, dim, call["index"] % x.shape[dim], 1, 1)
    return replace(one, axes=one.axes[:dim] + one.axes[dim + 1 :])


def unbind(call: Call) -> list[Value]:
    """aten.unbind(self, dim): every place of an axis."""
    x = call["self"]
    dim = call["dim"] % len(x.axes)
    parts = [taken(call, x, dim, index, 1, 1) for index in range(x.shape[dim])]
    return [replace(part, axes=part.axes[:dim] + part.axes[dim + 1 :]) for part in parts]


def flip(call: Call) -> Value:
    """aten.flip(self, dims): the places of axes in reverse order."""
    return reversed_along(call.activation("self"), call["dims"])


def reversed_along(x: Value, dims: Sequence[int]) -> Value:
    """The places of axes in reverse order: a view of the same space."""
    for given in dims:
        dim, starts = given % len(x.axes), list(x.starts)
        walks = [one for one in x.axes[dim] if one.axis != REPEAT]
        for one in walks:
            starts[one.axis] += one.stride * (one.size - 1)
        row = tuple(Dim(one.axis, -one.stride, one.size) if one in walks else one for one in x.axes[dim])
        x = replace(x, axes=(*x.axes[:dim], row, *x.axes[dim + 1 :]), starts=tuple(starts))
    return x


def _some(call: Call, x: Value, dim: int, first: int, step: int, count: int) -> Value | Tensor:
    """The places first, first + step, ... of axis `dim`, or a tensor of size 0."""
    return taken(call, x, dim, first, step, count) if count else torch.zeros([*x.shape[:dim], 0, *x.shape[dim + 1 :]])


def taken(call: Call, x: Value, dim: int, first: int, step: int, count: int) -> Value:
    """The places first, first + step, ... of axis `dim`: a view of the same space."""
    try:
        row, starts = layout.take(x.axes[dim], x.starts, first, step, count)
    except Misaligned:
        x = call.settled(call.active(x))
        row, starts = layout.take(x.axes[dim], x.starts, first, step, count)
    return replace(x, axes=(*x.axes[:dim], row, *x.axes[dim + 1 :]), starts=starts)


def glu(call: Call) -> Value:
    """aten.glu(self, dim): one half of the channels times the sigmoid of the other."""
    x = call.activation("self")
    dim = call["dim"] % len(x.axes)
    half = x.shape[dim] // 2
    values, gates = (replace(taken(call, x, dim, start, 1, half), shared=True) for start in (0, half))
    return join(call, "mul", values, call.operate(gates, "sigmoid"))


def cat(call: Call) -> Value:
    """aten.cat(tensors, dim): a new space, linked from the parts."""
    return cat_of(call, call["tensors"], call["dim"])


def stack(call: Call) -> Value:
    """aten.stack(tensors, dim): along a new axis."""
    rank = len(call.shape)
    dim = call["dim"] % rank
    return cat_of(
        call,
        [
            one.unsqueeze(dim) if isinstance(one, Tensor) else replace(one, axes=(*one.axes[:dim], (), *one.axes[dim:]))
            for one in call["tensors"]
        ],
        dim,
    )


def cat_of(call: Call, tensors: Sequence[Value | Tensor], dim: int) -> Value:
    """The values behind each other along `dim`: the nodes of all, or the positions of all."""
    dim %= len(tensors[0].shape)
    shape = list(tensors[0].shape)
    shape[dim] = sum(one.shape[dim] for one in tensors if 0 not in one.shape)
    parts = [call.active(one) if isinstance(one, Value) else one for one in tensors if 0 not in one.shape]
    known = [one for one in parts if isinstance(one, Value) and draft_of(one).undecided is None]
    carrying = sorted({k for one in known for k in range(len(one.axes)) if one.carries(k)})
    for one in parts:
        if isinstance(one, Value):
            call.decide(one, [d.axis for k in carrying for d in one.axes[k]] if known else _guessed(one, dim))
    carrying = {k for one in parts if isinstance(one, Value) for k in range(len(one.axes)) if one.carries(k)}
    parts = [_apart(call, one, dim, dim in carrying) for one in parts]
    values = [one for one in parts if isinstance(one, Value)]
    carrying = sorted({k for one in values for k in range(len(one.axes)) if one.carries(k)})
    values = [call.settled(_beside(call, one, [k for k in carrying if k != dim])) for one in values]
    join = _nodes_joined if dim in carrying else _stacked
    return join(call, shape, parts, values, dim, carrying)


def _apart(call: Call, one: Value | Tensor, dim: int, among_nodes: bool) -> Value | Tensor:
    """Positions along `dim` that stand among the nodes of this or another part become nodes."""
    mixed = isinstance(one, Value) and among_nodes and any(not one.is_node(d) for d in one.axes[dim])
    return call.flattened(one, dim) if isinstance(one, Value) and mixed else one


def _beside(call: Call, one: Value, carrying: Sequence[int]) -> Value:
    """The part, whose positions are nodes where another part has nodes."""
    mixed = any(not one.is_node(dim) for k in carrying for dim in one.axes[k])
    return call.turned(one, [k for k in range(len(one.axes)) if k in carrying or one.carries(k)]) if mixed else one


def _guessed(one: Value, dim: int) -> list[int]:
    """Of parts of which nothing is known: what they are joined along are channels, unless it is the samples."""
    return [d.axis for d in one.axes[dim]] if dim else []


def _nodes_joined(
    call: Call,
    shape: Sequence[int],
    parts: Sequence[Value | Tensor],
    values: Sequence[Value],
    dim: int,
    carrying: Sequence[int],
) -> Value:
    """Channels behind each other: the nodes of all parts. A constant part has nodes that nothing is linked to."""
    sizes = [shape[k] for k in carrying]
    place = np.arange(int(np.prod(sizes))).reshape(sizes)
    along, start, known = carrying.index(dim), 0, iter(values)
    pieces: list[tuple[Value, np.ndarray]] = []
    types: list[Axis] = []
    for part in parts:
        one = part if isinstance(part, Tensor) else next(known)
        where = np.take(place, range(start, start + one.shape[dim]), axis=along)
        start += one.shape[dim]
        types.append(_type(one, where))
        pieces.append((call.constant(one) if isinstance(one, Tensor) else one, where.reshape(-1)))
    joined = call.written(
        renumber(concatenate(types), np.concatenate([where for _, where in pieces])), shape, tuple(carrying)
    )
    for one, where in pieces:
        nodes = _numbers(one, carrying) if one.nodes else np.zeros(len(where), dtype=np.int64)
        call.link("cat", one, joined, nodes=nodes, targets=_targets(where, place.size))
    return joined


def _type(one: Value | Tensor, where: np.ndarray) -> Axis:
    if isinstance(one, Tensor):
        uniform = bool((one == one.reshape(-1)[0]).all())
        return free(where.size) if uniform else fixed(where.size)
    return draft_of(one).type


def _numbers(one: Value, carrying: Sequence[int]) -> np.ndarray:
    dims = [dim for k in carrying for dim in one.axes[k]]
    return one.node_numbers(dims, [dim.size for dim in dims])


def _targets(where: np.ndarray, size: int) -> tuple[int, ...]:
    return () if len(where) == size and (where == np.arange(size)).all() else tuple(where.tolist())


def _stacked(
    call: Call,
    shape: Sequence[int],
    parts: Sequence[Value | Tensor],
    values: Sequence[Value],
    dim: int,
    carrying: Sequence[int],
) -> Value:
    """Positions behind each other: the same nodes, each of which reads those of every part."""
    for one in values[1:]:
        call.equate(draft_of(values[0]).type, draft_of(one).type)
    known = iter(values)
    sources = [call.constant(part) if isinstance(part, Tensor) else next(known) for part in parts]
    joined, start = call.written(draft_of(values[0]).type, shape, tuple(carrying)), 0
    for part, one in zip(parts, sources, strict=True):
        size = part.shape[dim]
        zeros = np.zeros(draft_of(joined).type.size, dtype=np.int64) if isinstance(part, Tensor) else None
        if isinstance(part, Tensor) and one.shape and any(one.shape[k] > 1 for k in carrying if k < len(one.shape)):
            call.pin(draft_of(joined).type)
        call.link("stack", one, joined, nodes=zeros, attributes={"places": f"{dim}:{start}:{size}"})
        start += size
    return joined


RULES = {
    "aten.cat": cat,
    "aten.stack": stack,
    "aten.split": split,
    "aten.split_with_sizes": split,
    "aten.chunk": split,
    **dict.fromkeys(("aten.unsafe_split", "aten.unsafe_chunk", "aten.unsafe_split_with_sizes"), split_apart),
    "aten.unbind": unbind,
    "aten.slice": slice_,
    "aten.narrow": narrow,
    "aten.select": select_,
    "aten.flip": flip,
    "aten.glu": glu,
}
OPERATIONS: dict[str, tuple[str, ...]] = {}
COPIES = ("cat",)
LINKS = ("cat", "stack")
EXAMPLES = {
    "aten.cat": ((4, 5), lambda: lambda x: torch.cat([x.tanh(), x, torch.zeros(2, 1, 5), x.sigmoid()], 1)),
    "aten.stack": ((4, 5), lambda: lambda x: torch.stack([x.tanh(), x], 2)[:, :, 1]),
    "aten.split": ((5, 4), lambda: lambda x: torch.mul(*x.split(2, 1)[:2])),
    "aten.split_with_sizes": ((5, 4), lambda: lambda x: torch.ops.aten.split_with_sizes(x, [2, 3], 1)[1]),
    "aten.chunk": ((6, 4), lambda: lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1]),
    "aten.unsafe_chunk": ((6, 4), lambda: lambda x: x.unsafe_chunk(2, 1)[0] * x.unsafe_chunk(2, 1)[1]),
    "aten.unsafe_split": ((6, 4), lambda: lambda x: x.unsafe_split(3, 1)[0].mul_(2) + x[:, 3:]),
    "aten.unsafe_split_with_sizes": ((5, 4), lambda: lambda x: x.unsafe_split_with_sizes([2, 3], 1)[1]),
    "aten.unbind": ((4, 3), lambda: lambda x: x.unbind(2)[0] * x.unbind(2)[2]),
    "aten.slice": ((6, 4), lambda: lambda x: x[:, 1::2] + x[:, ::2]),
    "aten.narrow": ((4, 5), lambda: lambda x: x.narrow(2, 1, 3)),
    "aten.select": ((4, 5), lambda: lambda x: x[:, :, 2]),
    "aten.flip": ((4, 5), lambda: lambda x: x.flip(2) * 2),
    "aten.glu": ((6, 4), lambda: nn.GLU(1)),
}
