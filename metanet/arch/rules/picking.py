"""Places that numbers choose: of the code, or computed from the input (pooling at a word, mixtures of experts).

What is read is linked to what it becomes by "picked" (or "scattered", "added", where it is written), the numbers that
choose by "place", one kind for each axis that they choose on. Channels on such an axis are fixed positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.rules.embedding import chosen, rows
from metanet.arch.rules.parts import taken
from metanet.arch.rules.ranking import laid
from metanet.arch.value import Entry, Value

PLACES = ("place", "second_place", "third_place")
LETTERS, NEW = "abcdefgh", "pqrstuvw"
Some = Value | Tensor


def index(call: Call) -> Value | Tensor:
    """aten.index(self, indices): numbers of places of some axes, which broadcast; None for the other axes."""
    given = {dim: one for dim, one in enumerate(call["indices"]) if one is not None}
    dims, numbers = list(given), list(given.values())
    if call.dtypes.get("indices") == torch.bool and not all(isinstance(one, Tensor) for one in numbers):
        raise call.unsupported("a mask that the input computes chooses, so the output has no fixed size")
    if len(given) == 1 and isinstance(numbers[0], Tensor):
        one = numbers[0]
        return chosen(call, call["self"], dims[0], one.nonzero()[:, 0] if one.dtype == torch.bool else one)
    if any(isinstance(one, Tensor) and one.dtype == torch.bool for one in numbers) or len(given) > len(PLACES):
        raise call.unsupported(f"there is a rule for numbers of places on at most {len(PLACES)} axes only")
    x = call["self"]
    if isinstance(x, Value) and isinstance(x.home, Entry) and dims == [0] and len(x.axes) == 2:
        return rows(call, x, call.active(numbers[0]))
    return picked(call, x, dims, numbers)


def picked(call: Call, x: Some, dims: Sequence[int], numbers: Sequence[Some]) -> Value:
    """The places of x that `numbers` choose on the axes `dims`, as numpy's indexing does."""
    count = max(len(one.shape) for one in numbers)
    new, own = NEW[:count], list(LETTERS[: len(x.shape)])
    sizes = torch.broadcast_shapes(*(tuple(one.shape) for one in numbers))
    operands: list[Some] = []
    names, kinds = [], []
    for dim, one, kind in zip(dims, numbers, PLACES, strict=False):
        along = _counts(one, sizes, x.shape[dim])
        if along is not None and new[along] not in own:  # place k for place k
            own[dim] = new[along]
        else:
            operands.append(one)
            names.append(new[count - len(one.shape) :])
            kinds.append(kind)
    rest = [letter for dim, letter in enumerate(own) if dim not in dims]
    first = dims[0] if list(dims) == list(range(dims[0], dims[0] + len(dims))) else 0
    out = "".join(rest[:first]) + new + "".join(rest[first:])
    return _combined(
        call, "picked", x, [own.index(name) for name in own if name not in out], own, operands, names, kinds, out
    )


def diagonal(call: Call) -> Value:
    """aten.diagonal(self, offset, dim1, dim2): places that are as far on one axis as on another, as the last axis."""
    return diagonal_of(call, call["self"], call["dim1"], call["dim2"], call["offset"])


def diagonal_of(call: Call, x: Value, one: int, other: int, offset: int = 0) -> Value:
    """The places at (i, i + offset) of two axes, as the last axis."""
    dims = [one % len(x.shape), other % len(x.shape)]
    starts = [max(-offset, 0), max(offset, 0)]
    count = min(x.shape[dim] - start for dim, start in zip(dims, starts, strict=True))
    order = sorted((0, 1), key=dims.__getitem__)
    places = [torch.arange(count) + start for start in starts]
    y = picked(call, x, [dims[k] for k in order], [places[k] for k in order])
    new = min(dims) if abs(dims[0] - dims[1]) == 1 else 0
    return replace(y, axes=(*y.axes[:new], *y.axes[new + 1 :], y.axes[new]))


def _counts(one: Some, sizes: Sequence[int], size: int) -> int | None:
    """The axis of the broadcast numbers along which they are 0, 1, ..., size - 1, if there is one."""
    if not isinstance(one, Tensor) or one.numel() != size or size == 1 or size not in one.shape:
        return None
    axis = len(sizes) - one.ndim + list(one.shape).index(size)
    return axis if torch.equal(one.reshape(-1), torch.arange(size)) and sizes[axis] == size else None


def _combined(
    call: Call,
    kind: str,
    x: Some,
    summed: Sequence[int],
    own: Sequence[str],
    operands: Sequence[Some],
    names: Sequence[str],
    kinds: Sequence[str],
    out: str,
) -> Value:
    """`combine` of what is read, without channels on the axes `summed`, and of the numbers that choose there."""
    if isinstance(x, Value):
        nodes = [k for k in range(len(x.axes)) if k not in summed] if isinstance(x.home, Entry) else []
        x = call.active(x)
        call.decide(x, [dim.axis for k in nodes for dim in x.axes[k]])
        x = laid(call, x, summed)
    for one in operands:
        if isinstance(one, Value):
            call.decide(call.active(one), [])
    return combine(call, [kind, *kinds], [x, *operands], ["".join(own), *names], out)


def index_select(call: Call) -> Value | Tensor:
    """aten.index_select(self, dim, index)."""
    dim = call["dim"] % len(call["self"].shape)
    if isinstance(call["index"], Tensor):
        return chosen(call, call["self"], dim, call["index"])
    return picked(call, call["self"], [dim], [call["index"]])


def gather(call: Call) -> Value | Tensor:
    """aten.gather(self, dim, index): of every line along an axis the places that the index holds there."""
    x, places, rank = call["self"], call["index"], len(call.shape)
    if isinstance(x, Tensor) and bool((x == x.reshape(-1)[0]).all()):
        return torch.full(call.shape, x.reshape(-1)[0].item(), dtype=x.dtype)
    dim = call["dim"] % rank
    for axis in range(rank):
        if axis != dim and x.shape[axis] != call.shape[axis]:
            x = taken(call, call.active(x), axis, 0, 1, call.shape[axis])
    own, out = LETTERS[:rank], LETTERS[:dim] + NEW[0] + LETTERS[dim + 1 : rank]
    return _combined(call, "picked", x, [dim], own, [places], [out], [PLACES[0]], out)


def _scatter(kind: str) -> Rule:
    def scatter(call: Call) -> Value:
        """aten.scatter(self, dim, index, src or value), aten.scatter_add: the base, with numbers put in, or added."""
        base, places, rank = call["self"], call["index"], len(call.shape)
        if call.arguments.get("reduce") is not None or not len(places.shape):
            raise call.unsupported("there is no rule for its reduce")
        source = call["src"] if "src" in call.arguments else torch.full(places.shape, float(call["value"]))
        dim = call["dim"] % rank
        for axis in range(rank):
            if isinstance(source, Value) and source.shape[axis] != places.shape[axis]:
                source = taken(call, source, axis, 0, 1, places.shape[axis])
            if axis != dim and places.shape[axis] != call.shape[axis]:
                raise call.unsupported("there is a rule for numbers of places for every line of the base only")
        own = LETTERS[:dim] + NEW[0] + LETTERS[dim + 1 : rank]
        return written(call, kind, base, source, dim, places, own, own)

    return scatter


def scatter_reduce(call: Call) -> Value:
    """aten.scatter_reduce(self, dim, index, src, reduce, include_self): a function of what comes to one place."""
    y = _scatter("added")(replace(call, arguments={**call.arguments, "reduce": None}))
    return call.operate(call.active(y), "function", table=f"scatter_reduce {call['reduce']} {call['include_self']}")


def index_add(call: Call) -> Value:
    """aten.index_add(self, dim, index, source, alpha)."""
    if call["alpha"] != 1:
        raise call.unsupported("there is a rule for alpha = 1 only")
    dim, rank = call["dim"] % len(call.shape), len(call.shape)
    own = LETTERS[:dim] + NEW[0] + LETTERS[dim + 1 : rank]
    return written(call, "added", call["self"], call["source"], dim, call["index"], own, NEW[0])


def written(call: Call, kind: str, base: Some, source: Some, dim: int, places: Some, own: str, letters: str) -> Value:
    """The base, into whose places along `dim` the source is written; `own` names its axes, `letters` theirs."""
    out = LETTERS[: len(call.shape)]
    base = laid(call, call.active(base), [dim]) if isinstance(base, Value) else base
    slots = torch.arange(call.shape[dim])
    if isinstance(source, Tensor) and isinstance(base, Value) and not isinstance(places, Value):
        source = call.active(source)
    operands, names = [places, slots, base], [letters, out[dim], out]
    return _combined(call, kind, source, [dim], own, operands, names, [PLACES[0], "slot", "base"], out)


class _Largest(nn.Module):
    """Of every sample the place that has the largest mean."""

    def forward(self, x: Tensor) -> Tensor:
        largest = x.mean(1).argmax(1)
        return x[torch.arange(len(x)), :, largest][:, :, None] + x.index_select(2, largest)


def _gathered(x: Tensor) -> Tensor:
    order = x.mean(1, keepdim=True).argsort(2)
    return x * x.gather(2, order.expand_as(x))


def _scattered(x: Tensor) -> Tensor:
    order = x.mean(1, keepdim=True).argsort(2).expand_as(x)
    return x.scatter(2, order, 2 * x) + torch.zeros_like(x).scatter_add(2, order, x)


RULES: dict[str, Rule] = {
    "aten.index": index,
    "aten.index_select": index_select,
    "aten.diagonal": diagonal,
    "aten.gather": gather,
    "aten.scatter": _scatter("scattered"),
    "aten.scatter_add": _scatter("added"),
    "aten.scatter_reduce": scatter_reduce,
    "aten.index_add": index_add,
}
OPERATIONS: dict[str, tuple[str, ...]] = {}
LINKS = ("picked", *PLACES, "scattered", "added", "slot", "base")
EXAMPLES: dict[str, Example] = {
    "aten.index": ((4, 5), _Largest),
    "aten.index_select": ((4, 5), _Largest),
    "aten.diagonal": (
        (4, 5, 6),
        lambda: lambda x: x.diagonal(1, 2, 3) * (x @ x.mT.tanh()).diagonal(0, 3, 2).sum(1)[:, None, None],
    ),
    "aten.gather": ((4, 5), lambda: _gathered),
    "aten.scatter": ((4, 5), lambda: _scattered),
    "aten.scatter_add": ((4, 5), lambda: _scattered),
    "aten.scatter_reduce": (
        (4, 5),
        lambda: lambda x: x.scatter_reduce(2, x.mean(1, keepdim=True).argsort(2).expand_as(x) // 2, 2 * x, "amax"),
    ),
    "aten.index_add": ((4, 5), lambda: lambda x: x.index_add(2, x.mean((0, 1)).argsort(), x.tanh())),
}
