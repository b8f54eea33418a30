"""Rows that are multiplied by the matrix of their group: mixtures of experts that sort their tokens by expert.

The program sees the rows of the expert that each belongs to, [rows, channels]. Here every row has the channels of every
expert, [rows, experts, channels] (`Experts`), so that the units of an expert are nodes of its own; operators that treat
rows alike work on these, and the first other one reads of each row the expert that it belongs to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from metanet.arch.call import Call, Rule
from metanet.arch.combine import combine
from metanet.arch.rules import activation, arithmetic, comparison, functions
from metanet.arch.rules.ranking import laid
from metanet.arch.value import Value

_ALONG_CHANNELS = ("split", "split_with_sizes", "chunk", "slice", "narrow", "glu")  # if their axis is the last
_ROWS_ALIKE = {
    *(activation.RULES.keys() | arithmetic.RULES.keys() | comparison.RULES.keys() | functions.RULES.keys()),
    *(f"aten.{name}" for name in ("contiguous", "clone", "to", "_to_copy", "dropout", "alias", "detach")),
}


@dataclass(frozen=True, eq=False)
class Experts:
    """What every expert makes of every row, of which the program sees one each."""

    value: Value  # [rows, experts, channels]
    ends: Value | Tensor  # [experts]: where the rows of each end


def grouped_mm(call: Call) -> Experts:
    """aten._grouped_mm(self [rows, in], mat2 [experts, in, out], offs [experts]) -> [rows, out]."""
    x, weight, ends = (call[name] for name in list(call.arguments)[:3])
    if ends is None or call.arguments.get("bias") is not None or len(weight.shape) != 3:
        raise call.unsupported("there is a rule for rows in groups and a matrix for each, without bias, only")
    of_each = isinstance(x, Experts)
    if isinstance(x, Experts) and x.ends is not ends:
        x, of_each = merged(call, x), False
    rows = x.value if isinstance(x, Experts) else x
    letters = ["sei" if of_each else "si", "eio"]
    return Experts(combine(call, ["matmul", "matmul_right"], [rows, weight], letters, "seo"), ends)


def merged(call: Call, experts: Experts) -> Value:
    """Of each row what its own expert makes of it, [rows, channels]."""
    ends = experts.ends
    ends = laid(call, call.active(ends), [0]) if isinstance(ends, Value) else ends
    return combine(call, ["expert", "expert_until"], [laid(call, experts.value, [1]), ends], ["seo", "e"], "so")


def applied(call: Call, rule: Rule | None) -> Any:
    """What the rule makes of a call with experts: of every expert, or of the rows' own ones."""
    given = [one for one in _flat(list(call.arguments.values())) if isinstance(one, Experts)]
    operator = call.operator.removesuffix("_")
    channels = operator.removeprefix("aten.") in _ALONG_CHANNELS and call["dim"] % 2 == 1
    alike = (channels or operator in _ROWS_ALIKE) and all(one.ends is given[0].ends for one in given)
    if rule is not None and SAME.get(operator, operator) == "aten._grouped_mm":
        return rule(call)
    if not alike or rule is None:
        seen: dict[int, Value] = {}
        return _changed(call, lambda one: seen.setdefault(id(one), merged(call, one)))
    shape = (call.shape[0], given[0].value.shape[1], *call.shape[1:])
    more = {"dim": -1} if channels else {}
    inside = _changed(call, lambda one: one.value, between=True)
    result = rule(replace(inside, arguments=dict(inside.arguments) | more, shape=shape))
    values = [one for one in (result if isinstance(result, list) else [result]) if isinstance(one, Value)]
    several = [Experts(one, given[0].ends) for one in values]
    return several if isinstance(result, list) else several[0]


def _changed(call: Call, change: Callable[[Experts], Value], between: bool = False) -> Call:
    """The call with values in the place of experts; with `between`, other rows get an axis of one expert."""

    def changed(one: Any) -> Any:
        if isinstance(one, Experts):
            return change(one)
        if isinstance(one, list):
            return [changed(part) for part in one]
        if between and isinstance(one, Tensor) and one.ndim == 2:
            return one[:, None]
        if between and isinstance(one, Value) and len(one.axes) == 2:
            return replace(one, axes=(one.axes[0], (), one.axes[1]))
        return one

    return replace(call, arguments={name: changed(one) for name, one in call.arguments.items()})


def _flat(arguments: list[Any]) -> list[Any]:
    return [part for one in arguments for part in (one if isinstance(one, list) else [one])]


class _Grouped(nn.Module):
    """The first rows go through one expert, the others through another."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(2, 4, 6)), nn.Parameter(torch.randn(2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        rows, multiplied = x.mT.flatten(0, 1), product()
        ends = torch.tensor([3, rows.shape[0]])
        one, gate = multiplied(rows, self.up, ends).chunk(2, -1)
        return x + multiplied(one * gate.sigmoid(), self.down, ends).unflatten(0, (len(x), -1)).mT


@functools.cache
def product() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The operator in float64, of which torch has none."""

    def of_groups(rows: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
        starts = [0, *offs.tolist()]
        return torch.cat([rows[start:end] @ one for start, end, one in zip(starts, starts[1:], weight, strict=False)])

    schema = "(Tensor self, Tensor mat2, Tensor offs) -> Tensor"
    operator = torch.library.custom_op("metanet::grouped_mm", of_groups, mutates_args=(), schema=schema)
    operator.register_fake(lambda rows, weight, offs: rows.new_empty(rows.shape[0], weight.shape[2]))
    return operator


# Operators of libraries that do what an ATen operator does.
SAME: dict[str, str] = dict.fromkeys(("transformers.grouped_mm_fallback", "metanet.grouped_mm"), "aten._grouped_mm")
RULES: dict[str, Any] = {"aten._grouped_mm": grouped_mm}
OPERATIONS: dict[str, tuple[str, ...]] = {}
LINKS = ("expert", "expert_until")
EXAMPLES = {"aten._grouped_mm": ((4, 5), _Grouped)}
