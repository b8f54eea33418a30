"""Homes whose nodes are not known from the start: network inputs, parameters that are used like inputs, constants.

Which of their axes are nodes shows when an operator reads them beside something else (`decide`). An axis that a
parameter alone holds, as the hidden places of a layer over positions, could be nodes as well as positions: the walk
says which (`raised`), and where such nodes meet positions they become positions again (`lain`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metanet.arch.axes import Factor, factors_between, factors_of, fixed, merge
from metanet.arch.layout import whole
from metanet.arch.record import Record, Step
from metanet.arch.template import Block, Operation
from metanet.arch.value import SpaceDraft, Value, draft_of, grid

if TYPE_CHECKING:
    from metanet.arch.call import Call


def decide(call: Call, value: Value, axes: Sequence[int]) -> None:
    """Writes the nodes of an undecided home: these axes, and those that the parameter has elsewhere."""
    draft, record = value.home, call.record
    if not isinstance(draft, SpaceDraft) or draft.undecided is None:
        return
    sizes, draft.undecided = draft.undecided, None
    known = record.decided.get(draft.name, ())
    draft.nodes = tuple(sorted({*axes, *known}))
    if draft.entry is None:
        draft.type = fixed(math.prod(sizes[axis] for axis in draft.nodes))
        return
    record.decided[draft.name] = draft.nodes  # other spaces of the same parameter agree
    types = [draft.entry.types[axis] for axis in draft.nodes]
    call.pin(*(draft.entry.types[axis] for axis in range(len(sizes)) if axis not in draft.nodes))
    draft.type = merge(types) if types else fixed(1)
    _edges(record, draft, sizes)


def guessed(value: Value) -> list[int]:
    """The nodes of a home that no other operand decides on: a weight has its first two axes, all else none."""
    draft = draft_of(value)
    weight = draft.undecided is not None and draft.entry is not None and len(draft.undecided) > 1
    return [0, 1] if weight else []


def raised(record: Record, value: Value, own: Collection[int]) -> list[int]:
    """Which axes of an undecided parameter, of those that it alone holds, the walk takes for nodes."""
    draft = draft_of(value)
    if draft.undecided is None or draft.entry is None:
        return []
    record.alone |= {(draft.entry.name, axis) for axis in own}
    up = [axis for axis in own if (draft.entry.name, axis) in record.raised]
    record.high += [draft.entry.types[axis] for axis in up]
    return up


def lain(call: Call, value: Value, axes: Sequence[int]) -> Value:
    """The value, whose raised nodes are positions if there are any on these axes."""
    high = {id(factor) for factor in factors_of(call.record.high)}
    if not high:
        return value
    carrying = [k for k in range(len(value.axes)) if value.carries(k)]
    low = [k for k in carrying if high.isdisjoint(id(factor) for factor in _along(value, k))]
    return call.turned(value, low) if any(k in carrying and k not in low for k in axes) else value


def _along(value: Value, axis: int) -> list[Factor]:
    """The factors of the nodes on an axis."""
    dims = [dim for dim in value.axes[axis] if value.is_node(dim)]
    return factors_between(draft_of(value).type, value.node_numbers(dims, [dim.size for dim in dims]).reshape(-1))


def _edges(record: Record, draft: SpaceDraft, sizes: tuple[int, ...]) -> None:
    """The edges from the constant node to a parameter that is used like an input; its positions are taps."""
    assert draft.entry is not None
    out, taps = (
        " ".join(f"a{axis}" for axis in range(len(sizes)) if (axis in draft.nodes) == kept) for kept in (True, False)
    )
    positions = tuple(size for axis, size in enumerate(sizes) if axis not in draft.nodes)
    block = Block(
        *(draft.entry.name, 0, 0, "parameter"),
        shape=(draft.type.size, 1, math.prod(positions)),
        taps=grid(positions),
        pattern=f"{' '.join(f'a{axis}' for axis in range(len(sizes)))} -> ({out}) 1 ({taps})",
        axes={f"a{axis}": size for axis, size in enumerate(sizes)},
    )
    record.steps.append(Step(block, record.constant(), draft))


def constant(record: Record, data: Tensor) -> Value:
    """A constant as the one node of a space; its table is a hash. Axes along which it does not vary have size 1."""
    for dim in range(data.ndim):
        if data.shape[dim] > 1 and bool((data == data.narrow(dim, 0, 1)).all()):
            data = data.narrow(dim, 0, 1)
    numbers = torch.view_as_real(data).double() if data.is_complex() else data.to(torch.float64).contiguous()
    digest = hashlib.sha256(repr(tuple(data.shape)).encode() + numbers.numpy().tobytes()).hexdigest()
    draft = SpaceDraft(f"constant {digest[:8]}", "constant", fixed(1))
    known = next((one for one in record.spaces if one.name == draft.name), None)
    if known is None:
        draft.operations.append(Operation("constant", {"table": digest}))
        record.spaces.append(draft)
    sizes = tuple(data.shape)
    return Value(known or draft, sizes, whole(sizes), (0,) * len(sizes), (), shared=True)
