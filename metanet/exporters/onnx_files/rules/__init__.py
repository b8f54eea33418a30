"""Rules: what an operator of torch becomes, {operator: rule} in the RULES of every module here.

A rule is a function of a `Call`. It adds nodes and returns the `Ref` of the operator's result, or a list of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from onnx import TensorProto
from torch import Tensor

if TYPE_CHECKING:
    from metanet.exporters.onnx_files.graph import Graph


KINDS = {torch.int64: TensorProto.INT64, torch.int32: TensorProto.INT32, torch.bool: TensorProto.BOOL}  # or FLOAT


@dataclass(frozen=True)
class Ref:
    """A value of the graph."""

    name: str
    shape: tuple[int, ...]  # with as many samples as the graph is exported for, or -1
    weight: bool = False
    dtype: torch.dtype = torch.float32
    each: Tensor | None = None  # what it is for one sample and for every other

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class Call:
    """One operator call."""

    graph: Graph
    operator: str  # "aten.conv2d"
    arguments: Mapping[str, Any]  # by the operator's own names
    shapes: list[tuple[int, ...]]  # of the results, -1 where the samples are
    dtype: torch.dtype = torch.float32  # of the first of them

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    def refuse(self, why: str) -> ValueError:
        return ValueError(f"{self.operator} cannot be written as ONNX: {why}")

    def ref(self, value: Any) -> Ref:
        """An argument as a value of the graph."""
        if isinstance(value, Ref):
            return value
        if isinstance(value, Tensor):
            floats = value.is_floating_point()
            name = self.graph.number(value) if floats else self.graph.whole(value)
            return Ref(name, tuple(value.shape), dtype=value.dtype)
        return Ref(self.graph.number(float(value)), ())

    def common(self, *values: Any) -> torch.dtype:
        """The kind of numbers that torch computes with, for these values."""
        some = [torch.empty((1,) * one.rank, dtype=one.dtype) if isinstance(one, Ref) else one for one in values]
        return torch.result_type(*some)

    def cast(self, value: Any, dtype: torch.dtype) -> Ref:
        """An argument as a value of numbers of the kind `dtype`; ONNX computes with one kind at a time."""
        if isinstance(value, int | float):
            value = torch.tensor(value, dtype=dtype)
        if isinstance(value, Tensor):
            return self.ref(value.to(dtype))
        kinds = [KINDS.get(one, TensorProto.FLOAT) for one in (value.dtype, dtype)]
        return value if kinds[0] == kinds[1] else replace(self.emit("Cast", value, to=kinds[1]), dtype=dtype)

    def emit(self, kind: str, *inputs: Any, **attributes: Any) -> Ref:
        """One more node, whose result has the shape of the operator's."""
        names = ["" if one is None else one if isinstance(one, str) else self.ref(one).name for one in inputs]
        return Ref(self.graph.node(kind, names, **attributes)[0], self.shape, dtype=self.dtype)

    def sizes(self) -> str:
        """The shape of the result as a value of the graph; the number of samples is read off the input."""
        if -1 not in self.shape:
            return self.graph.whole(list(self.shape))
        place = self.shape.index(-1)
        if -1 in self.shape[place + 1 :]:
            raise self.refuse(f"more than one axis of {list(self.shape)} depends on the number of samples")
        count = self.graph.node("Shape", ["input"], start=0, end=1)[0]
        ends = (self.graph.whole(list(part)) for part in (self.shape[:place], self.shape[place + 1 :]))
        first, last = ends
        return self.graph.node("Concat", [first, count, last], axis=0)[0]

    def reshaped(self, x: Ref, shape: tuple[int, ...]) -> Ref:
        if list(shape).count(-1) > 1:
            raise self.refuse(f"more than one axis of {list(shape)} depends on the number of samples")
        return replace(self.emit("Reshape", x, self.graph.whole(list(shape))), shape=shape)


Rule = Callable[[Call], "Ref | list[Ref]"]

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
RULES: dict[str, Rule] = {name: rule for module in _MODULES for name, rule in module.RULES.items()}
