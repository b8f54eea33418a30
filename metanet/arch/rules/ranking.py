"""The largest numbers along an axis, and where they stand.

The numbers in their order are the same whichever way channels stand, so these stay free; their places name channels,
which become fixed positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.layout import Dim
from metanet.arch.value import Value

ATTRIBUTES = ("axes", "count", "largest")


def topk(call: Call) -> list[Callable[[], Value]]:
    """aten.topk(self, k, dim, largest, sorted): the largest in their order, and their places."""
    return _both(call, call["dim"], call["k"], call["largest"])


def sort(call: Call) -> list[Callable[[], Value]]:
    """aten.sort(self, dim, descending): all, and their places; equal numbers in the order of their places."""
    dim = call["dim"]
    return _both(call, dim, call["self"].shape[dim], call["descending"])


def argsort(call: Call) -> Value:
    """aten.argsort(self, dim, descending): the places of all."""
    dim = call["dim"]
    return ranked(call, call.activation("self"), dim, call["self"].shape[dim], call["descending"], "topk_places")


def _both(call: Call, dim: int, count: int, largest: bool) -> list[Callable[[], Value]]:
    x = replace(call.activation("self"), shared=True)
    return [
        lambda: _in_order(call, x, dim % len(x.axes), count, largest),
        lambda: ranked(call, x, dim, count, largest, "topk_places"),
    ]


def _in_order(call: Call, x: Value, dim: int, count: int, largest: bool) -> Value:
    """The `count` largest (or smallest) numbers along an axis."""
    if not carries(call, x, dim):
        return ranked(call, x, dim, count, largest, "topk")
    return of_channels(call, x, dim, "ranked", count, largest=bool(largest), count=count)


def carries(call: Call, x: Value, dim: int) -> bool:
    """Whether there are channels on an axis."""
    call.decide(x, [])
    return x.carries(dim)


def of_channels(call: Call, x: Value, dim: int, kind: str, places: int, **attributes: Any) -> Value:
    """A function of the numbers along an axis that no order of its channels changes: `places` positions in its place.

    All of the channels are linked to the node that holds them.
    """
    if not all(x.is_node(one) for one in x.axes[dim]):
        x = call.flattened(x, dim)
    letters = "abcdefghijklmnop"[: len(x.axes)]
    y = combine(call, ["ranked"], [x], [letters], letters.replace(letters[dim], ""))
    y = call.operate(y, kind, **attributes)
    row = (Dim(len(y.sizes), 1, places),) if places > 1 else ()
    axes = (*y.axes[:dim], row, *y.axes[dim:])
    return replace(y, axes=axes, sizes=(*y.sizes, places), starts=(*y.starts, 0), written=y.nodes)


def _extreme(largest: bool) -> Rule:
    def extreme(call: Call) -> Value:
        """aten.argmax(self, dim, keepdim), aten.argmin: the place of the largest number, the smallest."""
        x = call.activation("self")
        if call["dim"] is None:
            raise call.unsupported("there is a rule for places along one axis only")
        return place_of_extreme(call, x, call["dim"], call["keepdim"], largest)

    return extreme


def place_of_extreme(call: Call, x: Value, dim: int, keep: bool, largest: bool) -> Value:
    """Where the largest (or smallest) number along an axis stands."""
    dim %= len(x.axes)
    y = ranked(call, x, dim, 1, largest, "topk_places")
    return y if keep else replace(y, axes=y.axes[:dim] + y.axes[dim + 1 :])


def ranked(call: Call, x: Value, dim: int, count: int, largest: bool, kind: str) -> Value:
    """The `count` largest (or smallest) numbers along an axis, from the most extreme on, or their places."""
    x = laid(call, x, [dim % len(x.axes)])
    if len(x.axes[dim]) > 1:
        x = call.settled(x)
    x, ranks = call.ranked(x, [dim])
    y = call.operate(x, kind, axes=ranks, count=count, largest=bool(largest))
    if not y.axes[dim]:
        return y
    home, rows = y.axes[dim][0].axis, list(y.axes)
    rows[dim] = (Dim(home, 1, count),) if count > 1 else ()
    return replace(y, axes=tuple(rows), sizes=(*y.sizes[:home], count, *y.sizes[home + 1 :]))


def laid(call: Call, x: Value, axes: Sequence[int]) -> Value:
    """The value without nodes on these axes: channels there become fixed positions."""
    call.decide(x, [])
    if not any(x.carries(axis) for axis in axes):
        return x
    return call.turned(x, [k for k in range(len(x.axes)) if k not in axes and x.carries(k)])


def _by_rank(function: Callable[..., torch.Tensor]) -> Example:
    return ((4, 5), lambda: lambda x: x * function(x, dim=2).to(x.dtype).mean(2, keepdim=True))


RULES: dict[str, Rule] = {
    "aten.topk": topk,
    "aten.sort": sort,
    "aten.argsort": argsort,
    "aten.argmax": _extreme(True),
    "aten.argmin": _extreme(False),
}
OPERATIONS = {"topk": ATTRIBUTES, "topk_places": ATTRIBUTES, "ranked": ATTRIBUTES[1:]}
LINKS = ("ranked",)
EXAMPLES: dict[str, Example] = {
    "aten.topk": ((4, 5), lambda: lambda x: x.topk(2, 2)[0] + x.topk(2, 2, largest=False)[1]),
    "aten.sort": ((4, 5), lambda: lambda x: x.sort(2)[0] + x.sort(2, descending=True)[1]),
    "aten.argsort": _by_rank(torch.argsort),
    "aten.argmax": _by_rank(partial(torch.argmax, keepdim=True)),
    "aten.argmin": _by_rank(partial(torch.argmin, keepdim=True)),
}
