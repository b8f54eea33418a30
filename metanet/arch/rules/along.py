"""Functions along one axis of positions that few networks use: one kind, whose table names it and its numbers.

Channels on such an axis become fixed positions, unless their order changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from metanet.arch.call import Call, Example, Rule
from metanet.arch.layout import Dim
from metanet.arch.rules.ranking import carries, laid, of_channels
from metanet.arch.value import Value


def along(call: Call, x: Value, dim: int, name: str, count: int, ordered: bool = True) -> Value:
    """The function of this name along an axis, on which `count` numbers are left; of a set, if they are not ordered."""
    dim %= len(x.axes)
    if not ordered and carries(call, x, dim):
        return of_channels(call, x, dim, "along", count, axes=(), table=name)
    x = laid(call, x, [dim])
    if len(x.axes[dim]) > 1:
        x = call.settled(x)
    x, ranks = call.ranked(x, [dim])
    y = call.operate(x, "along", axes=ranks, table=name)
    if not y.axes[dim]:
        return y
    home, rows = y.axes[dim][0].axis, list(y.axes)
    rows[dim] = (Dim(home, 1, count),) if count > 1 else ()
    return replace(y, axes=tuple(rows), sizes=(*y.sizes[:home], count, *y.sizes[home + 1 :]))


def cumprod(call: Call) -> Value:
    """aten.cumprod(self, dim): products of all numbers up to each."""
    return along(call, call.activation("self"), call["dim"], "cumprod", call["self"].shape[call["dim"]])


def _running(name: str) -> Rule:
    def running(call: Call) -> list[Callable[[], Value]]:
        """aten.cummax(self, dim), aten.cummin: the most extreme number up to each, and its place."""
        x, dim = replace(call.activation("self"), shared=True), call["dim"]
        return [lambda part=part: along(call, x, dim, f"{name}{part}", x.shape[dim]) for part in ("", " places")]

    return running


def _picked(name: str) -> Rule:
    def picked(call: Call) -> Value | list[Callable[[], Value]]:
        """aten.median(self, dim, keepdim), nanmedian, mode, kthvalue(self, k, dim, keepdim): a number, its place."""
        x = replace(call.activation("self"), shared=True)
        if "dim" not in call.arguments:
            flat = replace(x, axes=(tuple(dim for row in x.axes for dim in row),))
            return replace(along(call, flat, 0, name, 1, ordered=False), axes=())
        dim, text = call["dim"] % len(x.axes), f"{name} {call.arguments.get('k', '')}"

        def part(kind: str) -> Value:
            y = along(call, x, dim, f"{text}{kind}", 1, ordered=bool(kind))
            return y if call["keepdim"] else replace(y, axes=y.axes[:dim] + y.axes[dim + 1 :])

        return [lambda: part(""), lambda: part(" places")]

    return picked


def histogram(call: Call) -> Value:
    """aten.histc(self, bins, min, max): how many of all numbers lie in each bin."""
    x, count = call.activation("self"), call["bins"]
    flat = replace(x, axes=(tuple(dim for row in x.axes for dim in row),))
    return along(call, flat, 0, f"histc {count} {call.number('min')} {call.number('max')}", count, False)


def _quantile(x: Tensor) -> Tensor:
    return x * x.kthvalue(2, 2, keepdim=True)[0] + x.kthvalue(2, 2, keepdim=True)[1]


RULES: dict[str, Rule] = {
    "aten.cumprod": cumprod,
    **{f"aten.{name}": _running(name) for name in ("cummax", "cummin")},
    **{f"aten.{name}": _picked(name) for name in ("median", "nanmedian", "mode", "kthvalue")},
    "aten.histc": histogram,
}
OPERATIONS = {"along": ("axes", "table")}
LINKS = ()
EXAMPLES: dict[str, Example] = {
    "aten.cumprod": ((4, 5), lambda: lambda x: x.cumprod(2)),
    **{
        f"aten.{name}": ((4, 5), partial(lambda name: lambda x: torch.mul(*getattr(x, name)(2)), name))
        for name in ("cummax", "cummin")
    },
    **{
        f"aten.{name}": ((4, 5), partial(lambda name: lambda x: torch.mul(*getattr(x, name)(2)), name))
        for name in ("median", "nanmedian", "mode")
    },
    "aten.kthvalue": ((4, 5), lambda: _quantile),
    "aten.histc": ((4, 5), lambda: lambda x: x * torch.histc(x.mean(1), 3, -1, 1)[:1]),
}
