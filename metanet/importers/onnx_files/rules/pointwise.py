"""Activations, sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from metanet.importers.onnx_files.call import Active, Call, Fixed, Value

PLAIN = {
    **{
        name: name.lower()
        for name in ("Relu", "Sigmoid", "Tanh", "Softsign", "HardSwish", "Mish", "Exp", "Log", "Sqrt")
    },
    **{
        name: name.lower() for name in ("Reciprocal", "Abs", "Neg", "Sign", "Erf", "Sin", "Cos", "Atan", "Sinh", "Cosh")
    },
    "Asinh": "asinh",
    "Softplus": "softplus",
}
SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _plain(op: str) -> Callable[[Call], Value]:
    return lambda call: call.step(op, call.active(0))


def leaky_relu(call: Call) -> Value:
    return call.step("leaky_relu", call.active(0), negative_slope=float(call.get("alpha", 0.01)))


def elu(call: Call) -> Value:
    return call.step(call.operator.lower(), call.active(0), alpha=float(call.get("alpha", 1.0)))


def selu(call: Call) -> Value:
    found = (call.get("alpha", SELU[0]), call.get("gamma", SELU[1]))
    if not np.allclose(found, SELU):
        raise call.refuse(f"found alpha and gamma {found}, expected those of the paper, {SELU}")
    return call.step("selu", call.active(0))


def gelu(call: Call) -> Value:
    return call.step("gelu", call.active(0), approximate=call.get("approximate", "none"))


def swish(call: Call) -> Value:
    if call.get("alpha", 1.0) != 1:
        raise call.refuse("there is a rule for alpha = 1 only")
    return call.step("silu", call.active(0))


def hard_sigmoid(call: Call) -> Value:
    alpha, beta = float(call.get("alpha", 0.2)), float(call.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return call.step("hardsigmoid", call.active(0))
    x = call.step("add_number", call.step("mul_number", call.active(0), value=alpha), value=beta)
    return call.step("clamp", x, min=0.0, max=1.0)


def thresholded_relu(call: Call) -> Value:
    return call.step("threshold", call.active(0), threshold=float(call.get("alpha", 1.0)), value=0.0)


def shrink(call: Call) -> Value:
    lambd, bias = float(call.get("lambd", 0.5)), float(call.get("bias", 0.0))
    if bias not in (0.0, lambd):
        raise call.refuse(f"there is a rule for a bias of 0 or lambd only, found {bias}")
    return call.step("softshrink" if bias else "hardshrink", call.active(0), lambd=lambd)


def prelu(call: Call) -> Value:
    """A slope per channel, of shape [channels, 1, ...], or one for all."""
    x, slope = call.active(0), call.active(1)
    sizes = [size for size in slope.shape if size > 1]
    per_channel = slope.rank <= x.rank and len(sizes) <= 1
    if sizes:
        axis = x.rank - slope.rank + slope.shape.index(sizes[0])
        per_channel = per_channel and axis == 1
    if not per_channel:
        raise call.refuse(f"there is a rule for a slope per channel only, found the shape {list(slope.shape)}")
    flat = slope if slope.rank == 1 else call.step("reshape", slope, shape=[math.prod(slope.shape)])
    return call.step("prelu", x, flat)


def clip(call: Call) -> Value:
    low, high = call.get("min", None), call.get("max", None)
    if low is None and high is None:
        low, high = call.number(1), call.number(2)
    limits = {name: float(one) for name, one in (("min", low), ("max", high)) if one is not None and abs(one) < 3e38}
    return call.step("clamp", call.active(0), **limits) if limits else call.active(0)


def identity(call: Call) -> Value:
    """Identity, Dropout as it is when nothing is trained, and casts from floats or truth values to floats."""
    value = call.inputs[0] if call.given(0) else None
    if value is None:
        raise call.refuse("found no input")
    if call.operator == "Cast" and isinstance(value, Active):
        floating, to_floating = value.metas[0].is_floating_point(), call.get("to", 0) in (1, 10, 11, 16)
        if value.metas[0].dtype == torch.bool and to_floating:
            sides = (np.array(one, np.float32) for one in (1, 0))
            return call.step("where", value, *(call.lowering.active(Fixed((one, one)), call.where) for one in sides))
        if floating != to_floating:
            raise call.refuse("there is no rule for a cast between floats and whole numbers of what the input decides")
    if call.operator == "Dropout" and call.given(2) and any(call.numbers(2)):
        raise call.refuse("it drops values: training_mode is set")
    return value


def is_number(value: Value | None) -> bool:
    """One number of the architecture."""
    return isinstance(value, Fixed) and value.source is None and value.arrays[0].size == 1 == value.arrays[1].size


def _is_mask(value: Value | None) -> bool:
    """Zeros and minus infinities, which no net learns."""
    if not isinstance(value, Fixed) or any(array.dtype.kind != "f" for array in value.arrays):
        return False
    return all(bool(((array == 0) | np.isneginf(array)).all() and (array != 0).any()) for array in value.arrays)


def binary(op: str, call: Call) -> Value:
    """Of two values, or of one and a number of the architecture."""
    for place, number in ((0, 1), (1, 0)):
        if is_number(call.inputs[number]) and isinstance(call.inputs[place], Active):
            one = call.number(number)
            assert one is not None
            return _with_number(op, call, call.active(place), one, behind=number == 1)
        if op == "add" and _is_mask(call.inputs[number]) and isinstance(call.inputs[place], Active):
            open_ = [array == 0 for array in call.fixed(number)]
            return call.step(
                "masked", call.active(place), call.lowering.active(Fixed((open_[0], open_[1])), call.where)
            )
    return call.step(op, call.active(0), call.active(1))


def _with_number(op: str, call: Call, x: Active, number: float, behind: bool) -> Value:
    if op == "add" or (op == "sub" and behind):
        return call.step("add_number", x, value=number if op == "add" else -number)
    if op == "sub":
        return call.step("sub_from_number", x, value=number)
    if op == "div" and not behind:
        x = call.step("reciprocal", x)
        return x if number == 1 else call.step("mul_number", x, value=number)
    return call.step(f"{op}_number", x, value=number)


def power(call: Call) -> Value:
    exponent = call.number(1)
    assert exponent is not None
    return call.step("square", call.active(0)) if exponent == 2 else call.step("pow", call.active(0), exponent=exponent)


def total(call: Call) -> Value:
    """Sum and Mean of any number of values."""
    x = call.active(0)
    for place in range(1, len(call.inputs)):
        x = call.step("add", x, call.active(place))
    return x if call.operator == "Sum" else call.step("div_number", x, value=float(len(call.inputs)))


RULES: dict[str, Any] = {
    **{name: _plain(op) for name, op in PLAIN.items()},
    **{name: partial(binary, name.lower()) for name in ("Add", "Sub", "Mul", "Div")},
    **dict.fromkeys(("Identity", "Dropout", "Cast"), identity),
    **dict.fromkeys(("Elu", "Celu"), elu),
    **dict.fromkeys(("Sum", "Mean"), total),
    "LeakyRelu": leaky_relu,
    "Selu": selu,
    "Gelu": gelu,
    "Swish": swish,
    "HardSigmoid": hard_sigmoid,
    "ThresholdedRelu": thresholded_relu,
    "Shrink": shrink,
    "PRelu": prelu,
    "Clip": clip,
    "Pow": power,
}
