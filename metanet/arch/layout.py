"""Where the numbers of a value lie in its home: a view only renames places, so it costs nothing and leaves no trace.

The home of a value is the space that holds it, with axes of nodes and of positions (samples, image rows, tokens), or an
entry of the state_dict. Every axis of the value is a row-major product of `Dim`s, strided walks along axes of the home:
splitting channels into heads splits a dim, merging samples and heads lists two dims on one axis. Axes of size 1 are no
dims at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int

REPEAT = -1  # the axis of a dim along which the value is the same everywhere


@dataclass(frozen=True)
class Dim:
    """`size` places along an axis of the home, `stride` apart."""

    axis: int
    stride: int
    size: int  # at least 2


Axes = tuple[tuple[Dim, ...], ...]


class Misaligned(ValueError):  # noqa: N818 (it is caught where it is raised for)
    """A view that is no strided walk through the home."""


def whole(sizes: Sequence[int]) -> Axes:
    """The home itself, axis by axis."""
    return tuple((Dim(axis, 1, size),) if size != 1 else () for axis, size in enumerate(sizes))


def extent(dims: Sequence[Dim]) -> int:
    """How many places the dims walk through."""
    return math.prod(dim.size for dim in dims)


def refine(rows: Sequence[Sequence[Dim]]) -> list[list[Dim]]:
    """The same walks, cut so finely that all rows, of one extent, are products of the same sizes.

    Raises:
        Misaligned: sizes of which none divides the other, as in 2 x 3 beside 3 x 2.
    """
    ends = sorted({extent(row[k:]) for row in rows for k in range(len(row) + 1)})
    if any(big % small for small, big in pairwise(ends)):
        raise Misaligned(f"sizes {[[dim.size for dim in row] for row in rows]} do not cut each other")
    return [[part for k, dim in enumerate(row) for part in _cut(dim, extent(row[k + 1 :]), ends)] for row in rows]


def _cut(dim: Dim, inner: int, ends: Sequence[int]) -> list[Dim]:
    """The dim, behind which `inner` places lie, as a product that ends at each of `ends` inside it."""
    inside = [end // inner for end in ends if inner <= end <= inner * dim.size]
    return [Dim(dim.axis, dim.stride * low, high // low) for low, high in pairwise(inside)][::-1]


def reshape(axes: Axes, shape: Sequence[int]) -> Axes:
    """The view of the same places in another shape.

    Raises:
        Misaligned: a shape that cuts a dim where it does not divide.
    """
    dims = [dim for row in axes for dim in row]
    target = [Dim(REPEAT, 1, size) for size in shape if size != 1]
    parts, _ = refine([dims, target])
    new, todo = [], list(parts)
    for size in shape:
        row: list[Dim] = []
        while extent(row) < size:
            row.append(todo.pop(0))
        new.append(tuple(row))
    return tuple(new)


def expand(axes: Axes, shape: Sequence[int]) -> Axes:
    """The view that repeats axes of size 1, and new axes in front, up to `shape`; -1 keeps a size."""
    rows = ((),) * (len(shape) - len(axes)) + axes
    return tuple(
        (Dim(REPEAT, 1, size),) if not row and size not in (1, -1) else row
        for row, size in zip(rows, shape, strict=True)
    )


def take(
    dims: Sequence[Dim], starts: Sequence[int], first: int, step: int, count: int
) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
    """The places first, first + step, ... of an axis: its new dims, and where the walks through the home start.

    Raises:
        Misaligned: places that are no strided walk, as in a slice of merged axes across their border.
    """
    if count == extent(dims) and first == 0 and step == 1:
        return tuple(dims), tuple(starts)
    outer, *rest = dims
    inner = extent(rest)
    moved = list(starts)
    if count > 1 and first // inner != (first + step * (count - 1)) // inner:
        if first % inner or (rest and (step != 1 or count % inner)):
            raise Misaligned(f"places {first}, {first + step}, ... of sizes {[dim.size for dim in dims]}")
        count = count // inner if rest else count
        kept = (Dim(outer.axis, outer.stride * step, count), *rest) if count > 1 else tuple(rest)
        first //= inner
    else:
        kept, below = take(rest, starts, first % inner, step, count) if rest else ((), starts)
        moved, first = list(below), first // inner
    if outer.axis != REPEAT:
        moved[outer.axis] += outer.stride * first
    return kept, tuple(moved)


def numbers(
    dims: Sequence[Dim | None], sizes: Sequence[int], starts: Sequence[int], weights: Mapping[int, int]
) -> Int[np.ndarray, "..."]:
    """For every place of a grid, row-major: the number that the home gives it.

    Grid axis k has `sizes[k]` places and walks along `dims[k]`, if there is one; `weights` says how far apart
    neighbours on an axis of the home are numbered, other axes do not count.
    """
    result = np.full(tuple(sizes), sum(weight * starts[axis] for axis, weight in weights.items()), dtype=np.int64)
    for k, dim in enumerate(dims):
        if dim is not None and dim.axis in weights:
            steps = np.arange(sizes[k]) * dim.stride * weights[dim.axis]
            result += steps.reshape(-1, *[1] * (len(sizes) - k - 1))
    return result


def row_major(sizes: Sequence[int], axes: Sequence[int]) -> dict[int, int]:
    """The weights that number the places of `axes`, given the sizes of all axes, row by row."""
    return {axis: math.prod(sizes[later] for later in axes[k + 1 :]) for k, axis in enumerate(axes)}


def text(
    letters: Sequence[Sequence[Dim]], positions: Sequence[int], sizes: Sequence[int], starts: Sequence[int]
) -> str:
    """How a reader walks through the positions of a home, "" if axis by axis as they lie there.

    `letters` are the reader's own axes of positions in its order, `positions` the home's, `sizes` all of the home's.
    """
    rank = {axis: number for number, axis in enumerate(positions)}
    words = []
    for dims in letters:
        atoms = []
        for dim in dims:
            if dim.axis in rank:
                all_of_it = dim.stride == 1 and dim.size == sizes[dim.axis]
                atoms.append(f"{rank[dim.axis]}" if all_of_it else f"{rank[dim.axis]}/{dim.stride}:{dim.size}")
        words.append(".".join(atoms) or "-")
    ahead = [f"+{rank[axis]}:{starts[axis]}" for axis in positions if starts[axis]]
    plain = all(word in ("-", str(number)) for number, word in enumerate(words))
    seen = {dim.axis for dims in letters for dim in dims}
    missing = any(sizes[axis] > 1 and axis not in seen for axis in positions)  # one place of an axis was selected
    return "" if plain and not ahead and not missing else " ".join([*words, *ahead])
