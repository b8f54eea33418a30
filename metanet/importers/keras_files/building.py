"""Building: steps and tensors of a program, with the place of every value's channels.

Keras keeps channels last; images and volumes are turned to channels first, as in torch. A flattened image stays in
torch's order, and the dense layer behind it reads its weights in that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from metanet.importers.keras_files.weights import Weights, name_of

MOST_STEPS = 50_000  # of a program: models in models can be used twice, and these twice, ...


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

    def __init__(self, grid_of_one: bool = False, as_it_is: bool = False):
        """`grid_of_one`: sequences are read like images; `as_it_is`: the input's channels stay where they are."""
        self._least = 1 << 30 if as_it_is else 2 if grid_of_one else 3  # axes of an input that is an image
        self.tensors: dict[str, np.ndarray] = {}
        self._buffers: set[str] = set()
        self._constants: dict[str, dict[str, Any]] = {}
        self._steps: list[dict[str, Any]] = []
        self._input: dict[str, Any] = {}
        self.made: set[str] = set()  # tensors that torch needs and Keras does not have
        self.left_out = 0  # numbers of the file that change no result

    def input(self, shape: Sequence[int], whole_numbers: bool) -> Value:
        """What the net reads: an image or a volume with channels first, and a sequence too where it is convolved."""
        first = len(shape) >= self._least
        own = [shape[-1], *shape[:-1]] if first else list(shape)
        self._input = {"name": ".input", "shape": own, "dtype": "int64" if whole_numbers else "float32"}
        return Value(".input", tuple(shape), first)

    def input_is_words(self) -> None:
        """Says that the net reads whole numbers, as an embedding of its input does."""
        self._input["dtype"] = "int64"

    def tensor(self, layer: str, name: str, array: np.ndarray, buffer: bool = False) -> str:
        """A weight in torch's layout; a layer that is used twice gives the same again.

        Raises:
            ValueError: it gives another, as after images that were flattened in different orders.
        """
        own, array = f"{layer}.{name}", np.ascontiguousarray(array)
        if own in self.tensors and not np.array_equal(self.tensors[own], array, equal_nan=True):
            raise ValueError("is used twice, on values whose channels lie in different orders, which is not supported")
        self.tensors[own] = array
        self._buffers |= {own} if buffer else set()
        return own

    def own(self, layer: str, name: str, array: np.ndarray, buffer: bool = False) -> str:
        """A tensor that torch needs and Keras does not have in its weights."""
        own = self.tensor(layer, name, np.asarray(array, np.float32), buffer)
        self.made.add(own)
        return own

    def constant(self, array: np.ndarray) -> str:
        """Numbers that belong to the architecture."""
        name, dtype = f"constant{len(self._constants)}", "int64" if array.dtype.kind == "i" else "float32"
        values = array.reshape(-1).tolist()
        self._constants[name] = {"shape": list(array.shape), "dtype": dtype, "values": values}
        return name

    def from_file(self) -> int:
        """How many numbers of the file are in the tensors, or change no result."""
        return self.left_out + sum(array.size for name, array in self.tensors.items() if name not in self.made)

    def step(self, op: str, inputs: Sequence[str | None], **attributes: Any) -> str:
        if len(self._steps) == MOST_STEPS:
            raise ValueError(f"found more than {MOST_STEPS:,} operations in the model")
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
        places = self.constant(np.argsort(np.array(x.order)))
        return Value(self.step("index_select", [x.name, places], axis=1), x.shape)

    def from_channels_first(self, x: Value) -> Value:
        """A value whose channels are Keras' first axis, as one whose channels are the last."""
        if len(x.shape) < 2:
            return x
        return Value(self.to_last(x).name, (*x.shape[1:], x.shape[0]), first=True)

    def to_channels_first(self, x: Value) -> Value:
        """And the other way round."""
        if len(x.shape) < 2:
            return x
        return Value(self.to_first(x).name, (x.shape[-1], *x.shape[:-1]))

    def program(self, outputs: Sequence[Value]) -> dict[str, Any]:
        """The program; its tensors have the names that they have here."""
        last = [self.to_last(value).name for value in outputs]
        shapes = {name: list(array.shape) for name, array in self.tensors.items()}
        return {
            "input": self._input,
            "parameters": {name: shape for name, shape in shapes.items() if name not in self._buffers},
            "buffers": {name: shape for name, shape in shapes.items() if name in self._buffers},
            "constants": self._constants,
            "steps": self._steps,
            "outputs": last,
        }


@dataclass(frozen=True)
class Layer:
    """One use of a layer: its configuration, and what it reads."""

    path: tuple[str, ...]  # the names of the models that it is in, and its own
    name: str  # of the same in the program, with dots between
    kind: str
    config: Mapping[str, Any]
    operands: tuple[Value | float, ...]
    tree: Weights
    major: int  # version of Keras that wrote it
    named: Mapping[str, Sequence[Value]] = field(default_factory=dict)  # what it reads by name
    arguments: Mapping[str, Any] = field(default_factory=dict)  # other arguments of the call

    @property
    def arrays(self) -> list[np.ndarray]:
        return self.tree.arrays()

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What it reads, by place.

        Raises:
            ValueError: numbers, or values by name.
        """
        values = tuple(one for one in self.operands if isinstance(one, Value))
        if len(values) < len(self.operands) or self.named or self.arguments:
            told = [*self.named, *self.arguments] or [one for one in self.operands if not isinstance(one, Value)]
            raise ValueError(f"is called with {told[:4]}, which is not supported")
        return values

    @property
    def x(self) -> Value:
        if len(self.inputs) != 1:
            raise ValueError(f"found {len(self.inputs)} inputs, expected one")
        return self.inputs[0]

    def part(self, attribute: str, x: Value, *names: str) -> Layer:
        """A layer that this one describes as `attribute` and holds so, or under one of these names, reading x.

        Raises:
            ValueError: there is none.
        """
        described = self.get(attribute)
        if not isinstance(described, Mapping) or not isinstance(described.get("config"), Mapping):
            raise ValueError(f"found no layer as {attribute}")
        tree = self.tree.part([name_of(described), *names], *names, attribute)
        own = names[0] if names else attribute
        kind, name = str(described.get("class_name")), f"{self.name}.{own}"
        return Layer((*self.path, own), name, kind, described["config"], (x,), tree, self.major)

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
