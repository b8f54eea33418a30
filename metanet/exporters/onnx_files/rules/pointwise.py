"""Activations, sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from metanet.exporters.onnx_files.rules import Call, Ref

PLAIN = {
    **{
        name: name.capitalize()
        for name in ("relu", "sigmoid", "tanh", "softplus", "selu", "mish", "exp", "log", "sqrt")
    },
    **{name: name.capitalize() for name in ("reciprocal", "abs", "neg", "sign", "erf", "sin", "cos", "atan", "sinh")},
    **{name: name.capitalize() for name in ("cosh", "asinh")},
    "hardswish": "HardSwish",
}
SAME = ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "alias", "detach", "clone", "to", "_to_copy")


def _plain(kind: str) -> Callable[[Call], Ref]:
    return lambda call: call.emit(kind, call["self"])


def identity(call: Call) -> Ref:
    return call.cast(call["input"] if "input" in call.arguments else call["self"], call.dtype)


def softplus(call: Call) -> Ref:
    if call["beta"] != 1:
        raise call.refuse("its beta is not 1")
    return call.emit("Softplus", call["self"])


def silu(call: Call) -> Ref:
    return call.emit("Mul", call["self"], call.emit("Sigmoid", call["self"]))


def leaky_relu(call: Call) -> Ref:
    return call.emit("LeakyRelu", call["self"], alpha=float(call["negative_slope"]))


def elu(call: Call) -> Ref:
    if call.arguments.get("scale", 1) != 1 or call.arguments.get("input_scale", 1) != 1:
        raise call.refuse("it is scaled")
    return call.emit("Celu" if call.operator == "aten.celu" else "Elu", call["self"], alpha=float(call["alpha"]))


def gelu(call: Call) -> Ref:
    return call.emit("Gelu", call["self"], approximate=call["approximate"])


def clamp(call: Call) -> Ref:
    """clamp(min, max), hardtanh(min_val, max_val) and relu6."""
    low, high = 0.0, 6.0
    if call.operator != "aten.relu6":
        low, high = (call.arguments.get(name, call.arguments.get(f"{name}_val")) for name in ("min", "max"))
    return call.emit("Clip", call["self"], low, high)


def hardsigmoid(call: Call) -> Ref:
    return call.emit("HardSigmoid", call["self"], alpha=1 / 6, beta=0.5)


def prelu(call: Call) -> Ref:
    x, slope = call["self"], call["weight"]
    ones = (1,) * max(0, x.rank - 2)
    return call.emit("PRelu", x, call.reshaped(slope, (*slope.shape, *ones)) if ones else slope)


def square(call: Call) -> Ref:
    return call.emit("Mul", call["self"], call["self"])


def rsqrt(call: Call) -> Ref:
    return call.emit("Reciprocal", call.emit("Sqrt", call["self"]))


def power(call: Call) -> Ref:
    if not isinstance(call["exponent"], int | float):
        raise call.refuse("its exponent is no number")
    return call.emit("Pow", call["self"], float(call["exponent"]))


ARITHMETIC = {"add": "Add", "mul": "Mul", "div": "Div", "sub": "Sub", "rsub": "Sub", "maximum": "Max", "minimum": "Min"}
COMPARISONS = {"lt": "Less", "le": "LessOrEqual", "eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater"}
LOGICAL = {"logical_and": "And", "logical_or": "Or"}


def _binary(kind: str) -> Callable[[Call], Ref]:
    """With alpha times the second; the first and second in the other order for rsub."""

    def binary(call: Call) -> Ref:
        left, right = call["self"], call["other"]
        if call.operator == "aten.rsub":
            left, right = right, left
        if call.arguments.get("rounding_mode") or (call.operator == "aten.rsub" and call["alpha"] != 1):
            raise call.refuse("there is no rule for its alpha or its rounding")
        alpha = call.arguments.get("alpha", 1)
        if alpha != 1:
            right = (
                right * alpha
                if isinstance(right, int | float)
                else call.emit("Mul", call.cast(right, call.dtype), call.cast(alpha, call.dtype))
            )
        dtype = call.dtype if kind in ARITHMETIC.values() else call.common(left, right)
        return call.emit(kind, call.cast(left, dtype), call.cast(right, dtype))

    return binary


def unequal(call: Call) -> Ref:
    return call.emit("Not", _binary("Equal")(call))


def where(call: Call) -> Ref:
    parts = (call.cast(call[name], call.dtype) for name in ("self", "other"))
    return call.emit("Where", call["condition"], *parts)


def masked_fill(call: Call) -> Ref:
    value = call["value"]
    value = max(-3e38, min(3e38, value)) if isinstance(value, float) and math.isinf(value) else value
    return call.emit("Where", call["mask"], call.cast(value, call.dtype), call["self"])


RULES: dict[str, Any] = {
    **{f"aten.{name}": _plain(kind) for name, kind in PLAIN.items()},
    **{f"aten.{name}": identity for name in SAME},
    **dict.fromkeys(("aten.elu", "aten.celu"), elu),
    **dict.fromkeys(("aten.clamp", "aten.hardtanh", "aten.relu6"), clamp),
    **{f"aten.{name}": _binary(kind) for name, kind in {**ARITHMETIC, **COMPARISONS, **LOGICAL}.items()},
    "aten.ne": unequal,
    "aten.logical_not": lambda call: call.emit("Not", call["self"]),
    "aten.softplus": softplus,
    "aten.silu": silu,
    "aten.leaky_relu": leaky_relu,
    "aten.gelu": gelu,
    "aten.hardsigmoid": hardsigmoid,
    "aten.prelu": prelu,
    "aten.square": square,
    "aten.rsqrt": rsqrt,
    "aten.pow": power,
    "aten.where": where,
    "aten.masked_fill": masked_fill,
}
