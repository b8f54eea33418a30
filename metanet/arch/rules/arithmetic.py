"""Sums of activations (residual connections) and arithmetic with one number."""

import torch

from metanet.arch.axes import Axis
from metanet.arch.record import Call, Value


def add(call: Call) -> Value:
    """aten.add(self, other, alpha): of two activations their channels move together; of a number, an operation."""
    return _add(call, call["alpha"])


def subtract(call: Call) -> Value:
    """aten.sub(self, other, alpha)."""
    return _add(call, -call["alpha"])


def _add(call: Call, alpha: int | float) -> Value:
    left = call.activation("self")
    if not isinstance(call["other"], Value):
        return call.operate(left, "add", value=call.number("other") * alpha)
    right = call.activation("other")
    return join(call, "add", left, right if alpha == 1 else call.operate(right, "mul", value=alpha))


def subtract_from(call: Call) -> Value:
    """aten.rsub(self, other, alpha): other - alpha * self, where other is a number."""
    negative = call.operate(call.activation("self"), "mul", value=-call["alpha"])
    return call.operate(negative, "add", value=call.number("other"))


def multiply(call: Call) -> Value:
    """aten.mul(self, other): with a number an operation, of two activations a gate."""
    if not isinstance(call["other"], Value):
        return call.operate(call.activation("self"), "mul", value=call.number("other"))
    return join(call, "mul", call.activation("self"), call.activation("other"))


def divide(call: Call) -> Value:
    """aten.div(self, number)."""
    if call.arguments.get("rounding_mode"):
        raise call.unsupported("there is a rule for true division only")
    return call.operate(call.activation("self"), "div", value=call.number("other"))


def join(call: Call, kind: str, left: Value, right: Value) -> Value:
    """A new space, linked from both, whose channels move together; either may be the same at every place."""
    alike = len(left.axes) == len(right.axes) and left.channel == right.channel is not None and left.taps == right.taps
    if not alike or any(a.size != b.size and 1 not in (a.size, b.size) for a, b in _pairs(left, right)):
        raise call.unsupported(f"its two inputs must be alike, found shapes {left.shape} and {right.shape}")
    assert left.channel is not None
    if left.axes[left.channel].size != right.axes[left.channel].size:
        raise call.unsupported(f"it spreads one channel over all, shapes {left.shape} and {right.shape}")
    if left.taps:
        raise call.unsupported("it joins flattened grids; join them before they are flattened")
    for one, other in _pairs(left, right):
        if one.size == other.size:
            call.equate(one, other)
    joined = call.write(tuple(max(pair, key=lambda one: one.size) for pair in _pairs(left, right)), left.channel)
    call.link(kind, left, joined)
    call.link(kind, right, joined)
    return joined


def _pairs(left: Value, right: Value) -> list[tuple[Axis, Axis]]:
    return list(zip(left.axes, right.axes, strict=True))


RULES = {"aten.add": add, "aten.sub": subtract, "aten.rsub": subtract_from, "aten.mul": multiply, "aten.div": divide}
OPERATIONS = {"add": ("value",), "mul": ("value",), "div": ("value",)}
EXAMPLES = {
    "aten.add": ((4, 5), lambda: lambda x: 1.5 + torch.tanh(x) + x),
    "aten.sub": ((4, 5), lambda: lambda x: torch.tanh(x) - 2 * x - 1.5),
    "aten.rsub": ((4, 5), lambda: lambda x: 1.5 - x),
    "aten.mul": ((4, 5), lambda: lambda x: torch.sigmoid(x) * x * 1.5 * x.mean(2, keepdim=True)),
    "aten.div": ((4, 5), lambda: lambda x: x / 1.5),
}
