"""Folding: nodes that read neither the input nor weights are computed, for two numbers of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator

from metanet.importers.onnx_files.call import Active, Fixed, Value

MOST_FOLDED = 1 << 20  # numbers that are computed here
FOLDED = frozenset(
    (
        *(
            "Abs",
            "Add",
            "And",
            "Cast",
            "Ceil",
            "Concat",
            "ConstantOfShape",
            "CumSum",
            "Div",
            "Equal",
            "Expand",
            "Floor",
        ),
        *("Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg"),
        *("Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Slice"),
        *("Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"),
    )
)
GROWING = {"ConstantOfShape": 0, "Expand": 1}  # whose result has the shape that an input says


def shape_of(value: Value | None, op: str, attributes: dict[str, Any], where: str) -> Fixed:
    if value is None:
        raise ValueError(f"{where}: found no input")
    both = [one.shape for one in (value.metas if isinstance(value, Active) else value.arrays)]
    part = slice(attributes.get("start", 0), attributes.get("end"))
    found = [np.array(math.prod(one) if op == "Size" else list(one)[part], np.int64) for one in both]
    return Fixed((found[0], found[1]))


def foldable(inputs: Sequence[Value | None]) -> bool:
    """Whether nothing but arrays is read, and weights only as single numbers beside them."""
    given = [one for one in inputs if one is not None]
    arrays = [one for one in given if isinstance(one, Fixed)]
    weights = [one for one in arrays if one.source is not None]
    return len(arrays) == len(given) > len(weights) and all(one.arrays[0].size == 1 for one in weights)


def folded(
    opset: int, node: NodeProto, arrays: Sequence[tuple[np.ndarray, np.ndarray] | None], where: str
) -> list[Fixed]:
    both = []
    for number in range(2):
        read = [None if pair is None else pair[number] for pair in arrays]
        if _result_size(node, read) > MOST_FOLDED:
            raise ValueError(f"{where}: a constant of more than {MOST_FOLDED:,} numbers")
        evaluator = ReferenceEvaluator(node, opsets={"": opset})
        feeds = {name: array for name, array in zip(node.input, read, strict=True) if name}
        try:
            both.append(evaluator.run(None, feeds))
        except (ValueError, TypeError, IndexError, RuntimeError, KeyError) as error:
            raise ValueError(f"{where}: {error}") from error
    return [Fixed((np.asarray(one), np.asarray(other))) for one, other in zip(*both, strict=True)]


def _result_size(node: NodeProto, read: Sequence[np.ndarray | None]) -> int | float:
    """How many numbers a node that is computed here gives, at most."""
    sizes = [1 if one is None else one.size for one in read]
    if node.op_type in GROWING:
        shape = read[GROWING[node.op_type]]
        return math.prod(max(1, abs(int(size))) for size in np.asarray(shape).reshape(-1)) * max(sizes)
    if node.op_type == "Tile":
        return sizes[0] * math.prod(max(1, abs(int(size))) for size in np.asarray(read[1]).reshape(-1))
    if node.op_type == "Range":
        start, limit, delta = (float(np.asarray(one).reshape(-1)[0]) for one in read if one is not None)
        return abs((limit - start) / delta) + 1 if delta else math.inf
    if node.op_type == "Gather":
        return sizes[0] * sizes[1] if sizes[1] > 1 else sizes[0]
    try:
        return max(sum(sizes), math.prod(np.broadcast_shapes(*(np.shape(one) for one in read if one is not None))))
    except ValueError:
        return sum(sizes)
