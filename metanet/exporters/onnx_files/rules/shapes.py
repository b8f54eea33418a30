"""Views, parts, poolings and reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from onnx import numpy_helper
from torch import Tensor

from metanet.exporters.onnx_files.rules import Call, Ref

REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin"}
RESIZED = {
    "nearest": ("nearest", "asymmetric", "floor"),
    "nearest_exact": ("nearest", "half_pixel", "round_prefer_ceil"),
}


def reshape(call: Call) -> Ref:
    x = call["self"]
    if isinstance(x, Ref) and x.weight and -1 in call.shape:
        raise call.refuse("a weight takes the number of samples")
    return call.reshaped(x, call.shape)


def permute(call: Call) -> Ref:
    x = call["self"]
    order = list(range(x.rank))
    if "dims" in call.arguments:
        order = [dim % x.rank for dim in call["dims"]]
    elif call.operator in ("aten.mT", "aten.t"):
        order[-2:] = order[-1], order[-2]
    else:
        first, second = call["dim0"], call["dim1"]
        order[first], order[second] = order[second], order[first]
    return call.emit("Transpose", x, perm=order)


def expand(call: Call) -> Ref:
    return call.emit("Expand", call["self"], call.sizes())


def zeros(call: Call) -> Ref:
    number = numpy_helper.from_array(torch.zeros(1, dtype=call.dtype).numpy())
    return call.emit("ConstantOfShape", call.sizes(), value=number)


def argmax(call: Call) -> Ref:
    x, axis = call["self"], call["dim"]
    if axis is None or x.shape[axis] == -1 or axis % x.rank == 0:
        raise call.refuse("it mixes the samples")
    return call.emit("ArgMax", x, axis=axis, keepdims=int(call["keepdim"]))


def cumsum(call: Call) -> Ref:
    if call["dim"] % call["self"].rank == 0:
        raise call.refuse("it mixes the samples")
    return call.emit("CumSum", call.cast(call["self"], call.dtype), call.graph.whole(Tensor([call["dim"]]).long()[0]))


def index(call: Call) -> Ref:
    """One place of every sample: x[arange(samples), places]."""
    x, places = call["self"], call["indices"]
    rows = places[0]
    ours = len(places) == 2 and isinstance(rows, Tensor) and isinstance(places[1], Ref) and places[1].rank == 1
    if not ours or rows.tolist() != list(range(len(rows))):
        raise call.refuse("there is a rule for x[arange(samples), places] alone")
    return call.emit("GatherND", x, call.emit("Unsqueeze", places[1], call.graph.whole([1])), batch_dims=1)


def cat(call: Call) -> Ref:
    return call.emit("Concat", *call["tensors"], axis=call["dim"])


def stack(call: Call) -> Ref:
    axis = call["dim"] % len(call.shape)
    parts = [call.emit("Unsqueeze", one, call.graph.whole([axis])) for one in call["tensors"]]
    return call.emit("Concat", *parts, axis=axis)


def _taken(call: Call, x: Ref, axis: int, start: int, end: int, step: int = 1) -> Ref:
    numbers = (call.graph.whole([one]) for one in (start, end, axis, step))
    return call.emit("Slice", x, *numbers)


def split(call: Call) -> list[Ref]:
    """aten.split, split_with_sizes, chunk and unbind."""
    x, axis, found, start = call["self"], call.arguments.get("dim", 0) % call["self"].rank, [], 0
    if x.shape[axis] == -1 or any(shape and shape[0] != -1 for shape in call.shapes):
        raise call.refuse("it divides the samples")
    single = call.operator == "aten.unbind"
    for shape in call.shapes:
        size = 1 if single else shape[axis]
        part = replace(_taken(call, x, axis, start, start + size), shape=shape)
        found.append(replace(call.reshaped(part, shape), shape=shape) if single else part)
        start += size
    return found


def slice_(call: Call) -> Ref:
    x, axis = call["self"], call["dim"] % call["self"].rank
    if call.shape[axis] == -1:
        if (call["start"] or 0) == 0 and call["step"] == 1 and (call["end"] or 0) >= 1 << 31:
            return x
        raise call.refuse("it takes some of the samples")
    start, end, step = slice(call["start"], call["end"], call["step"]).indices(x.shape[axis])
    return _taken(call, x, axis, start, end, step)


def narrow(call: Call) -> Ref:
    axis, start = call["dim"] % call["self"].rank, call["start"]
    return _taken(call, call["self"], axis, start, start + call["length"])


def select(call: Call) -> Ref:
    place = call.graph.whole(Tensor([call["index"]]).long()[0])
    return call.emit("Gather", call["self"], place, axis=call["dim"])


def index_select(call: Call) -> Ref:
    return call.emit("Gather", call["self"], call["index"], axis=call["dim"])


def flip(call: Call) -> Ref:
    x, dims = call["self"], list(call["dims"])
    many = len(dims)
    ends = ([-1] * many, [-(1 << 62)] * many, dims, [-1] * many)
    return call.emit("Slice", x, *(call.graph.whole(one) for one in ends))


def _reduce(kind: str) -> Callable[[Call], Ref]:
    def reduce(call: Call) -> Ref:
        x, dims = call["self"], call.arguments.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or range(x.rank))
        if 0 in (dim % x.rank for dim in dims):
            raise call.refuse("it mixes the samples")
        keep = int(call.arguments.get("keepdim", False))
        return call.emit(REDUCTIONS[kind], x, call.graph.whole(dims), keepdims=keep)

    return reduce


def _each(numbers: Any, rank: int) -> list[int]:
    found = [numbers] if isinstance(numbers, int) else list(numbers)
    return found * rank if len(found) == 1 else found


def pool(call: Call) -> Ref:
    """aten.max_poolNd and aten.avg_poolNd."""
    x, rank = call["self"], call["self"].rank - 2
    kernel, padding = _each(call["kernel_size"], rank), _each(call["padding"], rank)
    stride = _each(call["stride"], rank) if call["stride"] else kernel
    more: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding]}
    more["ceil_mode"] = int(call["ceil_mode"])
    if "max" in call.operator:
        return call.emit("MaxPool", x, dilations=_each(call["dilation"], rank), **more)
    if call.arguments.get("divisor_override") is not None:
        raise call.refuse("it has a divisor of its own")
    return call.emit("AveragePool", x, count_include_pad=int(call["count_include_pad"]), **more)


def adaptive_pool(call: Call) -> Ref | list[Ref]:
    """To one place, or to a grid that divides the one before."""
    largest = "max" in call.operator
    x = call["self"]
    size, grid = call.shape[2:], x.shape[2:]
    if set(size) == {1}:
        y = call.emit("GlobalMaxPool" if largest else "GlobalAveragePool", x)
    elif any(had % has for had, has in zip(grid, size, strict=True)):
        raise call.refuse(f"a grid of {list(grid)} is not divided by {list(size)}")
    else:
        window = [had // has for had, has in zip(grid, size, strict=True)]
        y = call.emit("MaxPool" if largest else "AveragePool", x, kernel_shape=window, strides=window)
    return [y] if largest else y


def pad(call: Call) -> Ref:
    x, sides = call["self"], list(call["pad"])
    sides += [0] * (2 * x.rank - len(sides))
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    ends = [*sides[::2][::-1], *sides[1::2][::-1]]
    value = [float(call["value"] or 0)] if call["mode"] == "constant" else []
    return call.emit("Pad", x, call.graph.whole(ends), *value, mode=modes[call["mode"]])


def upsample(call: Call) -> Ref:
    x, kind = call["input"], call.operator.removeprefix("aten.").lstrip("_").removeprefix("upsample_")[:-2]
    if kind in RESIZED:
        mode, way, rounding = RESIZED[kind]
    else:
        mode = "cubic" if "cubic" in kind else "linear"
        way, rounding = "align_corners" if call["align_corners"] else "half_pixel", "floor"
    factors = call["scale_factors"] or [new / old for new, old in zip(call.shape[2:], x.shape[2:], strict=True)]
    scales = call.ref(Tensor([1.0, 1.0, *factors]))
    more = {"mode": mode, "coordinate_transformation_mode": way, "nearest_mode": rounding}
    return call.emit("Resize", x, None, scales, **more)


def pixel_shuffle(call: Call) -> Ref:
    return call.emit("DepthToSpace", call["self"], blocksize=call["upscale_factor"], mode="CRD")


VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze")
RULES: dict[str, Any] = {
    **{f"aten.{name}": reshape for name in VIEWS},
    **dict.fromkeys(("aten.permute", "aten.transpose", "aten.t", "aten.mT"), permute),
    **dict.fromkeys(("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unbind"), split),
    **{f"aten.{name}": _reduce(name) for name in REDUCTIONS},
    **{f"aten.{kind}_pool{n}d": pool for kind in ("max", "avg") for n in (1, 2, 3)},
    **{f"aten.adaptive_{kind}_pool{n}d": adaptive_pool for kind in ("max", "avg") for n in (1, 2, 3)},
    **{f"aten.upsample_{kind}": upsample for kind in ("linear1d", "bilinear2d", "trilinear3d", "bicubic2d")},
    **{f"aten.{kind}{n}d": upsample for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)},
    "aten.expand": expand,
    "aten.new_zeros": zeros,
    "aten.argmax": argmax,
    "aten.cumsum": cumsum,
    "aten.index": index,
    "aten.cat": cat,
    "aten.stack": stack,
    "aten.slice": slice_,
    "aten.narrow": narrow,
    "aten.select": select,
    "aten.index_select": index_select,
    "aten.flip": flip,
    "aten.pad": pad,
    "aten.pixel_shuffle": pixel_shuffle,
}
