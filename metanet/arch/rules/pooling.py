"""Poolings over image positions; every channel is treated alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from metanet.arch.call import Call, Rule
from metanet.arch.combine import combine
from metanet.arch.value import Value

WINDOW = ("kernel", "stride", "padding")
OPERATIONS = {
    "max_pool": (*WINDOW, "dilation", "ceil_mode"),
    "avg_pool": (*WINDOW, "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool": ("output",),
    "adaptive_max_pool": ("output",),
    "max_unpool": ("output",),
}
OPERATIONS |= {f"{kind}_places": OPERATIONS[kind] for kind in ("max_pool", "adaptive_max_pool")}

LINEAR = ("avg_pool", "adaptive_avg_pool")
HOMOGENEOUS = ("max_pool", "adaptive_max_pool")


def _pool(kind: str, rank: int) -> Rule:
    """A pooling with a window; its attributes are flags, or tuples of one number per grid axis."""

    def pool(call: Call) -> Value | list[Callable[[], Value]]:
        x = _grid(call, rank)
        if call.arguments.get("divisor_override") is not None:
            raise call.unsupported("there is no rule for its divisor_override")
        given = dict(call.arguments) | {"kernel": call["kernel_size"], "stride": call["stride"] or call["kernel_size"]}
        numbers = {
            name: given[name] if isinstance(given[name], bool) else _each(given[name], rank)
            for name in OPERATIONS[kind]
        }
        if call.operator.endswith("_with_indices"):
            return _and_places(call, x, kind, numbers)
        return call.resized(call.operate(x, kind, **numbers))

    return pool


def _adaptive(kind: str, rank: int) -> Rule:
    """A pooling to a size; that of the largest values returns where they are too."""

    def pool(call: Call) -> Value | list[Callable[[], Value]]:
        x, numbers = _grid(call, rank), {"output": _each(call["output_size"], rank)}
        if kind == "adaptive_max_pool":
            return _and_places(call, x, kind, numbers)
        return call.resized(call.operate(x, kind, **numbers))

    return pool


def _and_places(call: Call, x: Value, kind: str, numbers: Mapping[str, Any]) -> list[Callable[[], Value]]:
    """The largest values, and where each of them stands on the grid."""
    x = replace(x, shared=True) if call.readers > 1 else x
    kinds = (kind, f"{kind}_places")
    return [lambda one=one: call.resized(call.operate(x, one, **numbers)) for one in kinds]


def unpool(call: Call) -> Value:
    """aten.max_unpool2d(self, indices, output_size), aten.max_unpool3d: values at places of a larger grid of zeros."""
    rank = len(call["output_size"])
    x, places = (replace(_grid(call, rank, call.active(call[name])), shared=True) for name in ("self", "indices"))
    put = combine(call, ["unpooled", "unpooled_at"], [x, places])
    return call.resized(call.operate(call.settled(put), "max_unpool", output=tuple(call["output_size"])))


def _grid(call: Call, rank: int, x: Value | None = None) -> Value:
    """The input, whose last `rank` axes are positions; channels there become fixed positions."""
    x = call.activation("self" if "self" in call.arguments else "input") if x is None else x
    if len(x.axes) not in (rank + 1, rank + 2):
        raise call.unsupported(f"expected {rank + 2} axes (samples, channels, grid), found {len(x.axes)}")
    channel = len(x.axes) - rank - 1
    call.decide(x, [dim.axis for dim in x.axes[channel] if dim.size == x.sizes[dim.axis]])
    grid = range(channel + 1, len(x.axes))
    if any(x.carries(axis) for axis in grid):
        x = call.turned(x, [axis for axis in range(channel + 1) if x.carries(axis)])
    return call.settled(x)


def _each(number: int | Sequence[int], rank: int) -> tuple[int, ...]:
    numbers = [number] if isinstance(number, int) else list(number)
    return tuple(numbers * rank if len(numbers) == 1 else numbers)


def _unpooled(rank: int) -> Callable[[Tensor], Tensor]:
    pool, back = (getattr(nn, f"{kind}{rank}d") for kind in ("MaxPool", "MaxUnpool"))
    return lambda x: back(2)(*pool(2, return_indices=True)(x))


RULES = {
    **{f"aten.max_pool{n}d": _pool("max_pool", n) for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d_with_indices": _pool("max_pool", n) for n in (2, 3)},
    **{f"aten.avg_pool{n}d": _pool("avg_pool", n) for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d": _adaptive("adaptive_avg_pool", n) for n in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{n}d": _adaptive("adaptive_max_pool", n) for n in (1, 2, 3)},
}
RULES |= {
    "aten.max_pool1d_with_indices": _pool("max_pool", 1),
    **dict.fromkeys(("aten.max_unpool2d", "aten.max_unpool3d"), unpool),
}
LINKS = ("unpooled", "unpooled_at")
EXAMPLES = {
    "aten.max_pool1d": ((4, 7), lambda: nn.MaxPool1d(3, dilation=2)),
    "aten.max_pool2d": ((4, 5, 7), lambda: nn.MaxPool2d(2, ceil_mode=True)),
    "aten.max_pool3d": ((4, 3, 4, 4), lambda: nn.MaxPool3d(2)),
    "aten.max_pool2d_with_indices": ((4, 5, 7), lambda: lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "aten.max_pool3d_with_indices": ((4, 3, 4, 4), lambda: lambda x: F.max_pool3d(x, 2, return_indices=True)[0]),
    "aten.max_pool1d_with_indices": ((4, 6), lambda: _unpooled(1)),
    "aten.max_unpool2d": ((4, 4, 6), lambda: _unpooled(2)),
    "aten.max_unpool3d": ((4, 2, 4, 2), lambda: _unpooled(3)),
    "aten.avg_pool1d": ((4, 7), lambda: nn.AvgPool1d(3, padding=1)),
    "aten.avg_pool2d": ((4, 5, 7), lambda: nn.AvgPool2d((2, 3), stride=1)),
    "aten.avg_pool3d": ((4, 3, 4, 4), lambda: nn.AvgPool3d(2)),
    "aten.adaptive_avg_pool1d": ((4, 7), lambda: nn.AdaptiveAvgPool1d(2)),
    "aten.adaptive_avg_pool2d": ((4, 5, 7), lambda: nn.AdaptiveAvgPool2d((2, 3))),
    "aten.adaptive_avg_pool3d": ((4, 3, 4, 4), lambda: nn.AdaptiveAvgPool3d(1)),
    "aten.adaptive_max_pool1d": ((4, 7), lambda: nn.AdaptiveMaxPool1d(2)),
    "aten.adaptive_max_pool2d": ((4, 5, 7), lambda: nn.AdaptiveMaxPool2d((2, 3))),
    "aten.adaptive_max_pool3d": ((4, 3, 4, 4), lambda: nn.AdaptiveMaxPool3d(1)),
}
