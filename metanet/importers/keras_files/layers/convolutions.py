"""Convolutions. Kernels are [*kernel, in, out] in Keras, and channels its last axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from metanet.importers.keras_files import activations
from metanet.importers.keras_files.building import Builder, Layer, Value


def same_padding(sizes: list[int], kernel: list[int], stride: list[int], dilation: list[int]) -> list[tuple[int, int]]:
    """What TensorFlow's padding "same" adds before and after each axis: one more after, where it is odd."""
    totals = [
        max((-(-size // step) - 1) * step + (width - 1) * gap + 1 - size, 0)
        for size, width, step, gap in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    return [(total // 2, total - total // 2) for total in totals]


def pad(build: Builder, x: str, sides: list[tuple[int, int]], value: float = 0.0) -> str:
    """A grid with so much of a value before and after each axis."""
    return build.step("pad", [x], sides=[side for pair in reversed(sides) for side in pair], value=value)


def _grid(layer: Layer, rank: int) -> Value:
    layer.only(data_format="channels_last")
    if len(layer.x.shape) != rank + 1:
        raise ValueError(f"reads the shape {layer.x.shape}, expected {rank} axes and channels")
    return layer.x


def _convolved(
    build: Builder, layer: Layer, x: Value, weight: str, bias: str | None, groups: int, out: int, rank: int
) -> Value:
    """x through a convolution by the layer's kernel_size, strides, padding and dilation_rate."""
    kernel, stride = layer.sizes("kernel_size", rank), layer.sizes("strides", rank, 1)
    dilation, padding = layer.sizes("dilation_rate", rank, 1), layer.get("padding", "valid")
    x = build.to_first(x)
    if padding == "same":
        sides = same_padding(list(x.shape[:-1]), kernel, stride, dilation)
    elif padding == "causal" and rank == 1:
        sides = [((kernel[0] - 1) * dilation[0], 0)]
    elif padding == "valid":
        sides = [(0, 0)] * rank
    else:
        raise ValueError(f"found the padding {padding!r}, expected valid, same, or causal of one axis")
    even = all(before == after for before, after in sides)
    name = x.name if even else pad(build, x.name, sides)
    own = [before if even else 0 for before, _ in sides]
    name = build.step("conv", [name, weight, bias], stride=stride, padding=own, dilation=dilation, groups=groups)
    lengths = [
        (size + before + after - (width - 1) * gap - 1) // step + 1
        for size, (before, after), width, step, gap in zip(x.shape[:-1], sides, kernel, stride, dilation, strict=True)
    ]
    if min(lengths) < 1:
        raise ValueError(f"its kernel {kernel} is larger than the grid {list(x.shape[:-1])}")
    return Value(name, (*lengths, out), first=True)


def _bias(layer: Layer, out: int) -> list[tuple[str, list[int]]]:
    return [("bias", [out])] if layer.get("use_bias", True) else []


def _conv(rank: int, build: Builder, layer: Layer) -> Value:
    x, groups = _grid(layer, rank), layer.get("groups", 1)
    (out,) = layer.sizes("filters", 1)
    kernel = layer.sizes("kernel_size", rank)
    if type(groups) is not int or groups < 1 or x.shape[-1] % groups or out % groups:
        raise ValueError(f"found {groups} groups of {x.shape[-1]} channels")
    found = layer.weights(("kernel", [*kernel, x.shape[-1] // groups, out]), *_bias(layer, out))
    return _finished(build, layer, x, np.moveaxis(found["kernel"], (-1, -2), (0, 1)), found.get("bias"), groups, rank)


def _finished(
    build: Builder, layer: Layer, x: Value, kernel: np.ndarray, bias: np.ndarray | None, groups: int, rank: int
) -> Value:
    """x through a convolution with a kernel [out, in / groups, *kernel] and the layer's activation."""
    weight = build.tensor(layer.name, "weight", kernel)
    name = None if bias is None else build.tensor(layer.name, "bias", bias)
    y = _convolved(build, layer, x, weight, name, groups, len(kernel), rank)
    return activations.apply(build, y, layer.get("activation"), layer.major)


def _depthwise(rank: int, build: Builder, layer: Layer) -> Value:
    x = _grid(layer, rank)
    channels, (multiplier,) = x.shape[-1], layer.sizes("depth_multiplier", 1, 1)
    kernel = layer.sizes("kernel_size", rank)
    out = channels * multiplier
    found = layer.weights(("kernel", [*kernel, channels, multiplier]), *_bias(layer, out))
    return _finished(build, layer, x, _by_channel(found["kernel"]), found.get("bias"), channels, rank)


def _separable(rank: int, build: Builder, layer: Layer) -> Value:
    x = _grid(layer, rank)
    channels, (multiplier,) = x.shape[-1], layer.sizes("depth_multiplier", 1, 1)
    (out,), kernel = layer.sizes("filters", 1), layer.sizes("kernel_size", rank)
    inner = channels * multiplier
    found = layer.weights(
        ("depthwise", [*kernel, channels, multiplier]), ("pointwise", [1] * rank + [inner, out]), *_bias(layer, out)
    )
    weight = build.tensor(layer.name, "depthwise.weight", _by_channel(found["depthwise"]))
    y = _convolved(build, layer, x, weight, None, channels, inner, rank)
    point = build.tensor(layer.name, "pointwise.weight", np.moveaxis(found["pointwise"], (-1, -2), (0, 1)))
    bias = build.tensor(layer.name, "pointwise.bias", found["bias"]) if "bias" in found else None
    one, zero = [1] * rank, [0] * rank
    name = build.step("conv", [y.name, point, bias], stride=one, padding=zero, dilation=one, groups=1)
    return activations.apply(build, Value(name, (*y.shape[:-1], out), True), layer.get("activation"), layer.major)


def _by_channel(kernel: np.ndarray) -> np.ndarray:
    """[*kernel, channels, multiplier] -> [channels * multiplier, 1, *kernel], the outputs of a channel side by side."""
    moved = np.moveaxis(kernel, (-2, -1), (0, 1))
    return moved.reshape(-1, 1, *moved.shape[2:])


def _transposed(rank: int, build: Builder, layer: Layer) -> Value:
    """[*kernel, out, in] is already torch's order of out and in.

    Keras' output is a part of what all kernels reach, or has zeros behind it: it is that of the convolution that would
    give x, whose padding is cut off.
    """
    x = build.to_first(_grid(layer, rank))
    (out,), kernel = layer.sizes("filters", 1), layer.sizes("kernel_size", rank)
    stride, dilation = layer.sizes("strides", rank, 1), layer.sizes("dilation_rate", rank, 1)
    found = layer.weights(("kernel", [*kernel, out, x.shape[-1]]), *_bias(layer, out))
    weight = build.tensor(layer.name, "weight", np.moveaxis(found["kernel"], (-1, -2), (0, 1)))
    bias = build.tensor(layer.name, "bias", found["bias"]) if "bias" in found else None
    lengths, cuts, more, ends = [], [], [], []
    for axis, size in enumerate(x.shape[:-1]):
        width = (kernel[axis] - 1) * dilation[axis] + 1
        lengths.append(_length(layer, axis, rank, size, width, stride[axis]))
        reach = (size - 1) * stride[axis] + width
        total = max(reach - lengths[-1], 0) if layer.get("padding") == "same" else 0
        cuts.append(total // 2)
        more.append(max(lengths[-1] - (reach - 2 * cuts[-1]), 0))
        ends.append(reach - 2 * cuts[-1] + more[-1])
    if any(extra >= max(step, gap) for extra, step, gap in zip(more, stride, dilation, strict=True)):
        raise ValueError(f"found the output_padding {layer.get('output_padding')}, which is not supported")
    how = {"stride": stride, "padding": cuts, "output_padding": more, "dilation": dilation, "groups": 1}
    name = build.step("conv_transpose", [x.name, weight, bias], **how)
    for axis, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        if end != length:
            name = build.step("narrow", [name], axis=axis + 2, start=0, end=length)
    return activations.apply(build, Value(name, (*lengths, out), True), layer.get("activation"), layer.major)


def _length(layer: Layer, axis: int, rank: int, size: int, width: int, stride: int) -> int:
    """Of an axis of what a transposed convolution gives."""
    padding, more = layer.get("padding", "valid"), layer.get("output_padding")
    if padding not in ("same", "valid"):
        raise ValueError(f"found the padding {padding!r}, expected valid or same")
    if more is None:
        return size * stride if padding == "same" else size * stride + max(width - stride, 0)
    found = [more] * rank if type(more) is int else more
    if not isinstance(found, list) or len(found) != rank or any(type(one) is not int or one < 0 for one in found):
        raise ValueError(f"found output_padding {more!r}, expected {rank} whole numbers")
    length = (size - 1) * stride + width - (2 * (width // 2) if padding == "same" else 0) + found[axis]
    if length < 1:
        raise ValueError(f"found output_padding {more!r} for a grid of {size}")
    return length


_OF_RANK: dict[str, Callable[[int, Builder, Layer], Value]] = {
    "Conv": _conv,
    "DepthwiseConv": _depthwise,
    "SeparableConv": _separable,
}
KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    **{f"{name}{rank}D": partial(function, rank) for name, function in _OF_RANK.items() for rank in (1, 2)},
    "Conv3D": partial(_conv, 3),
    **{f"Conv{rank}DTranspose": partial(_transposed, rank) for rank in (1, 2, 3)},
}
