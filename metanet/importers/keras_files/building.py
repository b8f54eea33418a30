"""Building: steps and tensors of a program, with the place of every value's channels.

Keras keeps channels last; images and volumes are turned to channels first, as in torch. A flattened image stays in
torch's order, and the dense layer behind it reads its weights in that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metanet.zoo import programs


@dataclass(frozen=True)
class Value:
    """The result of a step: `shape` is Keras', without the samples."""

    name: str
    shape: tuple[int, ...]
    first: bool = False  # in the program its channels lie on axis 1, before the grid
    order: tuple[int, ...] = ()  # of a flattened image: for each number in the program its place in Keras

    @property
    def axes(self) -> list[int]:
        """Of the grid, in the program."""
        start = 2 if self.first else 1
        return list(range(start, start + len(self.shape) - 1))


class Builder:
    """Collects a program, layer by layer."""

    def __init__(self, grid_of_one: bool):
        self._least = 2 if grid_of_one else 3  # axes of an input that is an image, or a sequence that is read like one
        self.tensors: dict[str, np.ndarray] = {}
        self._buffers: set[str] = set()
        self._constants: dict[str, dict[str, Any]] = {}
        self._steps: list[dict[str, Any]] = []
        self._input: dict[str, Any] = {}
        self.made: set[str] = set()  # tensors that torch needs and Keras does not have

    def input(self, shape: Sequence[int], whole_numbers: bool) -> Value:
        """What the net reads: an image or a volume with channels first, and a sequence too where it is convolved."""
        first = len(shape) >= self._least
        own = [shape[-1], *shape[:-1]] if first else list(shape)
        self._input = {"name": ".input", "shape": own, "dtype": "int64" if whole_numbers else "float32"}
        return Value(".input", tuple(shape), first)

    def tensor(self, layer: str, name: str, array: np.ndarray, buffer: bool = False) -> str:
        """A weight in torch's layout; a layer that is used twice gives the same again."""
        own = f"{layer.replace('.', '_')}.{name}"
        self.tensors[own] = np.ascontiguousarray(array)
        self._buffers |= {own} if buffer else set()
        return own

    def zeros(self, layer: str, name: str, count: int) -> str:
        """A tensor that torch needs and Keras does not have."""
        own = self.tensor(layer, name, np.zeros(count, np.float32))
        self.made.add(own)
        return own

    def from_file(self) -> int:
        """How many numbers the tensors have that the file has."""
        return sum(array.size for name, array in self.tensors.items() if name not in self.made)

    def step(self, op: str, inputs: Sequence[str | None], **attributes: Any) -> str:
        name = f".{len(self._steps)}"
        step: dict[str, Any] = {"name": name, "op": op, "inputs": list(inputs)}
        self._steps.append(step | ({"attributes": attributes} if attributes else {}))
        return name

    def same(self, x: Value, op: str, *more: str | None, **attributes: Any) -> Value:
        """A step that keeps shape and places."""
        return replace(x, name=self.step(op, [x.name, *more], **attributes))

    def to_first(self, x: Value) -> Value:
        """The value with its channels on axis 1."""
        x = self._in_order(x)
        if x.first or len(x.shape) < 2:
            return x
        rank = len(x.shape) + 1
        name = self.step("permute", [x.name], axes=[0, rank - 1, *range(1, rank - 1)])
        return Value(name, x.shape, first=True)

    def to_last(self, x: Value) -> Value:
        """The value as Keras has it."""
        x = self._in_order(x)
        if not x.first:
            return x
        rank = len(x.shape) + 1
        return Value(self.step("permute", [x.name], axes=[0, *range(2, rank), 1]), x.shape)

    def flatten(self, x: Value) -> Value:
        count = math.prod(x.shape)
        if len(x.shape) == 1:
            return x
        name = self.step("flatten", [x.name])
        if not x.first:
            return Value(name, (count,))
        places = np.moveaxis(np.arange(count).reshape(x.shape), -1, 0).reshape(-1)
        return Value(name, (count,), order=tuple(places.tolist()))

    def _in_order(self, x: Value) -> Value:
        if not x.order:
            return x
        own = np.argsort(np.array(x.order)).tolist()
        constant = f"places{len(self._constants)}"
        self._constants[constant] = {"shape": [len(own)], "dtype": "int64", "values": own}
        return Value(self.step("index_select", [x.name, constant], axis=1), x.shape)

    def program(self, outputs: Sequence[Value]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The program, and its tensors in float32 by the names that it gives them."""
        last = [self.to_last(value).name for value in outputs]
        names = programs.usable([*self.tensors, *self._constants])
        shapes = {names[name]: list(array.shape) for name, array in self.tensors.items()}
        constants = {names[name]: described for name, described in self._constants.items()}
        buffers = {names[name] for name in self._buffers}
        steps = [
            {**step, "inputs": [names.get(read, read) if read else read for read in step["inputs"]]}
            for step in self._steps
        ]
        described = {
            "input": self._input,
            "parameters": {name: shape for name, shape in shapes.items() if name not in buffers},
            "buffers": {name: shape for name, shape in shapes.items() if name in buffers},
            "constants": constants,
            "steps": steps,
            "outputs": last,
        }
        return described, {names[name]: array.astype(np.float32) for name, array in self.tensors.items()}


@dataclass(frozen=True)
class Layer:
    """One use of a layer: its configuration, and what it reads."""

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[Value, ...]
    arrays: tuple[np.ndarray, ...]
    major: int  # version of Keras that wrote it

    @property
    def x(self) -> Value:
        if len(self.inputs) != 1:
            raise ValueError(f"found {len(self.inputs)} inputs, expected one")
        return self.inputs[0]

    def get(self, name: str, default: Any = None) -> Any:
        return self.config.get(name, default)

    def sizes(self, name: str, rank: int, default: Any = None) -> list[int]:
        """A size for each axis of the grid.

        Raises:
            ValueError: no whole numbers of at least 1.
        """
        found = self.get(name, default)
        sizes = [found] * rank if type(found) is int else found
        if (
            not isinstance(sizes, list)
            or len(sizes) != rank
            or any(type(size) is not int or size < 1 for size in sizes)
        ):
            raise ValueError(f"found {name} {found!r}, expected {rank} whole numbers of at least 1")
        return sizes

    def number(self, name: str, default: float | None = None) -> float:
        found = self.get(name, default)
        if not isinstance(found, int | float) or isinstance(found, bool) or not math.isfinite(found):
            raise ValueError(f"found {name} {found!r}, expected a number")
        return float(found)

    def weights(self, *wanted: tuple[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """The layer's arrays by name, which have these shapes and no others.

        Raises:
            ValueError: they do not.
        """
        found, expected = [tuple(array.shape) for array in self.arrays], [tuple(shape) for _, shape in wanted]
        if found != expected or any(array.dtype.kind != "f" for array in self.arrays):
            names = ", ".join(f"{name} {tuple(shape)}" for name, shape in wanted)
            raise ValueError(f"found arrays of the shapes {found}, expected {names or 'none'}")
        return {name: array for (name, _), array in zip(wanted, self.arrays, strict=True)}

    def only(self, **expected: Any) -> None:
        """Raises ValueError where the configuration has anything else than these values, or their absence."""
        for name, value in expected.items():
            if self.get(name, value) != value:
                raise ValueError(f"found {name} {self.get(name)!r}, expected {value!r}, which alone is supported")
