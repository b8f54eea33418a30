"""Poolings over image positions; every channel is treated alike."""

from collections.abc import Sequence

from torch import nn
from torch.nn import functional as F

from metanet.arch.call import Call, Rule
from metanet.arch.value import Value

WINDOW = ("kernel", "stride", "padding")
OPERATIONS = {
    "max_pool": (*WINDOW, "dilation", "ceil_mode"),
    "avg_pool": (*WINDOW, "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool": ("output",),
    "adaptive_max_pool": ("output",),
}

LINEAR = ("avg_pool", "adaptive_avg_pool")
HOMOGENEOUS = ("max_pool", "adaptive_max_pool")


def _pool(kind: str, rank: int) -> Rule:
    """A pooling with a window; its attributes are flags, or tuples of one number per grid axis.

    Where the largest values were is refused to later readers, here as in `_adaptive`.
    """

    def pool(call: Call) -> Value | list[Value]:
        x = _grid(call, rank)
        if call.arguments.get("divisor_override") is not None:
            raise call.unsupported("there is no rule for its divisor_override")
        given = dict(call.arguments) | {"kernel": call["kernel_size"], "stride": call["stride"] or call["kernel_size"]}
        numbers = {
            name: given[name] if isinstance(given[name], bool) else _each(given[name], rank)
            for name in OPERATIONS[kind]
        }
        pooled = call.resized(call.operate(x, kind, **numbers))
        return [pooled] if call.operator.endswith("_with_indices") else pooled

    return pool


def _adaptive(kind: str, rank: int) -> Rule:
    """A pooling to a size; that of the largest values returns where they are too, which is refused to later readers."""

    def pool(call: Call) -> Value | list[Value]:
        pooled = call.operate(_grid(call, rank), kind, output=_each(call["output_size"], rank))
        return [call.resized(pooled)] if kind == "adaptive_max_pool" else call.resized(pooled)

    return pool


def _grid(call: Call, rank: int) -> Value:
    """The input, whose last `rank` axes are positions; channels there become fixed positions."""
    x = call.activation("self" if "self" in call.arguments else "input")
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


RULES = {
    **{f"aten.max_pool{n}d": _pool("max_pool", n) for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d_with_indices": _pool("max_pool", n) for n in (2, 3)},
    **{f"aten.avg_pool{n}d": _pool("avg_pool", n) for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d": _adaptive("adaptive_avg_pool", n) for n in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{n}d": _adaptive("adaptive_max_pool", n) for n in (1, 2, 3)},
}
LINKS = ()
EXAMPLES = {
    "aten.max_pool1d": ((4, 7), lambda: nn.MaxPool1d(3, dilation=2)),
    "aten.max_pool2d": ((4, 5, 7), lambda: nn.MaxPool2d(2, ceil_mode=True)),
    "aten.max_pool3d": ((4, 3, 4, 4), lambda: nn.MaxPool3d(2)),
    "aten.max_pool2d_with_indices": ((4, 5, 7), lambda: lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "aten.max_pool3d_with_indices": ((4, 3, 4, 4), lambda: lambda x: F.max_pool3d(x, 2, return_indices=True)[0]),
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
