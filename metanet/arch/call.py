"""The few verbs that operator rules speak.

A rule is a function of a `Call`. It reads the call's arguments, says which axes move together (`equate`, `scope`), what
the operator does to the parameter graph (`write`, `operate`, `vector`, `block`, `link`), and returns a `Value`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanet.arch import homes
from metanet.arch.axes import Axis, fixed, free, merge, renumber, select, unify
from metanet.arch.layout import REPEAT, expand, extent, numbers, row_major, whole
from metanet.arch.record import Record, Step, UnsupportedOperator
from metanet.arch.template import Block, Link, Operation
from metanet.arch.turning import turning
from metanet.arch.value import Entry, SpaceDraft, Value, draft_of

Rule = Callable[["Call"], "Value | Tensor | list[Value | Tensor] | list[Value] | list[Callable[[], Value]] | None"]
Example = tuple[tuple[int, ...], Callable[[], Callable[[Tensor], Tensor]]]


@dataclass
class Call:
    """One operator call: its arguments by the operator's own names (defaults filled in), and the verbs of a rule."""

    operator: str  # "aten.conv2d"
    module: str  # path of the module that calls it, "" for the outermost
    source: str  # "file.py:12", or "" where the export does not know
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]  # of the output
    record: Record
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)  # of tensor arguments by name, of the output as ""
    readers: int = 1  # operators that read the output, or parts of it

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def activation(self, name: str) -> Value:
        """The argument as an activation; a parameter or a constant becomes one."""
        return self.active(self.arguments[name], name)

    def active(self, value: Any, name: str = "input") -> Value:
        """The same for a value that is not an argument of its own, but one of a list."""
        if isinstance(value, Tensor):
            one = self.constant(value)
            return replace(one, axes=expand(one.axes, value.shape))
        if not isinstance(value, Value):
            raise self.unsupported(f"its argument {name!r} must be an activation, found {value!r}")
        if isinstance(value.home, SpaceDraft):
            return value
        entry = value.home
        if entry.name not in self.record.parameters:
            self.record.constant()
            draft = SpaceDraft(entry.name, "hidden", fixed(1), undecided=value.sizes, entry=entry)
            self.record.spaces.append(draft)
            self.record.parameters[entry.name] = draft
        return replace(value, home=self.record.parameters[entry.name], shared=True, storage=None)

    def constant(self, data: Tensor) -> Value:
        """A constant as the one node of a space; axes along which it does not vary are axes of size 1."""
        return homes.constant(self.record, data)

    def number(self, name: str) -> int | float:
        """The argument as one number that the code fixes; refuses a tensor in its place."""
        value = self.arguments[name]
        if isinstance(value, Tensor) and value.numel() == 1:
            return value.item()
        if not isinstance(value, int | float):
            raise self.unsupported(f"its argument {name!r} must be a number, found a tensor")
        return value

    def is_number(self, name: str) -> bool:
        """Whether the argument is one number that the code fixes."""
        value = self.arguments[name]
        return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)

    def entry(self, name: str) -> Value:
        """The argument as an entry of the state_dict; tied weights are read several times."""
        value = self.arguments[name]
        if not isinstance(value, Value) or value.entry is None:
            raise self.unsupported(f"its argument {name!r} must be a parameter or buffer of the module itself")
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

    def decide(self, value: Value, axes: Sequence[int]) -> None:
        """Says which axes of an undecided home are nodes; nothing happens where that is known."""
        homes.decide(self, value, axes)

    def guess(self, value: Value) -> None:
        """Decides on a home that no other operand has decided on."""
        homes.decide(self, value, homes.guessed(value))

    def axis(self, value: Value, axis: int) -> Axis:
        """The type of one axis of a value; its positions are fixed."""
        dims = value.axes[axis]
        shape = tuple(dim.size for dim in dims)
        self.chosen(value)
        if isinstance(value.home, Entry):
            groups = [[k for k, dim in enumerate(dims) if dim.axis == own] for own in range(len(value.sizes))]
            homes = list(zip(value.home.types, ({own: 1} for own in range(len(value.sizes))), strict=True))
        else:
            groups = [[k for k, dim in enumerate(dims) if value.is_node(dim)]]
            homes = [(value.home.type, row_major(value.sizes, value.nodes))]
        parts, order = [], []
        for group, (home, weights) in zip(groups, homes, strict=True):
            if group:
                chosen = [dims[k] for k in group]
                places = numbers(chosen, [dim.size for dim in chosen], value.starts, weights)
                parts.append(select(home, places.reshape(-1)))
                order += group
        rest = [k for k in range(len(dims)) if k not in order]
        parts += [fixed(shape[k]) for k in rest]
        if not parts:
            return fixed(1)
        to = np.arange(extent(dims)).reshape(shape).transpose([*order, *rest]).reshape(-1)
        return renumber(merge(parts), to)

    def chosen(self, value: Value) -> None:
        """Says that a single node of a space, or place of an entry's axis, is read by itself, if it is."""
        if isinstance(value.home, Entry):
            walked = {dim.axis for row in value.axes for dim in row}
            for own, type_ in enumerate(value.home.types):
                if own not in walked and type_.size > 1:
                    self.equate(select(type_, np.array([value.starts[own]])), fixed(1))
            return
        draft = draft_of(value)
        if draft.type.size > 1 and not any(value.carries(axis) for axis in range(len(value.axes))):
            self.equate(select(draft.type, value.node_numbers([], []).reshape(-1)), fixed(1))

    def channels(self, value: Value, axis: int) -> Axis:
        """The type of `axis`, the only one along which the value may have nodes."""
        axis %= len(value.axes)
        dims = value.axes[axis]
        self.decide(value, [dim.axis for dim in dims if dim.size == value.sizes[dim.axis]])
        if any(value.carries(other) for other in range(len(value.axes)) if other != axis):
            raise self.unsupported(f"it works along axis {axis}, which is not the only axis of channels")
        return self.axis(value, axis)

    def write(self, nodes: Axis, channel: int, shape: Sequence[int] | None = None) -> Value:
        """An activation in a new space, by default of the output's shape, with the nodes on axis `channel` alone."""
        sizes = self.shape if shape is None else tuple(shape)
        return self.written(nodes, sizes, (channel % len(sizes),))

    def written(self, nodes: Axis, sizes: Sequence[int], node_axes: tuple[int, ...]) -> Value:
        """An activation that fills a new home with axes of these sizes."""
        taken = {draft.name for draft in self.record.spaces}
        name = self.module or self.operator.partition(".")[2]
        number = 1
        while (unique := name if number == 1 else f"{name}:{number}") in taken:
            number += 1
        draft = SpaceDraft(unique, "hidden", nodes)
        self.record.spaces.append(draft)
        return Value(draft, tuple(sizes), whole(sizes), (0,) * len(sizes), node_axes)

    def operate(self, value: Value, kind: str, /, **attributes: Any) -> Value:
        """The value after a parameter-free step on every number alike; in a new space if the old one is read elsewhere.

        So it is if a space would do one kind of step twice with different attributes, which no code could tell apart.
        """
        operation = Operation(kind, attributes)
        clash = any(one.kind == kind and one != operation for one in draft_of(value).operations)
        value = self.exclusive(value) if value.shared or clash or len(draft_of(value).operations) > 20 else value
        draft_of(value).operations.append(operation)
        return replace(value, storage=None)

    def resized(self, value: Value, channel: int = 1) -> Value:
        """The settled value in the output's shape, after an operation that changed its positions."""
        nodes = tuple(axis for axis in range(len(value.axes)) if value.carries(axis))
        if not nodes and self.shape[channel] == 1:
            nodes = (channel % len(self.shape),)
        sizes = self.shape
        return replace(value, sizes=sizes, axes=whole(sizes), starts=(0,) * len(sizes), written=nodes)

    def vector(self, value: Value, axis: int, entries: Mapping[str, Value]) -> Value:
        """The value whose space carries 1-D entries (role -> entry) along `axis`.

        Positions on that axis become nodes of a space of their own.
        """
        if any(not value.is_node(dim) for dim in value.axes[axis]):
            value = self.flattened(value, axis)
        value = self.ordered(value)
        if value.shared or draft_of(value).vectors.keys() & entries.keys():
            value = self.exclusive(value)
        draft = draft_of(value)
        for role, entry in entries.items():
            assert entry.entry is not None
            draft.vectors[role] = entry.entry
            if math.prod(entry.shape) > 1 and math.prod(entry.sizes) != draft.type.size:
                draft.starts[role] = sum(entry.starts)
        return value

    def block(self, block: Block, source: Value, target: Value) -> None:
        """A weight tensor as edges between two spaces; the block's own `source` and `target` are filled in later."""
        self.record.steps.append(Step(block, draft_of(source), draft_of(target)))

    def link(self, kind: str, source: Value, target: Value, /, nodes: np.ndarray | None = None, **fields: Any) -> None:
        """A parameter-free connection; `nodes` are those of the source that the target's nodes read, one each."""
        if self.record.types_only:
            return
        if nodes is not None:
            flat = nodes.reshape(-1)
            size = draft_of(source).type.size
            same = len(flat) == size and (flat == np.arange(size)).all()
            fields["sources"] = () if same else tuple(flat.tolist())
        fields["attributes"] = {name: value for name, value in fields.get("attributes", {}).items() if value != ""}
        self.record.steps.append(Step(Link(kind, 0, 0, **fields), draft_of(source), draft_of(target)))

    def exclusive(self, value: Value) -> Value:
        """The same view of a space that nothing else reads."""
        draft = draft_of(value)
        if draft.undecided is not None and draft.entry is not None:
            again = replace(draft, operations=list(draft.operations))
            self.record.spaces.append(again)
            return replace(value, home=again, shared=False)
        self.decide(value, [])  # of a network input, which is fixed in any case
        copy = self.written(draft.type, value.sizes, value.nodes)
        self.link("identity", value, copy)
        return replace(copy, axes=value.axes, starts=value.starts)

    def ordered(self, value: Value) -> Value:
        """The value, settled unless it walks through all nodes of its space in their order."""
        dims = [dim for row in value.axes for dim in row if value.is_node(dim)]
        order = value.node_numbers(dims, [dim.size for dim in dims]).reshape(-1)
        size = draft_of(value).type.size
        plain = len(order) == size and (order == np.arange(size)).all()
        return value if plain else self.settled(value)

    def alone(self, value: Value, axis: int) -> Value:
        """The value with its channels on `axis` alone; those that a view has put elsewhere become fixed positions."""
        axis %= len(value.axes)
        self.decide(value, [dim.axis for dim in value.axes[axis] if dim.size == value.sizes[dim.axis]])
        elsewhere = any(value.carries(other) for other in range(len(value.axes)) if other != axis)
        return self.turned(value, [axis]) if elsewhere else value

    def flattened(self, value: Value, axis: int) -> Value:
        """The value in a space in which the positions on `axis` are nodes too."""
        return self.turned(value, [k for k in range(len(value.axes)) if k == axis or value.carries(k)])

    def turned(self, value: Value, axes: Sequence[int]) -> Value:
        """The value in a space with nodes on `axes` alone: positions there become nodes, nodes elsewhere positions.

        Nodes that become positions do not move from then on, but for what they share with the nodes that stay.
        """
        if any(dim.axis == REPEAT for axis in axes for dim in value.axes[axis]):
            value = self.copied(value)
        turn = turning(value, axes)
        if not turn.moves:
            return self.settled(value)
        self.chosen(value)
        mine = select(draft_of(value).type, turn.taken)
        self.scope(mine)
        if turn.laid > 1:  # what is left moves with all of its new positions at once
            kept = free(len(turn.taken) // turn.laid)
            self.equate(mine, merge([kept, fixed(turn.laid)]))
            mine = kept
        turned = self.written(renumber(merge([mine, fixed(turn.raised)]), turn.to), value.shape, tuple(axes))
        self.link(turn.kind, value, turned, nodes=turn.sources, targets=turn.targets, attributes=turn.attributes)
        return turned

    def settled(self, value: Value) -> Value:
        """The value in a space of its own, axis by axis as it is seen, unless it lies like that already."""
        letters = [row for k, row in enumerate(value.axes) if not value.carries(k)]
        dims = [dim for row in value.axes for dim in row]
        if any(value.carries(k) and any(not value.is_node(dim) for dim in row) for k, row in enumerate(value.axes)):
            raise self.unsupported("it needs the positions apart from the channels, which a view has merged")
        nodes = [dim for dim in dims if value.is_node(dim)]
        order = value.node_numbers(nodes, [dim.size for dim in nodes]).reshape(-1)
        size = draft_of(value).type.size
        plain = len(order) == size and (order == np.arange(size)).all()
        if plain and value.layout(letters) == "" and not any(dim.axis == REPEAT for dim in dims):
            return value
        return self.copied(value)

    def ranked(self, value: Value, axes: Sequence[int]) -> tuple[Value, tuple[int, ...]]:
        """The value, settled if need be, and which of its home's positions lie on its `axes`, nodes aside."""
        dims = [dim for axis in axes for dim in value.axes[axis]]
        if any(d.axis == REPEAT or (d.stride, d.size) != (1, value.sizes[d.axis]) for d in dims):
            value = self.settled(value)
        dims = [dim for axis in axes for dim in value.axes[axis] if not value.is_node(dim)]
        return value, tuple(value.positions.index(dim.axis) for dim in dims)

    def copied(self, value: Value) -> Value:
        """The value in a space of its own, with the nodes and positions that it shows."""
        from metanet.arch.combine import combine

        return combine(self, ["identity"], [value])
