"""Operators with weights: dense layers, convolutions, norms, embeddings."""

from __future__ import annotations

from typing import Any

from metanet.importers.onnx_files.call import Active, Call, Value


def gemm(call: Call) -> Value:
    """alpha A' B' + beta C, with A' and B' transposed where transA and transB say so."""
    x, weight, bias = call.active(0), call.active(1), call.optional(2)
    alpha, beta = float(call.get("alpha", 1.0)), float(call.get("beta", 1.0))
    x = call.step("permute", x, axes=[1, 0]) if call.get("transA", 0) else x
    flat = bias is not None and bias.rank == 1 and beta == 1 and alpha == 1
    if call.get("transB", 0):
        y = call.step("linear", x, weight, *([bias] if flat and bias.shape[0] > 1 else []))  # type: ignore[union-attr]
        bias = None if flat and bias.shape[0] > 1 else bias  # type: ignore[union-attr]
    else:
        y = call.step("matmul", x, weight)
    y = y if alpha == 1 else call.step("mul_number", y, value=alpha)
    if bias is None or beta == 0:
        return y
    return call.step("add", y, bias if beta == 1 else call.step("mul_number", bias, value=beta))


def matmul(call: Call) -> Value:
    return call.step("matmul", call.active(0), call.active(1))


def einsum(call: Call) -> Value:
    equation = call.get("equation", "").replace(" ", "")
    return call.step("einsum", *(call.active(place) for place in range(len(call.inputs))), equation=equation)


def sides(call: Call, x: Active, kernel: list[int], stride: list[int], dilation: list[int]) -> list[tuple[int, int]]:
    """What is added before and after each axis of the grid."""
    rank, auto = x.rank - 2, call.get("auto_pad", "NOTSET")
    pads = [int(one) for one in call.get("pads", [0] * (2 * rank))]
    if (
        len(pads) != 2 * rank
        or not len(kernel) == len(stride) == len(dilation) == rank
        or min([*stride, *dilation]) < 1
    ):
        raise call.refuse(f"its pads, strides, dilations or kernel are not those of a grid of {rank} axes")
    if auto in ("NOTSET", "VALID"):
        return list(zip(pads[:rank], pads[rank:], strict=True)) if auto == "NOTSET" else [(0, 0)] * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"found auto_pad {auto!r}")
    found = []
    for size, taps, step, gap in zip(x.shape[2:], kernel, stride, dilation, strict=True):
        whole = max(0, (-(-size // step) - 1) * step + (taps - 1) * gap + 1 - size)
        half = whole // 2
        found.append((half, whole - half) if auto == "SAME_UPPER" else (whole - half, half))
    return found


def padded(call: Call, x: Active, ends: list[tuple[int, int]], value: float = 0.0) -> Active:
    """x with `value` around its grid."""
    if not any(map(any, ends)):
        return x
    flat = [side for end in reversed(ends) for side in end]
    return call.step("pad", x, sides=flat, mode="constant", value=value)


def numbers(call: Call, name: str, count: int) -> list[int]:
    return [int(one) for one in call.get(name, [1] * count)]


def conv(call: Call) -> Value:
    x, weight, bias = call.active(0), call.active(1), call.optional(2)
    kernel, rank = list(weight.shape[2:]), x.rank - 2
    if call.get("kernel_shape", kernel) != kernel or not 1 <= rank <= 3:
        raise call.refuse(f"its kernel_shape is not that of its weight {list(weight.shape)}, or no grid of 1 to 3 axes")
    stride, dilation = numbers(call, "strides", rank), numbers(call, "dilations", rank)
    ends = sides(call, x, kernel, stride, dilation)
    padding = [before for before, _ in ends]
    if any(before != after for before, after in ends):
        x, padding = padded(call, x, ends), [0] * rank
    more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": int(call.get("group", 1))}
    return call.step("conv", x, weight, bias, **more)


def conv_transpose(call: Call) -> Value:
    x, weight, bias = call.active(0), call.active(1), call.optional(2)
    kernel, rank = list(weight.shape[2:]), x.rank - 2
    if not 1 <= rank <= 3:
        raise call.refuse(f"found an input of {x.rank} axes, expected a grid of 1 to 3")
    stride, dilation = numbers(call, "strides", rank), numbers(call, "dilations", rank)
    extra = [int(one) for one in call.get("output_padding", [0] * rank)]
    full = [
        step * (size - 1) + more + (taps - 1) * gap + 1
        for size, step, more, taps, gap in zip(x.shape[2:], stride, extra, kernel, dilation, strict=True)
    ]
    auto, wanted = call.get("auto_pad", "NOTSET"), call.get("output_shape", None)
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
    if wanted is not None:
        whole = [most - int(size) for most, size in zip(full, wanted[-rank:], strict=True)]
        upper = auto == "SAME_UPPER"
        ends = [(one // 2, one - one // 2) if upper else (one - one // 2, one // 2) for one in whole]
    else:
        pads = [int(one) for one in call.get("pads", [0] * 2 * rank)] if auto == "NOTSET" else [0] * 2 * rank
        ends = list(zip(pads[:rank], pads[rank:], strict=True))
    if min(map(min, ends)) < 0:
        raise call.refuse(f"found the pads {ends}, expected none below 0")
    same = [min(end) for end in ends]
    more = {"stride": stride, "padding": same, "output_padding": extra, "dilation": dilation}
    y = call.step("conv_transpose", x, weight, bias, **more, groups=int(call.get("group", 1)))
    for axis, (before, after) in enumerate(ends, 2):
        cut = (before - same[axis - 2], after - same[axis - 2])
        if any(cut):
            y = call.step("narrow", y, axis=axis, start=cut[0], end=y.shape[axis] - cut[1])
    return y


def batch_norm(call: Call) -> Value:
    if call.get("training_mode", 0) or call.outputs > 1 or call.get("spatial", 1) != 1:
        raise call.refuse("there is a rule for statistics per channel that were learned only")
    tensors = [call.active(place) for place in range(1, 5)]
    call.lowering.buffers |= {one.name for one in tensors[2:] if one.weight}
    return call.step("batch_norm", call.active(0), *tensors, eps=float(call.get("epsilon", 1e-5)))


def instance_norm(call: Call) -> Value:
    tensors = (call.active(place) for place in range(3))
    return call.step("instance_norm", *tensors, eps=float(call.get("epsilon", 1e-5)))


def layer_norm(call: Call) -> Value:
    """LayerNormalization and RMSNormalization over the last axes, from `axis` on."""
    x, scale, shift = call.active(0), call.active(1), call.optional(2)
    axis = int(call.get("axis", -1)) % x.rank
    shape, eps = list(x.shape[axis:]), float(call.get("epsilon", 1e-5))
    if axis == 0:
        raise call.refuse("it normalises over the samples")
    layers = call.operator == "LayerNormalization"
    op, tensors = ("layer_norm", [scale, shift]) if layers else ("rms_norm", [scale])
    if all(one is None or list(one.shape) == shape for one in tensors):
        return call.step(op, x, *tensors, shape=shape, eps=eps)
    y = call.step("mul", call.step(op, x, shape=shape, eps=eps), scale)
    return y if shift is None or not layers else call.step("add", y, shift)


def group_norm(call: Call) -> Value:
    """With a scale per channel, or, before opset 21, per group."""
    x, scale, shift = (call.active(place) for place in range(3))
    groups, eps, channels = int(call.get("num_groups", 1)), float(call.get("epsilon", 1e-5)), x.shape[1]
    if scale.shape == (channels,):
        return call.step("group_norm", x, scale, shift, groups=groups, eps=eps)
    y = call.step("group_norm", x, groups=groups, eps=eps)
    y = call.step("reshape", y, shape=[-1, groups, channels // groups, *x.shape[2:]])
    ones = [1] * (x.rank - 1)
    y = call.step("mul", y, call.step("reshape", scale, shape=[1, groups, *ones]))
    y = call.step("add", y, call.step("reshape", shift, shape=[1, groups, *ones]))
    return call.step("reshape", y, shape=[-1, *x.shape[1:]])


RULES: dict[str, Any] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "GroupNormalization": group_norm,
}
