"""Operators with weights, and attention."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from onnx import numpy_helper

from metanet.exporters.onnx_files.rules import Call, Ref

LOW = -3e38  # for what softmax is not to see


def linear(call: Call) -> Ref:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    if x.rank == 2:
        return call.emit("Gemm", *(one for one in (x, weight, bias) if one is not None), transB=1)
    y = call.emit("MatMul", x, call.emit("Transpose", weight, perm=[1, 0]))
    return y if bias is None else call.emit("Add", y, bias)


def matmul(call: Call) -> Ref:
    return call.emit("MatMul", call["self"], call["other"] if "other" in call.arguments else call["mat2"])


def addmm(call: Call) -> Ref:
    return call.emit(
        "Gemm", call["mat1"], call["mat2"], call["self"], alpha=float(call["alpha"]), beta=float(call["beta"])
    )


def einsum(call: Call) -> Ref:
    return call.emit("Einsum", *call["tensors"], equation=call["equation"])


def conv(call: Call) -> Ref:
    """aten.convNd and aten.conv_transposeNd."""
    stride, padding, dilation = list(call["stride"]), call["padding"], list(call["dilation"])
    kernel = call["weight"].shape[2:]
    if isinstance(padding, str):
        whole = [step * (size - 1) * (padding == "same") for step, size in zip(dilation, kernel, strict=True)]
        pads = [one // 2 for one in whole] + [one - one // 2 for one in whole]
    else:
        pads = [*padding, *padding]
    more = {"strides": stride, "pads": pads, "dilations": dilation, "group": call["groups"]}
    if "transpose" in call.operator:
        more["output_padding"] = list(call["output_padding"])
    kind = "ConvTranspose" if "transpose" in call.operator else "Conv"
    read = [one for one in (call["input"], call["weight"], call["bias"]) if one is not None]
    return call.emit(kind, *read, **more)


def filled(call: Call, size: int, value: float) -> Ref:
    """As many times a number as there are channels; no weight."""
    number = numpy_helper.from_array(torch.tensor([value]).numpy())
    return replace(call.emit("ConstantOfShape", call.graph.whole([size]), value=number), shape=(size,))


def affine(call: Call, size: int) -> tuple[Ref, Ref]:
    """Scale and shift, 1 and 0 where the norm has none."""
    weight, bias = call["weight"], call.arguments.get("bias")
    return (
        filled(call, size, 1.0) if weight is None else weight,
        filled(call, size, 0.0) if bias is None else bias,
    )


def batch_norm(call: Call) -> Ref:
    x, statistics = call["input"], (call["running_mean"], call["running_var"])
    if call.arguments.get("training") or call.arguments.get("use_input_stats") or None in statistics:
        raise call.refuse("it normalises by its batch")
    return call.emit("BatchNormalization", x, *affine(call, x.shape[1]), *statistics, epsilon=float(call["eps"]))


def instance_norm(call: Call) -> Ref:
    if not call["use_input_stats"]:
        return batch_norm(call)
    x = call["input"]
    return call.emit("InstanceNormalization", x, *affine(call, x.shape[1]), epsilon=float(call["eps"]))


def layer_norm(call: Call) -> Ref:
    axes, weight, bias = len(call["normalized_shape"]), call["weight"], call["bias"]
    if weight is None:
        if axes > 1:
            raise call.refuse("there is no rule for a norm over several axes without a scale")
        weight = filled(call, call["normalized_shape"][0], 1.0)
    read = [call["input"], weight, *([] if bias is None else [bias])]
    return call.emit("LayerNormalization", *read, axis=-axes, epsilon=float(call["eps"]))


def rms_norm(call: Call) -> Ref:
    x, axes = call["input"], list(range(-len(call["normalized_shape"]), 0))
    eps = torch.finfo(torch.float32).eps if call["eps"] is None else call["eps"]
    mean = call.emit("ReduceMean", call.emit("Mul", x, x), call.graph.whole(axes))
    y = call.emit("Div", x, call.emit("Sqrt", call.emit("Add", mean, float(eps))))
    return y if call["weight"] is None else call.emit("Mul", y, call["weight"])


def group_norm(call: Call) -> Ref:
    x = call["input"]
    more = {"num_groups": call["num_groups"], "epsilon": float(call["eps"])}
    return call.emit("GroupNormalization", x, *affine(call, x.shape[1]), **more)


def embedding(call: Call) -> Ref:
    weight, indices = call["weight"], call["indices"]
    if isinstance(indices, Ref) and indices.each is not None:  # places: taken once, for all samples
        return call.emit("Expand", call.emit("Gather", weight, indices.each, axis=0), call.sizes())
    return call.emit("Gather", weight, indices, axis=0)


def softmax(call: Call) -> Ref:
    return call.emit("LogSoftmax" if "log" in call.operator else "Softmax", call["self"], axis=call["dim"])


def attention(call: Call) -> Ref:
    """softmax(query key^T scale + mask) value."""
    query, key, value, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
    if call["dropout_p"] or call.arguments.get("enable_gqa"):
        raise call.refuse("there is no rule for dropout or grouped queries")
    axes = list(range(key.rank))
    swapped = call.emit("Transpose", key, perm=[*axes[:-2], axes[-1], axes[-2]])
    scale = 1 / math.sqrt(query.shape[-1]) if call["scale"] is None else call["scale"]
    scores = call.emit("Mul", call.emit("MatMul", query, swapped), float(scale))
    if call["is_causal"]:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = call.emit("Where", mask, scores, LOW)
    elif mask is not None:
        scores = call.emit("Add", scores, mask)
    return call.emit("MatMul", call.emit("Softmax", scores, axis=-1), value)


RULES: dict[str, Any] = {
    **{f"aten.conv{way}{n}d": conv for way in ("", "_transpose") for n in (1, 2, 3)},
    **dict.fromkeys(("aten.matmul", "aten.mm", "aten.bmm"), matmul),
    **dict.fromkeys(("aten.softmax", "aten._softmax", "aten.log_softmax"), softmax),
    "aten.linear": linear,
    "aten.addmm": addmm,
    "aten.einsum": einsum,
    "aten.batch_norm": batch_norm,
    "aten.instance_norm": instance_norm,
    "aten.layer_norm": layer_norm,
    "aten.rms_norm": rms_norm,
    "aten.group_norm": group_norm,
    "aten.embedding": embedding,
    "aten.scaled_dot_product_attention": attention,
}
