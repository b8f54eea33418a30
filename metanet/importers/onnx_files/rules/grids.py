"""Poolings, reductions, pads, and other sizes of a grid."""

from __future__ import annotations

import math
from typing import Any

from metanet.importers.onnx_files.call import Active, Call, Value
from metanet.importers.onnx_files.rules.layers import numbers, padded, sides

LEAST = -3.4028234663852886e38
REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin", "ReduceL2": "norm"}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
SIDES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pool(call: Call) -> Value:
    x = call.active(0)
    kernel, rank = [int(one) for one in call.get("kernel_shape", [])], x.rank - 2
    stride, dilation = numbers(call, "strides", rank), numbers(call, "dilations", rank)
    if call.outputs > 1 or call.get("storage_order", 0) or not 1 <= rank <= 3:
        raise call.refuse("there is a rule for the values in row-major order only, on a grid of 1 to 3 axes")
    largest, ceil = call.operator == "MaxPool", bool(call.get("ceil_mode", 0))
    ends = sides(call, x, kernel, stride, dilation)
    includes = bool(call.get("count_include_pad", 0)) or not any(map(any, ends))
    uneven = any(before != after or 2 * before > taps for (before, after), taps in zip(ends, kernel, strict=True))
    if uneven and not (largest or (includes and not ceil)):
        raise call.refuse("there is no rule for averages that leave out pads of different sizes on both sides")
    padding = [before for before, _ in ends]
    if uneven:
        x, padding = padded(call, x, ends, LEAST if largest else 0.0), [0] * rank
    window = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
    if largest:
        return call.step("max_pool", x, **window, dilation=dilation)
    if max(dilation) > 1:
        raise call.refuse("there is no rule for its dilations")
    return call.step("avg_pool", x, **window, count_include_pad=includes)


def global_pool(call: Call) -> Value:
    x = call.active(0)
    op = "adaptive_avg_pool" if call.operator == "GlobalAveragePool" else "adaptive_max_pool"
    if not 3 <= x.rank <= 5:
        raise call.refuse(f"found an input of {x.rank} axes, expected a grid of 1 to 3")
    return call.step(op, x, size=[1] * (x.rank - 2))


def reduce(call: Call) -> Value:
    x, axes, keep = call.active(0), call.axes(), bool(call.get("keepdims", 1))
    if not axes and call.get("noop_with_empty_axes", 0):
        return x
    axes = sorted({axis % x.rank for axis in axes or range(x.rank)})
    if x.metas[0].shape != x.metas[1].shape and any(x.metas[0].shape[a] != x.metas[1].shape[a] for a in axes):
        raise call.refuse("it mixes the samples")
    if call.operator in REDUCTIONS:
        return call.step(REDUCTIONS[call.operator], x, axes=axes, keep=keep)
    before = call.step("abs" if call.operator == "ReduceL1" else "square", x)
    return call.step("sum", before, axes=axes, keep=keep)


def softmax(call: Call) -> Value:
    """Along one axis; before opset 13 along all from `axis` on together."""
    x = call.active(0)
    axis = int(call.get("axis", -1 if call.opset >= 13 else 1)) % x.rank
    if call.opset < 13 and math.prod(x.shape[axis + 1 :]) > 1:
        raise call.refuse("there is no rule for several axes together")
    return call.step("softmax" if call.operator == "Softmax" else "log_softmax", x, axis=axis)


def pad(call: Call) -> Value:
    x, given = call.active(0), call.axes("pads", 1)
    mode = call.get("mode", "constant")
    value = call.get("value", 0.0) if "pads" in call.attributes else call.number(2) or 0.0
    axes = call.axes("", 3) or list(range(x.rank))
    if given is None or len(given) != 2 * len(axes) or mode not in SIDES:
        raise call.refuse(f"found {given} and the mode {mode!r}, expected a number before and after each axis")
    ends = [(0, 0)] * x.rank
    for place, axis in enumerate(axes):
        ends[axis % x.rank] = (given[place], given[place + len(axes)])
    if not any(map(any, ends)):
        return x
    if any(ends[0]):
        raise call.refuse("it pads the samples")
    first = next(axis for axis, end in enumerate(ends) if any(end))
    flat = [side for end in reversed(ends[first:]) for side in end]
    value = max(LEAST, min(-LEAST, float(value)))
    return call.step("pad", x, sides=flat, mode=SIDES[mode], **({"value": value} if mode == "constant" else {}))


def resize(call: Call) -> Value:
    """Resize, and its forerunner Upsample."""
    x = call.active(0)
    rank = x.rank - 2
    scales, sizes = _scales(call)
    axes = call.get("axes", None) or list(range(x.rank))
    target = list(x.shape)
    factors = [1.0] * x.rank
    for place, axis in enumerate(axes):
        target[axis % x.rank] = int(sizes[place]) if sizes else math.floor(x.shape[axis] * scales[place])
        factors[axis % x.rank] = 1.0 if sizes else float(scales[place])
    plain = call.get("keep_aspect_ratio_policy", "stretch") == "stretch" and not call.get("antialias", 0)
    if not 1 <= rank <= 3 or (not sizes and factors[:2] != [1.0, 1.0]) or not plain or call.get("exclude_outside", 0):
        raise call.refuse("there is a rule for stretching a grid of 1 to 3 axes only, without antialias")
    more = {"size": target[2:]} if sizes else {"scale": factors[2:]}
    return call.step("resize", x, **_mode(call, rank), **more)


def _scales(call: Call) -> tuple[list[float], list[int]]:
    """The factors or the sizes, of which one is empty."""
    if call.operator == "Upsample" and "scales" in call.attributes:
        return [float(one) for one in call.get("scales", [])], []
    place = 1 if call.operator == "Upsample" or call.opset < 11 else 2
    scales = call.numbers(place) if call.given(place) else []
    if scales:
        return scales, []
    one, other = call.fixed(3)
    if (one[1:] != other[1:]).any():
        raise call.refuse("its sizes depend on the number of samples")
    return [], one.tolist()


def _mode(call: Call, rank: int) -> dict[str, Any]:
    old = call.operator == "Upsample" or call.opset < 11
    mode = call.get("mode", "nearest")
    way = call.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = call.get("nearest_mode", "floor" if old else "round_prefer_floor")
    half = way in ("half_pixel", "pytorch_half_pixel")
    if mode == "nearest" and rounding == "floor" and way == "asymmetric":
        return {"mode": "nearest"}
    if mode == "nearest" and rounding.startswith("round") and half:
        return {"mode": "nearest-exact"}
    cubic = mode == "cubic" and rank == 2 and math.isclose(call.get("cubic_coeff_a", -0.75), -0.75)
    if (mode == "linear" or cubic) and (half or way == "align_corners"):
        return {"mode": "bicubic" if cubic else LINEAR[rank], "align_corners": not half}
    raise call.refuse(f"there is no rule for the mode {mode!r} with {way!r} and {rounding!r}")


def lp_normalization(call: Call) -> Value:
    x: Active = call.active(0)
    if call.get("p", 2) != 2:
        raise call.refuse("there is a rule for p = 2 only")
    return call.step("div", x, call.step("norm", x, axes=[int(call.get("axis", -1))], keep=True))


RULES: dict[str, Any] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), global_pool),
    **dict.fromkeys((*REDUCTIONS, "ReduceL1", "ReduceSumSquare"), reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    "Pad": pad,
    "LpNormalization": lp_normalization,
}
