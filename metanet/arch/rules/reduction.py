"""Means, sums and extremes over axes: over positions an operation, over channels links to the nodes that are left."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional

from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.rules.arithmetic import join
from metanet.arch.rules.ranking import laid, place_of_extreme
from metanet.arch.value import Value

RUNNING = ("cumsum", "logcumsumexp")
KINDS = ("mean", "sum", "prod", "amax", "amin", "var", "std")


def _rule(kind: str) -> Rule:
    def reduce(call: Call) -> Value:
        x, given = call.activation("self"), dict(call.arguments)
        if kind in ("var", "std"):
            over = _axes(x, given["dim"])
            count = math.prod(x.shape[axis] for axis in over)
            degrees = given["correction"] if "correction" in given else int(given["unbiased"])
            return corrected(call, reduced(call, x, over, "var", given["keepdim"]), kind, count, degrees)
        return reduced(call, x, _axes(x, given.get("dim")), kind, given.get("keepdim", False))

    return reduce


def _extreme(kind: str) -> Rule:
    def extreme(call: Call) -> Value | list[Callable[[], Value]]:
        """aten.max and aten.min: of all numbers, along an axis (with its place), or of two values."""
        if "other" in call.arguments:
            return join(call, {"amax": "maximum", "amin": "minimum"}[kind], call["self"], call["other"])
        x = call.activation("self")
        if "dim" not in call.arguments:
            return reduced(call, x, range(len(x.axes)), kind, keep=False)
        x = replace(x, shared=True) if call.readers > 1 else x
        return [
            lambda: reduced(call, x, _axes(x, call["dim"]), kind, call["keepdim"]),
            lambda: place_of_extreme(call, x, call["dim"], call["keepdim"], largest=kind == "amax"),
        ]

    return extreme


def _with_mean(kind: str) -> Rule:
    def with_mean(call: Call) -> list[Callable[[], Value]]:
        """aten.var_mean(self, dim, correction | unbiased, keepdim), aten.std_mean: that, and the mean."""
        x, given = replace(call.activation("self"), shared=True), dict(call.arguments)
        over, keep = _axes(x, given.get("dim")), given.get("keepdim", False)
        count = math.prod(x.shape[axis] for axis in over)
        degrees = given["correction"] if "correction" in given else int(given["unbiased"])
        return [
            lambda: corrected(call, reduced(call, x, over, "var", keep), kind, count, degrees),
            lambda: reduced(call, x, over, "mean", keep),
        ]

    return with_mean


def _running(kind: str) -> Rule:
    def running(call: Call) -> Value:
        """aten.cumsum(self, dim), aten.logcumsumexp along positions; channels become fixed ones."""
        x, dim = call.activation("self"), call["dim"] % len(call["self"].axes)
        x, ranks = call.ranked(laid(call, x, [dim]), [dim])
        return call.operate(x, kind, axes=ranks)

    return running


def norm(call: Call) -> Value:
    """aten.linalg_vector_norm(self, ord, dim, keepdim): the root of a sum of powers, or the largest size."""
    x, order, keep = call.activation("self"), float(call["ord"]), call["keepdim"]
    over = _axes(x, call["dim"])
    x = call.exclusive(x) if x.shared else x
    if order == 2:
        return call.operate(reduced(call, call.operate(x, "square"), over, "sum", keep), "sqrt")
    sizes = call.operate(x, "abs")
    if math.isinf(order):
        return reduced(call, sizes, over, "amax" if order > 0 else "amin", keep)
    if order == 1:
        return reduced(call, sizes, over, "sum", keep)
    if not order:
        raise call.unsupported("there is no rule for the number of numbers other than zero")
    powers = reduced(call, call.operate(sizes, "pow", exponent=order), over, "sum", keep)
    return call.operate(powers, "pow", exponent=1 / order)


def corrected(call: Call, variance: Value, kind: str, count: int, degrees: int | float | None) -> Value:
    """A variance over `count` numbers, divided by count - degrees instead, or its root."""
    less = 1 if degrees is None else degrees
    scaled = call.operate(variance, "mul", value=count / (count - less)) if less else variance
    return call.operate(scaled, "sqrt") if kind == "std" else scaled


def _axes(x: Value, dims: Sequence[int] | int | None) -> list[int]:
    if isinstance(dims, int):
        dims = [dims]
    return sorted({dim % len(x.axes) for dim in dims or range(len(x.axes))})


def reduced(call: Call, x: Value, over: Sequence[int], kind: str, keep: bool) -> Value:
    """The value without the axes `over`, or with axes of size 1 in their place."""
    call.guess(x)
    nodes = [axis for axis in over if x.carries(axis)]
    positions = [axis for axis in over if not x.carries(axis) and x.shape[axis] > 1]
    if kind == "var" and nodes and positions:
        return _variance(call, x, over, keep)
    if positions:
        x = _over_positions(call, x, positions, kind)
    if nodes:
        letters = "abcdefghijklmnop"[: len(x.axes)]
        out = "".join(letter for axis, letter in enumerate(letters) if axis not in nodes)
        left = combine(call, [kind], [x], [letters], out)
        rows = iter(left.axes)
        axes = tuple(() if axis in nodes else next(rows) for axis in range(len(x.axes)))
        x = _with(left, axes)
    if keep:
        return x
    return _with(x, tuple(row for axis, row in enumerate(x.axes) if axis not in over))


def _variance(call: Call, x: Value, over: Sequence[int], keep: bool) -> Value:
    """The mean of the squares of what x differs from its mean."""
    x = replace(x, shared=True)
    mean = call.operate(reduced(call, x, over, "mean", keep=True), "mul", value=-1)
    centred = combine(call, ["add", "add"], [x, mean])
    return reduced(call, call.operate(centred, "square"), over, "mean", keep)


def _over_positions(call: Call, x: Value, positions: Sequence[int], kind: str) -> Value:
    """Every channel alike: the mean of all but the samples is global average pooling."""
    x, ranks = call.ranked(x, positions)
    long = [rank for rank, axis in enumerate(x.positions) if rank and x.sizes[axis] > 1]
    if kind == "mean" and list(ranks) == long:
        y = call.operate(x, "adaptive_avg_pool", output=(1,) * (len(x.positions) - 1))
    else:
        y = call.operate(x, kind, axes=ranks)
    gone = {dim.axis for axis in positions for dim in y.axes[axis]}
    sizes = tuple(1 if axis in gone else size for axis, size in enumerate(y.sizes))
    axes = tuple(() if axis in positions else row for axis, row in enumerate(y.axes))
    return _with(y, axes, sizes)


def _with(x: Value, axes: tuple, sizes: tuple[int, ...] | None = None) -> Value:
    return replace(x, axes=axes, sizes=x.sizes if sizes is None else sizes)


RULES: dict[str, Rule] = {
    **{f"aten.{kind}": _rule(kind) for kind in KINDS},
    "aten.max": _extreme("amax"),
    "aten.min": _extreme("amin"),
    **{f"aten.{kind}": _running(kind) for kind in RUNNING},
    "aten.linalg_vector_norm": norm,
    "aten.var_mean": _with_mean("var"),
    "aten.std_mean": _with_mean("std"),
}
OPERATIONS: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("mean", "sum", "prod", "amax", "amin", "var", *RUNNING), ("axes",)
)
LINEAR = ("mean", "sum", "cumsum")
HOMOGENEOUS = ("amax", "amin")
LINKS = ("mean", "prod", "amax", "amin", "var", "group")
EXAMPLES: dict[str, Example] = {
    "aten.mean": ((4, 3, 5), lambda: lambda x: x.mean((2, 3))),
    "aten.sum": ((4, 3, 5), lambda: lambda x: x.sum(2) + x.sum((1, 2), keepdim=True)[:, 0]),
    "aten.prod": ((4, 3, 5), lambda: lambda x: x.prod(2) * x.prod(1).sum(1)[:, None]),
    "aten.max": (
        (4, 3, 5),
        lambda: lambda x: x.max(2)[0] * x.max(1)[0].sum(1)[:, None] + torch.max(x.tanh(), x).sum(2) + x.max(2)[1],
    ),
    "aten.min": (
        (4, 5),
        lambda: lambda x: x.min(2)[0] * x.min(2)[1] * x.tanh().min() + torch.min(x.tanh(), x).sum(2),
    ),
    "aten.var_mean": (
        (4, 5),
        lambda: lambda x: torch.mul(*torch.var_mean(x, 2)) + torch.var_mean(x, 1)[1].sum(1)[:, None],
    ),
    "aten.std_mean": ((4, 5), lambda: lambda x: torch.mul(*torch.std_mean(x, 2, correction=0))),
    **{f"aten.{kind}": ((4, 5), partial(lambda kind: lambda x: getattr(x, kind)(2), kind)) for kind in RUNNING},
    "aten.amax": ((4, 3, 5), lambda: lambda x: x.amax(2) * x.amax((1, 2))[:, None]),
    "aten.amin": ((4, 3, 5), lambda: lambda x: x.amin(2) * x.amin(1)[:, :1]),
    "aten.var": ((4, 5), lambda: lambda x: x.var(2) + x.var(1, correction=0, keepdim=True)[..., 0]),
    "aten.std": ((4, 5), lambda: lambda x: x / x.std(1, keepdim=True)),
    "aten.linalg_vector_norm": (
        (4, 5),
        lambda: lambda x: functional.normalize(x, dim=1) + functional.normalize(x, p=3, dim=2),
    ),
}
