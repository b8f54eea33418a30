"""What a trace writes down while it walks the operator graph, and the few verbs that operator rules speak.

A rule is a function of a `Call`. It reads the call's arguments, says which axes move together (`equate`, `scope`), what
the operator does to the parameter graph (`write`, `operate`, `vector`, `block`, `link`), and returns a `Value`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from metanet.arch.axes import Axis, fixed, unify
from metanet.arch.certificate import Equation, Scope
from metanet.arch.template import Block, Link, Operation


class UnsupportedOperator(ValueError):  # noqa: N818 (the name says what the user meets)
    """An operator without a rule, or used in a way that its rule does not know; names it, its place, and what to do."""


Rule = Callable[["Call"], "Value | list[Value]"]
Example = tuple[tuple[int, ...], Callable[[], Callable[[Tensor], Tensor]]]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the operator graph: the type of each axis, and which space its channels belong to."""

    axes: tuple[Axis, ...]
    entry: str | None = None  # its name in the state_dict, where it is a parameter or buffer
    space: int | None = None  # index of its space, where it is an activation
    channel: int | None = None  # the axis that carries the space; None for a network input that nothing has read yet
    taps: tuple[int, ...] = ()  # sizes of the positions that were flattened into the channel axis
    taps_first: bool = False  # whether they come before the channel (positions x channels)
    shared: bool = False  # something else reads this space too, so that nothing may be appended to it
    storage: int | None = None  # values with one number share memory; None: memory of its own

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class SpaceDraft:
    """A space while it is being written."""

    name: str
    role: str
    axis: Axis | None = None  # None for a network input that nothing has read yet
    operations: list[Operation] = field(default_factory=list)
    vectors: dict[str, str] = field(default_factory=dict)


@dataclass
class Record:
    """Everything found so far."""

    spaces: list[SpaceDraft] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    represented: set[str] = field(default_factory=set)


@dataclass
class Call:
    """One operator call: its arguments by the operator's own names (defaults filled in), and the verbs of a rule."""

    operator: str  # "aten.conv2d"
    module: str  # path of the module that calls it, "" for the outermost
    source: str  # "file.py:12", or "" where the export does not know
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]  # of the output
    record: Record

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def activation(self, name: str) -> Value:
        """The argument as an activation; refuses a parameter or a constant in its place."""
        value = self.arguments[name]
        if not isinstance(value, Value) or value.space is None:
            found = f"the parameter {value.entry!r}" if isinstance(value, Value) else repr(value)
            raise self.unsupported(f"its argument {name!r} must be an activation, found {found}")
        return value

    def number(self, name: str) -> int | float:
        """The argument as one number that the code fixes; refuses a tensor in its place."""
        value = self.arguments[name]
        if not isinstance(value, int | float):
            raise self.unsupported(f"its argument {name!r} must be a number, found a tensor")
        return value

    def entry(self, name: str) -> Value:
        """The argument as an entry of the state_dict; tied weights are read several times."""
        value = self.arguments[name]
        if not isinstance(value, Value) or value.entry is None:
            raise self.unsupported(f"its argument {name!r} must be a parameter or buffer of the module itself")
        self.record.represented.add(value.entry)
        return value

    def unsupported(self, why: str) -> UnsupportedOperator:
        """The error to raise where the rule does not know how the operator is used."""
        where = f"module {self.module!r}" if self.module else "the outermost module"
        place = f"{where} ({self.source})" if self.source else where
        return UnsupportedOperator(f"{self.operator} in {place}: {why}")

    def equate(self, left: Axis, right: Axis) -> None:
        """Says that the operator reads both axes position by position."""
        if left is not right:
            self.record.equations.append((left, right))
            unify(left, right)

    def pin(self, *axes: Axis) -> None:
        """Says that the positions of these axes never move (kernel taps, image positions)."""
        for one in axes:
            self.equate(one, fixed(one.size))

    def scope(self, *axes: Axis) -> None:
        """The index space of the operator's loops: the axes of its output and those that it sums over."""
        self.record.scopes.append(axes)

    def channels(self, value: Value, axis: int) -> Axis:
        """The type of `axis`, which must be the one that carries the value's space."""
        axis %= len(value.axes)
        assert value.space is not None
        draft = self.record.spaces[value.space]
        if value.channel is None and draft.axis is None:
            draft.axis = value.axes[axis]
        carries = value.channel == axis if value.channel is not None else draft.axis is value.axes[axis]
        if not carries:
            raise self.unsupported(f"it works along axis {axis}, which is not the axis of the channels")
        return value.axes[axis]

    def write(self, axes: tuple[Axis, ...], channel: int, nodes: Axis | None = None) -> Value:
        """An activation in a new space whose nodes are the positions of `nodes`, by default of axis `channel`."""
        taken = {draft.name for draft in self.record.spaces}
        name = self.module or self.operator.partition(".")[2]
        number = 1
        while (unique := name if number == 1 else f"{name}:{number}") in taken:
            number += 1
        self.record.spaces.append(SpaceDraft(unique, "hidden", nodes or axes[channel]))
        return Value(axes, space=len(self.record.spaces) - 1, channel=channel)

    def operate(self, value: Value, kind: str, /, **attributes: Any) -> Value:
        """The value after a parameter-free step on every channel; in a new space if the old one is read elsewhere."""
        value = self._exclusive(value) if value.shared else value
        assert value.space is not None
        self.record.spaces[value.space].operations.append(Operation(kind, attributes))
        return replace(value, storage=None)

    def vector(self, value: Value, entries: Mapping[str, Value]) -> Value:
        """The value whose space carries 1-D entries (role -> entry); a flattened grid becomes a space of its own."""
        assert value.space is not None
        taken = self.record.spaces[value.space].vectors.keys() & entries.keys()
        if value.taps:
            flat = self.write(value.axes, value.channel or 0)
            self.link("flatten", value, flat, taps=value.taps, taps_first=value.taps_first)
            value = flat
        elif value.shared or taken:
            value = self._exclusive(value)
        assert value.space is not None
        for role, entry in entries.items():
            assert entry.entry is not None
            self.record.spaces[value.space].vectors[role] = entry.entry
        return value

    def bias(self, value: Value) -> Value:
        """The value after the argument "bias", if there is one, is added to its channels."""
        if self.arguments["bias"] is None:
            return value
        bias = self.entry("bias")
        self.equate(bias.axes[0], self.channels(value, value.channel or 0))
        return self.operate(self.vector(value, {"bias": bias}), "bias")

    def block(self, weight: Value, source: Value, target: Value, **fields: Any) -> None:
        """A weight tensor as edges; `fields` are those of template.Block."""
        assert weight.entry is not None
        assert source.space is not None
        assert target.space is not None
        self.record.blocks.append(Block(weight.entry, source.space, target.space, **fields))

    def link(self, kind: str, source: Value, target: Value, /, **attributes: Any) -> None:
        """A parameter-free connection between two spaces."""
        assert source.space is not None
        assert target.space is not None
        self.record.links.append(Link(kind, source.space, target.space, attributes))

    def spatial(self, first: int) -> tuple[Axis, ...]:
        """Types of the output's axes from `first` on, where they are image positions."""
        return tuple(fixed(size) for size in self.shape[first:])

    def _exclusive(self, value: Value) -> Value:
        assert value.space is not None
        if value.channel is None:
            raise self.unsupported("a network input that several operators read must be read by a layer first")
        copy = self.write(value.axes, value.channel, self.record.spaces[value.space].axis)
        self.link("identity", value, copy)
        return replace(copy, taps=value.taps, taps_first=value.taps_first)
