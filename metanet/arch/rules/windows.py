"""Windows of the grid as positions of their own: unfolding, and convolutions with kernels that are computed."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from metanet.arch import layout
from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.rules.parts import reversed_along
from metanet.arch.rules.ranking import laid
from metanet.arch.value import Value


def windows(
    call: Call, x: Value, axes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Value:
    """The windows along `axes`: these axes count them, and new axes behind all others are the places in a window."""
    x = call.settled(x)
    spans = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    counts = {axis: (x.shape[axis] - span) // step + 1 for axis, span, step in zip(axes, spans, stride, strict=True)}
    x, ranks = call.ranked(x, axes)
    y = call.operate(x, "unfold", axes=ranks, kernel=tuple(kernel), stride=tuple(stride), dilation=tuple(dilation))
    nodes = tuple(axis for axis in range(len(x.axes)) if x.carries(axis))
    sizes = (*(counts.get(axis, size) for axis, size in enumerate(x.shape)), *kernel)
    return replace(y, sizes=sizes, axes=layout.whole(sizes), starts=(0,) * len(sizes), written=nodes)


def padded(call: Call, x: Value, padding: Sequence[int]) -> Value:
    """The value with zeros before and after its last axes, (before, after) for each of them."""
    if not any(padding):
        return x
    x = call.settled(x)
    rank = len(padding) // 2
    grid = x.positions[1:]
    before, after = ((0,) * (len(grid) - rank) + tuple(padding[side::2]) for side in (0, 1))
    y = call.operate(x, "pad", before=before, after=after, value=0.0)
    first = len(x.shape) - rank
    sizes = [*x.shape[:first], *(x.shape[first + k] + sum(padding[2 * k : 2 * k + 2]) for k in range(rank))]
    nodes = tuple(axis for axis in range(len(x.axes)) if x.carries(axis))
    return replace(y, sizes=tuple(sizes), axes=layout.whole(sizes), starts=(0,) * len(sizes), written=nodes)


def unfold(call: Call) -> Value:
    """aten.unfold(self, dimension, size, step) of positions; channels become fixed ones."""
    x = call.activation("self")
    axis = call["dimension"] % len(x.axes)
    call.decide(x, [] if len(x.axes) < 3 else [dim.axis for dim in x.axes[1 if axis > 1 else 2]])
    return windows(call, laid(call, x, [axis]), [axis], [call["size"]], [call["step"]], [1])


def im2col(call: Call) -> Value:
    """aten.im2col(self, kernel_size, dilation, padding, stride): channels x places in the window, windows."""
    x = call.alone(call.activation("self"), 1)
    x = padded(call, x, [side for each in call["padding"] for side in (each, each)])
    y = windows(call, x, [2, 3], call["kernel_size"], call["stride"], call["dilation"])
    samples, channels, rows, columns, *places = y.axes
    return replace(y, axes=(samples, channels + places[0] + places[1], rows + columns))


def col2im(call: Call) -> Value:
    """aten.col2im(self [samples, channels x places in the window, windows], output_size, ...): sums of windows."""
    x, kernel, stride = call.activation("self"), call["kernel_size"], call["stride"]
    call.decide(x, [dim.axis for dim in x.axes[1] if dim.size == x.sizes[dim.axis]])
    size, padding, dilation = call["output_size"], call["padding"], call["dilation"]
    spans = zip(size, padding, dilation, kernel, stride, strict=True)
    counts = [(all_ + 2 * pad - step * (places - 1) - 1) // by + 1 for all_, pad, step, places, by in spans]
    samples, channels = call.shape[:2]
    x = replace(x, axes=layout.reshape(x.axes, (samples, channels, *kernel, *counts)))
    if any(x.carries(axis) != (axis == 1) for axis in range(6) if x.axes[axis]):
        x = call.turned(x, [1])
    tiled = [one * places for one, places in zip(counts, kernel, strict=True)] == list(size)
    if tiled and list(kernel) == list(stride) and not any(padding) and set(dilation) == {1}:
        n, c, row, column, rows, columns = x.axes
        return replace(x, axes=(n, c, rows + row, columns + column))
    numbers = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    y = call.operate(call.settled(x), "fold", **{name: tuple(each) for name, each in numbers.items()})
    return call.resized(y)


def convolved(call: Call, x: Value, kernel: Value | Tensor, padding: Sequence[int]) -> Value:
    """A convolution by a kernel [out, in / groups, *size] that is computed: a product of its numbers with windows."""
    x = padded(call, call.alone(x, 1), padding)
    return _weighed(call, x, kernel, "oi", call["stride"])


def convolved_back(call: Call, x: Value, kernel: Value | Tensor) -> Value:
    """A transposed convolution by a computed kernel [in, out / groups, *size].

    It is a convolution by the kernel from its end to its start, over the grid with zeros between its numbers.
    """
    x, size = _spread(call, call.alone(x, 1), call["stride"]), kernel.shape[2:]
    more = zip(size, call["dilation"], call["padding"], call["output_padding"], strict=True)
    ends = [(step * (count - 1) - cut, step * (count - 1) - cut + behind) for count, step, cut, behind in more]
    x = padded(call, x, [side for each in ends for side in each])
    dims = list(range(2, 2 + len(size)))
    kernel = kernel.flip(dims) if isinstance(kernel, Tensor) else reversed_along(kernel, dims)
    return _weighed(call, x, kernel, "io", [1] * len(size))


def _spread(call: Call, x: Value, stride: Sequence[int]) -> Value:
    """The value with stride - 1 zeros between neighbours on its last axes."""
    if all(step == 1 for step in stride):
        return x
    x = call.settled(x)
    first = len(x.shape) - len(stride)
    y = call.operate(x, "spread", stride=tuple(stride))
    sizes = [*x.shape[:first], *((n - 1) * step + 1 for n, step in zip(x.shape[first:], stride, strict=True))]
    nodes = tuple(axis for axis in range(len(x.axes)) if x.carries(axis))
    return replace(y, sizes=tuple(sizes), axes=layout.whole(sizes), starts=(0,) * len(sizes), written=nodes)


def _weighed(call: Call, x: Value, kernel: Value | Tensor, sides: str, stride: Sequence[int]) -> Value:
    """Windows of x times a kernel whose first two axes are `sides`, the first of them with the groups in it."""
    groups, size = call["groups"], kernel.shape[2:]
    seen = windows(call, x, range(2, 2 + len(size)), size, stride, call["dilation"])
    kernel = call.active(kernel)
    kernel = replace(kernel, axes=layout.reshape(kernel.axes, (groups, kernel.shape[0] // groups, *kernel.shape[1:])))
    shape = seen.shape
    seen = replace(seen, axes=layout.reshape(seen.axes, (shape[0], groups, shape[1] // groups, *shape[2:])))
    grid, places = "xyz"[: len(size)], "uvw"[: len(size)]
    letters = [f"ngi{grid}{places}", f"g{sides}{places}"]
    y = combine(call, ["matmul", "matmul_right"], [seen, kernel], letters, f"ngo{grid}")
    return replace(y, axes=(y.axes[0], y.axes[1] + y.axes[2], *y.axes[3:]))


def _folded(x: Tensor) -> Tensor:
    tiles = F.unfold(x[:, :, 1:], 2, stride=2)
    return F.fold(F.unfold(x, 2, padding=1), (5, 4), 2, padding=1) + F.fold(tiles, (4, 4), 2, stride=2).mean(2, True)


RULES: dict[str, Rule] = {"aten.unfold": unfold, "aten.im2col": im2col, "aten.col2im": col2im}
OPERATIONS = {
    "unfold": ("axes", "kernel", "stride", "dilation"),
    "fold": ("kernel", "stride", "padding", "dilation"),
    "spread": ("stride",),
}
LINEAR = ("unfold", "fold", "spread")
LINKS = ()
EXAMPLES: dict[str, Example] = {
    "aten.unfold": ((4, 7), lambda: lambda x: x.unfold(2, 3, 2)),
    "aten.col2im": (
        (4, 5, 4),
        lambda: (
            lambda x: (
                F.fold(F.unfold(x, 2, padding=1), (5, 4), 2, padding=1)
                + F.fold(F.unfold(x[:, :, 1:], 2, stride=2), (4, 4), 2, stride=2).sum(2, keepdim=True)
            )
        ),
    ),
    "aten.im2col": ((4, 5, 4), lambda: lambda x: F.unfold(x, (2, 3), padding=1, stride=2)),
}
