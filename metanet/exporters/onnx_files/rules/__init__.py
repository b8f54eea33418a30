"""Rules: what an operator of torch becomes, {operator: rule} in the RULES of every module here.

A rule is a function of a `Call`. It adds nodes and returns the `Ref` of the operator's result, or a list of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from metanet.exporters.onnx_files.graph import Graph


@dataclass(frozen=True)
class Ref:
    """A value of the graph."""

    name: str
    shape: tuple[int, ...]  # with as many samples as the graph is exported for, or -1
    weight: bool = False

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
            return Ref(self.graph.number(value) if floats else self.graph.whole(value), tuple(value.shape))
        return Ref(self.graph.number(float(value)), ())

    def emit(self, kind: str, *inputs: Any, **attributes: Any) -> Ref:
        """One more node, whose result has the shape of the operator's."""
        names = ["" if one is None else one if isinstance(one, str) else self.ref(one).name for one in inputs]
        return Ref(self.graph.node(kind, names, **attributes)[0], self.shape)

    def reshaped(self, x: Ref, shape: tuple[int, ...]) -> Ref:
        if list(shape).count(-1) > 1:
            raise self.refuse(f"more than one axis of {list(shape)} depends on the number of samples")
        return replace(self.emit("Reshape", x, self.graph.whole(list(shape))), shape=shape)


Rule = Callable[[Call], "Ref | list[Ref]"]

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
RULES: dict[str, Rule] = {name: rule for module in _MODULES for name, rule in module.RULES.items()}
