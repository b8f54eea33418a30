"""Sums, products and quotients: of an activation with a number, with a parameter, or with another activation."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from metanet.arch.call import Call
from metanet.arch.combine import combine
from metanet.arch.layout import REPEAT
from metanet.arch.rules.functions import pair
from metanet.arch.value import Entry, Value, draft_of

Operand = Value | Tensor | int | float | complex
WITH_NUMBER = {
    "add": ("add", "value"),
    "mul": ("mul", "value"),
    "maximum": ("clamp_min", "min"),
    "minimum": ("clamp_max", "max"),
}
ROLES = {"add": "shift", "mul": "scale"}  # of a parameter with one number per channel, or one for all


def add(call: Call) -> Value:
    """aten.add(self, other, alpha)."""
    return join(call, "add", call["self"], scaled(call, call["other"], call["alpha"]))


def subtract(call: Call) -> Value:
    """aten.sub(self, other, alpha)."""
    return join(call, "add", call["self"], scaled(call, call["other"], -call["alpha"]))


def subtract_from(call: Call) -> Value:
    """aten.rsub(self, other, alpha): other - alpha * self."""
    return join(call, "add", scaled(call, call["self"], -call["alpha"]), call["other"])


def multiply(call: Call) -> Value:
    """aten.mul(self, other)."""
    return join(call, "mul", call["self"], call["other"])


def divide(call: Call) -> Value:
    """aten.div(self, other, rounding_mode): by a number, or times the reciprocal; "floor" and "trunc" round it."""
    if rounding := call.arguments.get("rounding_mode"):
        return call.operate(quotient(call), rounding)
    return quotient(call)


def quotient(call: Call) -> Value:
    """self / other."""
    if isinstance(call["other"], Value):
        return join(call, "mul", call["self"], call.operate(call.activation("other"), "reciprocal"))
    if isinstance(call["other"], Tensor) and call["other"].numel() > 1:
        return join(call, "mul", call["self"], 1 / call["other"])
    return call.operate(call.activation("self"), "div", value=call.number("other"))


def power(call: Call) -> Value:
    """aten.pow(self, exponent): to a power that the code fixes, a fixed number to a power, or both computed."""
    base, exponent = call["self"], call["exponent"]
    number = base.item() if isinstance(base, Tensor) and base.numel() == 1 else base
    if isinstance(number, int | float) and number > 0:
        return call.operate(call.operate(call.active(exponent), "mul", value=math.log(number)), "exp")
    if isinstance(base, Value) and (not isinstance(exponent, Value | Tensor) or call.is_number("exponent")):
        return call.operate(call.active(base), "pow", exponent=call.number("exponent"))
    return combine(call, ["power", "exponent"], [base, exponent])


def remainder(call: Call) -> Value:
    """aten.remainder(self, other)."""
    if not call.is_number("other"):
        return pair(call, call["self"], call["other"], "remainder")
    return call.operate(call.activation("self"), "remainder", value=call.number("other"))


def scaled(call: Call, value: Operand, by: int | float) -> Operand:
    """`by` times the value."""
    if by == 1:
        return value
    return call.operate(call.active(value), "mul", value=by) if isinstance(value, Value) else value * by


def join(call: Call, kind: str, left: Operand, right: Operand) -> Value:
    """The sum ("add"), product ("mul"), "maximum" or "minimum" of two values, at least one of which is no constant."""
    if not isinstance(left, Value):
        left, right = right, left
    left = left if isinstance(left, Value) and isinstance(left.home, Entry) else call.active(left)
    if isinstance(left.home, Entry) and isinstance(right, Value):
        left, right = right, left
    if isinstance(right, complex) or (isinstance(right, Tensor) and right.is_complex()):
        return combine(call, [kind, kind], [left, torch.as_tensor(right)])
    if not isinstance(right, Value | Tensor) or (isinstance(right, Tensor) and right.numel() == 1):
        number = right.item() if isinstance(right, Tensor) else right
        name, argument = WITH_NUMBER[kind]
        return call.operate(call.active(left), name, **{argument: number})
    if kind in ROLES and isinstance(right, Value) and (axis := _meeting_axis(call, left, right)) is not None:
        if math.prod(right.shape) > 1:
            own = next(k for k, dims in enumerate(right.axes) if dims)
            call.equate(call.axis(right, own), call.channels(left, axis))
        role = ROLES[kind]
        return call.operate(call.vector(left, axis, {role: right}), role)
    return combine(call, [kind, kind], [left, right])


def _meeting_axis(call: Call, x: Value, entry: Value) -> int | None:
    """The axis of the channels of x, if the parameter holds one number for each of them, or one for all."""
    if not isinstance(entry.home, Entry) or isinstance(x.home, Entry) or draft_of(x).undecided is not None:
        return None
    rank = len(x.axes)
    carrying = [axis for axis in range(rank) if x.carries(axis)]
    held = [axis + rank - len(entry.axes) for axis, dims in enumerate(entry.axes) if dims]
    if (
        not rank
        or len(held) > 1
        or len(carrying) > 1
        or len(entry.axes) > rank
        or any(d.axis == REPEAT for r in x.axes for d in r)
    ):
        return None
    if not held:
        return (carrying or [rank - 1])[0] if all(size == 1 for size in entry.sizes) else None
    pure = held == carrying and all(x.is_node(dim) for dim in x.axes[held[0]])
    complete = pure and x.shape[held[0]] == draft_of(x).type.size == entry.shape[held[0] - rank + len(entry.axes)]
    return held[0] if complete else None


class _Learned(nn.Module):
    """The function of an input and a parameter."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


RULES = {
    "aten.add": add,
    "aten.sub": subtract,
    "aten.rsub": subtract_from,
    "aten.mul": multiply,
    "aten.div": divide,
    "aten.pow": power,
    "aten.remainder": remainder,
}
OPERATIONS = {"add": ("value",), "mul": ("value",), "div": ("value",), "scale": (), "shift": (), "constant": ("table",)}
OPERATIONS |= {"pow": ("exponent",), "remainder": ("value",)}
LINEAR = ("mul", "div", "shift")  # a parameter that is added follows as a bias does
COPIES = ("add",)
LINKS = ("add", "mul", "sum", "power", "exponent")
EXAMPLES = {
    "aten.add": ((4, 5), lambda: _Learned(lambda x, p: 1.5 + torch.tanh(x) + x + p, 4, 1)),
    "aten.sub": ((4, 5), lambda: _Learned(lambda x, p: torch.tanh(x) - 2 * x - 1.5 - p, 4, 5)),
    "aten.rsub": ((4, 5), lambda: lambda x: 1.5 - x),
    "aten.mul": ((4, 5), lambda: _Learned(lambda x, p: p * torch.sigmoid(x) * x * 1.5 * x.mean(2, keepdim=True), 1)),
    "aten.div": ((4, 5), lambda: lambda x: x / 1.5 / (x.abs() + 1) + torch.div(x, 0.3, rounding_mode="floor")),
    "aten.remainder": ((4, 5), lambda: lambda x: x * x.remainder(0.5) + x.remainder(x.tanh() + 2)),
    "aten.pow": ((4, 5), lambda: lambda x: x**3 + 1.5**x + (x.square() + 1) ** x.tanh()),
}
