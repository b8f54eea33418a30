"""Poolings, and layers that change a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from metanet.importers.keras_files.building import Builder, Layer, Value
from metanet.importers.keras_files.layers.convolutions import pad, same_padding

LOWEST = -3.0e38  # below every number, where a window of the maximum reaches over the edge


def _grid(build: Builder, layer: Layer, rank: int) -> Value:
    layer.only(data_format="channels_last")
    if len(layer.x.shape) != rank + 1:
        raise ValueError(f"reads the shape {layer.x.shape}, expected {rank} axes and channels")
    return build.to_first(layer.x)


def _pool(op: str, rank: int, build: Builder, layer: Layer) -> Value:
    x, kernel = _grid(build, layer, rank), layer.sizes("pool_size", rank, 2)
    stride = kernel if layer.get("strides") is None else layer.sizes("strides", rank)
    padding, ones = layer.get("padding", "valid"), [1] * rank
    if padding not in ("same", "valid"):
        raise ValueError(f"found the padding {padding!r}, expected valid or same")
    grid = list(x.shape[:-1])
    sides = same_padding(grid, kernel, stride, ones) if padding == "same" else [(0, 0)] * rank
    name, own, ceil = x.name, [before for before, _ in sides], False
    if any(before != after for before, after in sides):
        if all(step > 1 or before == after for step, (before, after) in zip(stride, sides, strict=True)):
            ceil = True  # the window that reaches one further over the end
        elif op == "max_pool":
            name, own = pad(build, name, sides, LOWEST), [0] * rank
        else:
            raise ValueError("an average over an even window with stride 1 and padding same is not supported")
    more = {"dilation": ones} if op == "max_pool" else {"count_include_pad": False}
    name = build.step(op, [name], kernel=kernel, stride=stride, padding=own, ceil_mode=ceil, **more)
    lengths = [
        (size + before + after - width) // step + 1
        for size, (before, after), width, step in zip(grid, sides, kernel, stride, strict=True)
    ]
    return Value(name, (*lengths, x.shape[-1]), first=True)


def _global(op: str, rank: int, build: Builder, layer: Layer) -> Value:
    x, keep = _grid(build, layer, rank), layer.get("keepdims") is True
    name = build.step(op, [x.name], axes=x.axes, keep=keep)
    return Value(name, (1,) * rank + x.shape[-1:], True) if keep else Value(name, x.shape[-1:])


def _zeros(rank: int, build: Builder, layer: Layer) -> Value:
    x, sides = _grid(build, layer, rank), _pairs(layer, "padding", rank, 1)
    shape = [size + before + after for size, (before, after) in zip(x.shape[:-1], sides, strict=True)]
    return Value(pad(build, x.name, sides), (*shape, x.shape[-1]), True)


def _cropped(rank: int, build: Builder, layer: Layer) -> Value:
    x = _grid(build, layer, rank)
    name, shape = x.name, list(x.shape)
    for axis, (before, after) in enumerate(_pairs(layer, "cropping", rank, 1)):
        end = shape[axis] - after
        name = build.step("narrow", [name], axis=axis + 2, start=before, end=end)
        shape[axis] = end - before
    return Value(name, tuple(shape), True)


def _larger(rank: int, build: Builder, layer: Layer) -> Value:
    x, factors = _grid(build, layer, rank), layer.sizes("size", rank, 2)
    kind = layer.get("interpolation", "nearest")
    if kind not in ("nearest", "bilinear") or (kind == "bilinear" and rank != 2):
        raise ValueError(f"found the interpolation {kind!r}, expected nearest, or bilinear of an image")
    size = [length * factor for length, factor in zip(x.shape[:-1], factors, strict=True)]
    more = {"align_corners": False} if kind == "bilinear" else {}
    return Value(build.step("resize", [x.name], mode=kind, size=size, **more), (*size, x.shape[-1]), True)


def _resized(build: Builder, layer: Layer) -> Value:
    layer.only(crop_to_aspect_ratio=False, pad_to_aspect_ratio=False, antialias=False)
    x, kind = _grid(build, layer, 2), layer.get("interpolation", "bilinear")
    if kind != "bilinear":
        raise ValueError(f"found the interpolation {kind!r}, expected bilinear, which alone is supported")
    size = [*layer.sizes("height", 1), *layer.sizes("width", 1)]
    name = build.step("resize", [x.name], mode=kind, size=size, align_corners=False)
    return Value(name, (*size, x.shape[-1]), True)


def _adaptive(op: str, rank: int, build: Builder, layer: Layer) -> Value:
    x, size = _grid(build, layer, rank), layer.sizes("output_size", rank)
    return Value(build.step(op, [x.name], size=size), (*size, x.shape[-1]), True)


def _pairs(layer: Layer, name: str, rank: int, default: int) -> list[tuple[int, int]]:
    found = layer.get(name, default)
    if rank == 1 and isinstance(found, list) and len(found) == 2:
        found = [found]
    each = found if isinstance(found, list) else [found] * rank
    pairs = [one if isinstance(one, list) else [one, one] for one in each]
    if len(pairs) != rank or any(len(one) != 2 or any(type(n) is not int or n < 0 for n in one) for one in pairs):
        raise ValueError(f"found {name} {found!r}, expected {rank} pairs of whole numbers")
    return [(one[0], one[1]) for one in pairs]


def _flatten(build: Builder, layer: Layer) -> Value:
    layer.only(data_format="channels_last")
    return build.flatten(layer.x)


def _reshape(build: Builder, layer: Layer) -> Value:
    count, target = math.prod(layer.x.shape), layer.get("target_shape")
    if not isinstance(target, list) or any(type(size) is not int for size in target) or target.count(-1) > 1:
        raise ValueError(f"found target_shape {target!r}, expected sizes")
    known = math.prod(size for size in target if size != -1)
    shape = [count // known if size == -1 and known > 0 else size for size in target]
    if min(shape, default=1) < 1 or math.prod(shape) != count:
        raise ValueError(f"found target_shape {target}, of {layer.x.shape}")
    return Value(build.step("reshape", [build.to_last(layer.x).name], shape=[-1, *shape]), tuple(shape))


def _permute(build: Builder, layer: Layer) -> Value:
    x, axes = build.to_last(layer.x), layer.get("dims")
    if not isinstance(axes, list) or sorted(axes) != list(range(1, len(x.shape) + 1)):
        raise ValueError(f"found dims {axes!r}, expected an order of the axes 1 to {len(x.shape)}")
    return Value(build.step("permute", [x.name], axes=[0, *axes]), tuple(x.shape[axis - 1] for axis in axes))


def _repeat(build: Builder, layer: Layer) -> Value:
    (times,) = layer.sizes("n", 1)
    x = build.to_last(layer.x)
    if len(x.shape) != 1:
        raise ValueError(f"reads the shape {x.shape}, expected a vector")
    name = build.step("unsqueeze", [x.name], axis=1)
    return replace(x, name=build.step("expand", [name], shape=[-1, times, -1]), shape=(times, *x.shape))


KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    **{f"MaxPooling{rank}D": partial(_pool, "max_pool", rank) for rank in (1, 2, 3)},
    **{f"AveragePooling{rank}D": partial(_pool, "avg_pool", rank) for rank in (1, 2, 3)},
    **{f"GlobalAveragePooling{rank}D": partial(_global, "mean", rank) for rank in (1, 2, 3)},
    **{f"GlobalMaxPooling{rank}D": partial(_global, "amax", rank) for rank in (1, 2, 3)},
    **{f"ZeroPadding{rank}D": partial(_zeros, rank) for rank in (1, 2, 3)},
    **{f"Cropping{rank}D": partial(_cropped, rank) for rank in (1, 2, 3)},
    **{f"UpSampling{rank}D": partial(_larger, rank) for rank in (1, 2, 3)},
    **{f"AdaptiveAveragePooling{rank}D": partial(_adaptive, "adaptive_avg_pool", rank) for rank in (1, 2, 3)},
    **{f"AdaptiveMaxPooling{rank}D": partial(_adaptive, "adaptive_max_pool", rank) for rank in (1, 2, 3)},
    "Resizing": _resized,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
}
