"""Comparisons, choices by them, and the larger or smaller of values."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from metanet.importers.onnx_files.call import Active, Call, Value
from metanet.importers.onnx_files.rules.pointwise import is_number

RELATIONS = {"Less": "lt", "LessOrEqual": "le", "Equal": "eq", "GreaterOrEqual": "ge", "Greater": "gt"}
TURNED = {"lt": "gt", "le": "ge", "eq": "eq", "ge": "le", "gt": "lt"}


def compare(relation: str, call: Call) -> Value:
    """Of two values, or of one and a number of the architecture."""
    for place, number, own in ((0, 1, relation), (1, 0, TURNED[relation])):
        if is_number(call.inputs[number]) and isinstance(call.inputs[place], Active):
            value = call.number(number)
            assert value is not None
            return call.step("compare_number", call.active(place), relation=own, value=value)
    return call.step("compare", call.active(0), call.active(1), relation=relation)


def logical(op: str, call: Call) -> Value:
    return call.step(op, *(call.active(place) for place in range(len(call.inputs))))


def extreme(call: Call) -> Value:
    """Max and Min of any number of values; numbers are bounds."""
    places = [place for place, one in enumerate(call.inputs) if not is_number(one)]
    if not places:
        raise call.refuse("found numbers alone")
    x = call.active(places[0])
    for place, one in enumerate(call.inputs):
        if is_number(one):
            x = call.step("clamp", x, **{"min" if call.operator == "Max" else "max": call.number(place)})
        elif place != places[0]:
            x = call.step(f"{call.operator.lower()}imum", x, call.active(place))
    return x


def where(call: Call) -> Value:
    """The second where the first holds, else the third; minus infinity there is a mask."""
    if is_number(call.inputs[2]) and call.number(2) == -math.inf:
        return call.step("masked", call.active(1), call.active(0))
    return call.step("where", call.active(0), call.active(1), call.active(2))


RULES: dict[str, Any] = {
    **{name: partial(compare, relation) for name, relation in RELATIONS.items()},
    **{name: partial(logical, f"logical_{name.lower()}") for name in ("And", "Or", "Not")},
    **dict.fromkeys(("Max", "Min"), extreme),
    "Where": where,
}
