"""Call: what a rule sees of a node, and the few verbs that it speaks.

A value is either `Active`, the result of a step or a tensor of the net, or `Fixed`, an array that the file's constants
and the shapes decide. Both are kept for two numbers of samples, so that what depends on it shows by differing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from metanet.importers.onnx_files.lowering import Lowering

Shape = list[int]


@dataclass(frozen=True)
class Active:
    """A result of a step, or a tensor of the net."""

    name: str  # in the program
    metas: tuple[Any, Any]  # for each number of samples a tensor without data, or several
    weight: bool = False  # a tensor of the net itself

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.metas[0].shape)

    @property
    def rank(self) -> int:
        return self.metas[0].dim()


@dataclass(frozen=True)
class Fixed:
    """An array that no input decides."""

    arrays: tuple[np.ndarray, np.ndarray]
    source: str | None = None  # the initialiser or Constant with floats that it is


Value = Active | Fixed


@dataclass(frozen=True)
class Call:
    """One node."""

    lowering: Lowering
    where: str  # file, number, name and operator of the node
    operator: str
    opset: int
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    outputs: int  # that anything reads

    def refuse(self, why: str) -> ValueError:
        """The error to raise."""
        return ValueError(f"{self.where}: {why}")

    def given(self, place: int) -> bool:
        return place < len(self.inputs) and self.inputs[place] is not None

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        value = self.attributes.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def active(self, place: int) -> Active:
        """An input as a value of the program."""
        if not self.given(place):
            raise self.refuse(f"found no input {place}")
        return self.lowering.active(self.inputs[place], self.where)  # type: ignore[arg-type]

    def optional(self, place: int) -> Active | None:
        return self.active(place) if self.given(place) else None

    def fixed(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """An input that must be known beforehand, for both numbers of samples."""
        value = self.inputs[place] if self.given(place) else None
        arrays = self.lowering.fixed(value) if value is not None else None
        if arrays is None:
            raise self.refuse(f"input {place} must be a constant, or follow from shapes")
        return arrays

    def numbers(self, place: int) -> list[Any]:
        """An input that must be known and the same for any number of samples."""
        one, other = self.fixed(place)
        if one.shape != other.shape or (one != other).any():
            raise self.refuse(f"input {place} depends on the number of samples")
        return one.reshape(-1).tolist()

    def number(self, place: int) -> float | None:
        """An input of one number, if it is given."""
        if not self.given(place):
            return None
        found = self.numbers(place)
        if len(found) != 1:
            raise self.refuse(f"input {place} must be one number, found {len(found)}")
        return float(found[0])

    def axes(self, name: str = "axes", place: int = 1) -> list[int] | None:
        """Whole numbers that older opsets give as an attribute and newer ones as an input."""
        found = self.get(name, None)
        if found is None and self.given(place):
            found = self.numbers(place)
        return None if found is None else [int(one) for one in found]

    def step(self, op: str, *inputs: Active | None, **attributes: Any) -> Active:
        """One step more of the program."""
        return self.lowering.step(self.where, op, inputs, attributes)

    def reshaped(self, x: Active, *shapes: tuple[int, ...]) -> Active:
        """x in another shape; one each for both numbers of samples, or one for both with -1 in the place of samples."""
        one, other = shapes if len(shapes) == 2 else shapes * 2
        sizes = [int(a) if a == b else -1 for a, b in zip(one, other, strict=True)]
        if sizes.count(-1) > 1:
            raise self.refuse(f"more than one axis of {sizes} depends on the number of samples")
        return self.step("reshape", x, shape=sizes)
