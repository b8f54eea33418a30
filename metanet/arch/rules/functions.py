"""Functions of one or two numbers that few networks use: one kind of operation, whose table names the function.

What has a kind of its own (activation.py, arithmetic.py, comparison.py) is told apart by its own columns.
"""

from functools import partial

import torch
from torch import Tensor

from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.value import Value

OF_ONE = (
    *("acos", "asin", "acosh", "ceil", "tan", "erfc", "erfinv", "exp2", "log2", "log10", "lgamma", "digamma"),
    *("isnan", "signbit", "i0", "special_i1", "special_i0e", "special_i1e", "special_ndtri", "special_erfcx", "angle"),
)
OF_TWO = ("atan2", "fmod", "fmax", "fmin", "hypot", "copysign", "xlogy", "heaviside")


def of_one(call: Call) -> Value:
    """aten.acos(self), ..."""
    return named(call, call.activation("self"), call.operator)


def named(call: Call, x: Value, name: str) -> Value:
    """The function of this name of every number."""
    return call.operate(x, "function", table=name.removesuffix("_"))


def of_two(call: Call) -> Value:
    """aten.atan2(self, other), ...: the first and the second number differ by their links."""
    left, right = list(call.arguments.values())[:2]
    return pair(call, left, right, call.operator)


def pair(call: Call, left: Value | Tensor | float, right: Value | Tensor | float, name: str) -> Value:
    """The function of this name of two values, at least one of which is no constant."""
    sides = [torch.tensor(float(one)) if isinstance(one, int | float) else one for one in (left, right)]
    return named(call, combine(call, ["first", "second"], sides), name)


def nan_to_num(call: Call) -> Value:
    """aten.nan_to_num(self, nan, posinf, neginf)."""
    numbers = [call[name] for name in ("nan", "posinf", "neginf")]
    return named(call, call.activation("self"), f"nan_to_num {numbers}")


def polygamma(call: Call) -> Value:
    """aten.polygamma(n, self), aten.special_polygamma."""
    return named(call, call.activation("self"), f"polygamma {call['n']}")


RULES: dict[str, Rule] = {
    **{f"aten.{name}": of_one for name in OF_ONE},
    **{f"aten.{name}": of_two for name in OF_TWO},
    "aten.nan_to_num": nan_to_num,
    **dict.fromkeys(("aten.polygamma", "aten.special_polygamma"), polygamma),
}
OPERATIONS = {"function": ("table",)}
LINKS = ("first", "second")
_OPERATORS = torch.ops.aten
_MOVED = {"acos": -1, "asin": -1, "erfinv": -1, "special_ndtri": -0.6}  # to where they are defined


def _example(name: str) -> Example:
    if name in OF_TWO:
        return ((4, 5), partial(lambda name: lambda x: getattr(_OPERATORS, name)(x, x.tanh() + 1.5) + x, name))
    function, by = getattr(_OPERATORS, name), _MOVED.get(name, 0)
    return ((4, 5), lambda: lambda x: x + function(x.sigmoid() / 2 + 1.1 + by).to(x.dtype) * x)


EXAMPLES: dict[str, Example] = {
    **{f"aten.{name}": _example(name) for name in (*OF_ONE, *OF_TWO)},
    "aten.nan_to_num": ((4, 5), lambda: lambda x: (x - 5).log().nan_to_num(0.5) + x),
    "aten.polygamma": ((4, 5), lambda: lambda x: x * torch.polygamma(1, x.sigmoid() + 0.5)),
    "aten.special_polygamma": ((4, 5), lambda: lambda x: x * torch.ops.aten.special_polygamma(1, x.sigmoid() + 0.5)),
}
