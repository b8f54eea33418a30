"""Comparisons, choices between two values, and the larger or smaller of two."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.rules.arithmetic import Operand, join, scaled
from metanet.arch.value import Value

RELATIONS = {"lt": -2, "le": -1, "eq": 0, "ge": 1, "gt": 2, "ne": 3}  # of a value with a number
_SWAPPED = {"lt": "gt", "le": "ge", "eq": "eq", "ge": "le", "gt": "lt", "ne": "ne"}


def _compare(relation: str) -> Rule:
    def compare(call: Call) -> Value:
        """aten.lt(self, other), ...: with a number, or the difference of two values with zero."""
        left, right, own = call["self"], call["other"], relation
        if not isinstance(left, Value):
            left, right, own = right, left, _SWAPPED[relation]
        number = right.item() if isinstance(right, Tensor) and right.numel() == 1 else right
        if not isinstance(number, Value | Tensor):
            return call.operate(call.active(left), "compare", relation=RELATIONS[own], value=float(number))
        difference = join(call, "add", left, scaled(call, number, -1))
        return call.operate(difference, "compare", relation=RELATIONS[own], value=0.0)

    return compare


def logical_not(call: Call) -> Value:
    """aten.logical_not(self): whether it is zero."""
    return call.operate(call.activation("self"), "compare", relation=RELATIONS["eq"], value=0.0)


def _truth(call: Call, name: str) -> Operand:
    """Whether the argument is other than zero; bitwise operators take truth values alone."""
    value, is_truth = call[name], call.dtypes.get(name) == torch.bool
    if is_truth or not isinstance(value, Value):
        return value if is_truth else torch.as_tensor(value).bool()
    if "bitwise" in call.operator or "__" in call.operator:
        raise call.unsupported("there is a rule for truth values only")
    return call.operate(call.active(value), "compare", relation=RELATIONS["ne"], value=0.0)


def _logical(kind: str) -> Rule:
    def logical(call: Call) -> Value:
        """aten.logical_and(self, other), aten.bitwise_and of truth values, ...: a product, or the larger one."""
        return join(call, kind, _truth(call, "self"), _truth(call, "other"))

    return logical


def either(call: Call) -> Value:
    """aten.logical_xor(self, other), aten.bitwise_xor of truth values: whether they differ."""
    difference = join(call, "add", _truth(call, "self"), scaled(call, _truth(call, "other"), -1))
    return call.operate(difference, "compare", relation=RELATIONS["ne"], value=0.0)


def where(call: Call) -> Value:
    """aten.where(condition, self, other)."""
    if "self" not in call.arguments:
        raise call.unsupported("there is no rule for the places where a condition holds")
    condition, left, right = call["condition"], call["self"], call["other"]
    if isinstance(condition, Value):
        return choice(call, condition, left, right)
    if isinstance(left, Value) and isinstance(right, Value):
        return choice(call, condition, left, right)
    x, number, mask = (left, right, ~condition) if isinstance(left, Value) else (right, left, condition)
    number = number.reshape(-1) if isinstance(number, Tensor) else torch.tensor([float(number)])
    if bool((number != number[0]).any()):
        return choice(call, condition, left, right)
    return filled(call, x, mask, number[0].item())


def masked_fill(call: Call) -> Value:
    """aten.masked_fill(self, mask, value)."""
    if isinstance(call["mask"], Value) or isinstance(call["value"], Value):
        return choice(call, call["mask"], call["value"], call["self"])
    return filled(call, call["self"], call["mask"], call.number("value"))


def filled(call: Call, x: Value, mask: Tensor, number: float) -> Value:
    """The value, but a number where a mask that the code fixes is true."""
    if not bool(mask.any()):
        return call.active(x)
    return call.operate(combine(call, ["identity", "mask"], [call.active(x), mask]), "masked_fill", value=number)


def choice(call: Call, condition: Value | Tensor, left: Operand, right: Operand) -> Value:
    """`left` where the condition holds, else `right`."""
    sides = [one if isinstance(one, Value | Tensor) else 1.0 * torch.tensor(one) for one in (left, right)]
    return combine(call, ["condition", "if_true", "if_false"], [condition, *sides])


def _extreme(kind: str) -> Rule:
    def extreme(call: Call) -> Value:
        """aten.maximum(self, other), aten.minimum(self, other)."""
        return join(call, kind, call["self"], call["other"])

    return extreme


class _Masked(nn.Module):
    """Attention with a mask that the code fixes, of one head."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.function, self.inside = function, nn.Linear(6, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inside(x.mT).chunk(3, -1)
        future = torch.ones(x.shape[-1], x.shape[-1]).triu(1).bool()
        return self.function(q @ k.mT, future).softmax(-1) @ v


def _weighed(relation: str) -> Callable[[], Callable[[Tensor], Tensor]]:
    def weighed(x: Tensor) -> Tensor:
        return getattr(x.floor(), relation)(0.0) * x + getattr(x, relation)(x.square()) * x.tanh()

    return lambda: weighed


RULES: dict[str, Rule] = {
    **{f"aten.{relation}": _compare(relation) for relation in RELATIONS},
    "aten.logical_not": logical_not,
    "aten.bitwise_not": logical_not,
    **dict.fromkeys(("aten.logical_and", "aten.bitwise_and"), _logical("mul")),
    **dict.fromkeys(("aten.logical_or", "aten.bitwise_or"), _logical("maximum")),
    **dict.fromkeys(("aten.logical_xor", "aten.bitwise_xor"), either),
    "aten.where": where,
    "aten.masked_fill": masked_fill,
    "aten.maximum": _extreme("maximum"),
    "aten.minimum": _extreme("minimum"),
}
OPERATIONS = {"compare": ("relation", "value"), "masked_fill": ("value",)}
LINKS = ("maximum", "minimum", "mask", "condition", "if_true", "if_false")
EXAMPLES: dict[str, Example] = {
    **{f"aten.{relation}": ((4, 5), _weighed(relation)) for relation in RELATIONS},
    "aten.logical_not": ((4, 5), lambda: lambda x: x * x.floor().logical_not()),
    "aten.bitwise_not": ((4, 5), lambda: lambda x: x * ~(x > 0.1)),
    "aten.logical_and": ((4, 5), lambda: lambda x: x * torch.logical_and(x > -0.5, x.tanh() < 0.3)),
    "aten.bitwise_and": ((4, 5), lambda: lambda x: x * torch.bitwise_and(x > -0.5, x.tanh() < 0.3)),
    "aten.logical_or": ((4, 5), lambda: lambda x: x * torch.logical_or(x < -0.5, x.tanh() > 0.3)),
    "aten.bitwise_or": ((4, 5), lambda: lambda x: x * torch.bitwise_or(x < -0.5, x.tanh() > 0.3)),
    "aten.logical_xor": ((4, 5), lambda: lambda x: x * torch.logical_xor(x.floor(), x.tanh().round())),
    "aten.bitwise_xor": ((4, 5), lambda: lambda x: x * torch.bitwise_xor(x > -0.5, x.tanh() > 0.3)),
    "aten.where": ((6, 5), lambda: _Masked(lambda scores, future: torch.where(future, -1e9, scores))),
    "aten.masked_fill": ((6, 5), lambda: _Masked(lambda scores, future: scores.masked_fill(future, -1e9))),
    "aten.maximum": ((4, 5), lambda: lambda x: torch.maximum(x, x.square() - 0.5)),
    "aten.minimum": ((4, 5), lambda: lambda x: torch.minimum(x, x.square() - 0.5)),
}
