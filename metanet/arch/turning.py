"""Positions that become nodes, and nodes that become positions: which edges say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from metanet.arch.layout import Dim, numbers, row_major
from metanet.arch.value import Value, grid


@dataclass(frozen=True)
class Turn:
    """The new nodes are products of old ones and of positions; nodes that are laid down become positions."""

    kind: str  # of the link
    taken: Int[np.ndarray, " nodes"]  # the old nodes, those that are laid down innermost
    laid: int  # places of the nodes that are laid down
    raised: int  # places of the positions that become nodes
    to: Int[np.ndarray, " new"]  # the new node of each (old node, position)
    sources: Int[np.ndarray, "..."]  # of the edges
    targets: tuple[int, ...]
    attributes: Mapping[str, Any]

    @property
    def moves(self) -> bool:
        return self.laid > 1 or self.raised > 1


def turning(value: Value, axes: Sequence[int]) -> Turn:
    """How the value comes to have nodes on `axes` alone. The taps of an edge tell its position, old or new."""
    dims = [dim for axis in axes for dim in value.axes[axis]]
    nodes, raised = ([dim for dim in dims if value.is_node(dim) == kind] for kind in (True, False))
    laid = [d for k, row in enumerate(value.axes) if k not in axes for d in row if value.is_node(d)]
    new = np.arange(math.prod(_sizes(dims))).reshape(_sizes(dims))
    walk, marked = dims + laid, laid or raised
    places = [Dim(marked.index(dim), 1, dim.size) if dim in marked else None for dim in walk]
    weights = row_major(_sizes(marked), range(len(marked)))
    place = numbers(places, _sizes(walk), [0] * len(marked), weights)
    letters = [[dim for dim in row if not value.is_node(dim)] for k, row in enumerate(value.axes) if k not in axes]
    layout = value.layout([*letters, *([dim] for dim in raised)])
    targets = np.broadcast_to(new.reshape(*new.shape, *[1] * len(laid)), _sizes(walk)).reshape(-1)
    return Turn(
        kind="turn" if laid else "flatten",
        taken=value.node_numbers(nodes + laid, _sizes(nodes + laid)).reshape(-1),
        laid=math.prod(_sizes(laid)),
        raised=math.prod(_sizes(raised)),
        to=new.transpose([dims.index(dim) for dim in nodes + raised]).reshape(-1),
        sources=value.node_numbers([dim if value.is_node(dim) else None for dim in walk], _sizes(walk)),
        targets=tuple(targets.tolist()) if laid else (),
        attributes={
            "taps": grid(_sizes(marked)),
            "places": tuple(place.reshape(-1).tolist()),
            "layout": f"{axes} {value.axes} {layout}" if laid else layout,
        },
    )


def _sizes(dims: Sequence[Dim]) -> list[int]:
    return [dim.size for dim in dims]
