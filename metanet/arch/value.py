"""What a trace knows of a tensor: where its numbers lie, and what may be exchanged there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from metanet.arch.axes import Axis
from metanet.arch.layout import Axes, Dim, extent, numbers, row_major, text
from metanet.arch.template import Operation


@dataclass(eq=False)
class Entry:
    """A parameter or buffer: what may be exchanged along each of its axes."""

    name: str
    types: tuple[Axis, ...]


@dataclass(eq=False)
class SpaceDraft:
    """A space while it is being written.

    Which axes of a network input, or of a parameter that is used like one, are nodes shows when an operator reads them:
    `undecided` holds its sizes until then.
    """

    name: str
    role: str
    type: Axis  # of the nodes; of one node while it is undecided
    nodes: tuple[int, ...] = ()  # the axes of an undecided home that were found to be nodes
    undecided: tuple[int, ...] | None = None
    entry: Entry | None = None  # the parameter that it holds
    operations: list[Operation] = field(default_factory=list)
    vectors: dict[str, str] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the operator graph: a view of a space, or of an entry of the state_dict."""

    home: SpaceDraft | Entry
    sizes: tuple[int, ...]  # of the home's axes
    axes: Axes  # its own
    starts: tuple[int, ...]  # of its walks through the home
    written: tuple[int, ...] | None = None  # the home's axes that are nodes; None: as the draft says
    shared: bool = False  # something else reads this space too, so that nothing may be appended to it
    storage: int | None = None  # values with one number share memory; None: memory of its own

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(extent(dims) for dims in self.axes)

    @property
    def entry(self) -> str | None:
        """Its name in the state_dict, where it is a parameter or buffer."""
        return self.home.name if isinstance(self.home, Entry) else None

    @property
    def nodes(self) -> tuple[int, ...]:
        """The axes of the home that are nodes."""
        if self.written is not None:
            return self.written
        return self.home.nodes if isinstance(self.home, SpaceDraft) else ()

    @property
    def positions(self) -> tuple[int, ...]:
        """The other axes of the home."""
        return tuple(axis for axis in range(len(self.sizes)) if axis not in self.nodes)

    def is_node(self, dim: Dim) -> bool:
        return dim.axis in self.nodes

    def carries(self, axis: int) -> bool:
        """Whether there are nodes along this axis."""
        return any(self.is_node(dim) for dim in self.axes[axis])

    def node_numbers(self, dims: Sequence[Dim | None], sizes: Sequence[int]) -> np.ndarray:
        """The nodes at the places of a grid that walks along `dims`."""
        return numbers(dims, sizes, self.starts, row_major(self.sizes, self.nodes))

    def layout(self, letters: Sequence[Sequence[Dim]]) -> str:
        """How a reader with these axes of positions walks through those of the home; "" if as they lie."""
        return text(letters, self.positions, self.sizes, self.starts)


def draft_of(value: Value) -> SpaceDraft:
    """The space of an activation."""
    assert isinstance(value.home, SpaceDraft)
    return value.home


def grid(positions: Sequence[int]) -> tuple[int, ...]:
    """The sizes of positions as taps have them: none of size 1, at most three axes."""
    long = [size for size in positions if size > 1]
    return (math.prod(long[:-2]), *long[-2:]) if len(long) > 3 else tuple(long)
