"""Axis types: what may be exchanged along one axis of a tensor, and their unification.

The type of an axis is a direct sum of segments; a segment is a row-major product of factors and covers the positions
of the axis that its integer array lists. A factor is *fixed* (network input and output, kernel taps, image positions)
or *free*: a set of positions that one permutation may shuffle. A free factor may have *keys*, factors for each of whose
positions it has a permutation of its own (channels inside the groups of a convolution: a wreath product).

With explicit positions concatenation is an offset, a slice is a restriction, a shuffle is a renumbering, and sums never
nest. `unify` says that two axes move together: it refines factors into sums and products of smaller ones; what is still
free at the end is the symmetry. It is heuristic where exactness would cost: `certificate.py` checks the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int


@dataclass(eq=False)
class Factor:
    """A set of `size` positions, exchangeable unless `fixed`; once refined, it is `bound` to the finer type."""

    size: int
    fixed: bool = False
    keys: list[Factor] = field(default_factory=list)
    bound: Axis | None = None

    def fix(self) -> None:
        """Nothing moves along this factor any more."""
        self.fixed, self.keys = True, []


@dataclass(frozen=True, eq=False)
class Segment:
    """The positions `positions[i, j, ...]` of an axis, where factor 0 is at i, factor 1 at j, ..."""

    factors: tuple[Factor, ...]
    positions: Int[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class Axis:
    """A direct sum of segments that together cover every position of the axis once."""

    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        return sum(segment.positions.size for segment in self.segments)


def axis(*factors: Factor) -> Axis:
    """The product of factors in row-major order."""
    sizes = tuple(factor.size for factor in factors)
    return Axis((Segment(factors, np.arange(int(np.prod(sizes, dtype=np.int64))).reshape(sizes)),))


def free(size: int) -> Axis:
    """An axis of which nothing is known yet: any order of its positions may do."""
    return axis(Factor(size))


def fixed(size: int) -> Axis:
    """An axis whose positions never move."""
    return axis(Factor(size, fixed=True))


def merge(axes: Sequence[Axis]) -> Axis:
    """The type of axes that a view has merged into one, row-major."""
    merged = axes[0]
    for inner in axes[1:]:
        segments = tuple(
            Segment(a.factors + b.factors, np.add.outer(a.positions * inner.size, b.positions))
            for a in merged.segments
            for b in inner.segments
        )
        merged = Axis(segments)
    return merged


def concatenate(axes: Sequence[Axis]) -> Axis:
    """The type of axes that lie behind each other on one axis."""
    segments, start = [], 0
    for one in axes:
        segments += [Segment(segment.factors, segment.positions + start) for segment in one.segments]
        start += one.size
    return Axis(tuple(segments))


def renumber(old: Axis, to: Int[np.ndarray, " positions"]) -> Axis:
    """The type of an axis whose position p has become `to[p]`."""
    return Axis(tuple(Segment(segment.factors, to[segment.positions]) for segment in old.segments))


def select(whole: Axis, taken: Int[np.ndarray, " positions"]) -> Axis:
    """The type of an axis that reads position `taken[p]` of `whole` at p; what is taken and what is not come apart."""
    to = np.full(whole.size, -1, dtype=np.int64)
    to[taken] = np.arange(len(taken))
    left = np.flatnonzero(to < 0)
    if len(left):
        unify(whole, Axis((Segment((Factor(len(taken)),), taken), Segment((Factor(len(left)),), left))))
    inside = [segment for segment in resolve(whole).segments if to[segment.positions.flat[0]] >= 0]
    return Axis(tuple(Segment(segment.factors, to[segment.positions]) for segment in inside))


def resolve(unresolved: Axis) -> Axis:
    """The same axis in terms of factors that are not refined any further."""
    done: list[Segment] = []
    todo = list(reversed(unresolved.segments))
    while todo:
        segment = todo.pop()
        k = next((k for k, factor in enumerate(segment.factors) if factor.bound is not None), None)
        if k is None:
            done.append(segment)
            continue
        refined = segment.factors[k]
        assert refined.bound is not None
        refined.bound = resolve(refined.bound)
        for part in reversed(refined.bound.segments):
            factors = segment.factors[:k] + part.factors + segment.factors[k + 1 :]
            todo.append(Segment(factors, np.take(segment.positions, part.positions, axis=k)))
    return Axis(tuple(done))


def factors_of(axes: Iterable[Axis]) -> list[Factor]:
    """Every resolved factor of the axes, once, in order of appearance."""
    found = {id(f): f for one in axes for segment in resolve(one).segments for f in segment.factors}
    return list(found.values())


def factors_between(one: Axis, places: Int[np.ndarray, " positions"]) -> list[Factor]:
    """The factors in which these positions of an axis differ."""
    found: dict[int, Factor] = {}
    for segment in resolve(one).segments:
        inside = np.isin(segment.positions, places)
        coordinates = np.nonzero(inside)
        found |= {id(f): f for f, c in zip(segment.factors, coordinates, strict=True) if c.size and np.ptp(c)}
    return list(found.values())


def resolved_keys(factor: Factor) -> list[Factor]:
    """The keys in terms of unrefined factors; a key that became a sum is lost, which only makes the group smaller."""
    keys: dict[int, Factor] = {}
    for key in factor.keys:
        segments = resolve(axis(key)).segments
        if len(segments) == 1:
            keys |= {id(f): f for f in segments[0].factors if f is not factor and f.size > 1}
    return list(keys.values())


def unify(left: Axis, right: Axis) -> None:
    """Refines factors until both axes move together. Cost: linear in the positions for each refinement."""
    assert left.size == right.size, (left.size, right.size)
    changed = True
    while changed:
        left, right = resolve(left), resolve(right)
        changed = _split(left, right) or _split(right, left) or any(_match(s, t) for s, t in _pairs(left, right))


def _owners(one: Axis) -> Int[np.ndarray, " positions"]:
    owners = np.empty(one.size, dtype=np.int64)
    for number, segment in enumerate(one.segments):
        owners[segment.positions] = number
    return owners


def _split(left: Axis, right: Axis) -> bool:
    """Splits one factor of `left` whose positions meet different segments of `right`; False if there is none."""
    owners = _owners(right)
    for segment in left.segments:
        met = owners[segment.positions]
        for k, factor in enumerate(segment.factors):
            rows = np.moveaxis(met, k, 0).reshape(factor.size, -1)
            if (rows == rows[0]).all():
                continue
            classes = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
            groups = [np.flatnonzero(classes == c) for c in range(classes.max() + 1)]
            parts = [Segment((Factor(len(g), factor.fixed, list(factor.keys)),), g) for g in groups]
            factor.bound = Axis(tuple(parts))
            return True
    return False


def _pairs(left: Axis, right: Axis) -> list[tuple[Segment, Segment]]:
    """Segments that cover the same positions; after the splits every segment has its partner."""
    owners = _owners(right)
    return [(segment, right.segments[owners[segment.positions.flat[0]]]) for segment in left.segments]


def _match(s: Segment, t: Segment) -> bool:
    """Binds the factors of two segments over the same positions to each other; True if anything changed.

    The coordinates of `t` are written on the grid of `s`. Factors that depend on each other form components, and the
    map between the two sides of a component is a bijection.
    """
    order = np.empty(max(int(s.positions.max()), int(t.positions.max())) + 1, dtype=np.int64)
    order[t.positions.reshape(-1)] = np.arange(t.positions.size)
    coordinates = np.unravel_index(order[s.positions], t.positions.shape)
    depends = [
        {k for k in range(s.positions.ndim) if (np.diff(c, axis=k) != 0).any()} if c.size else set()
        for c in coordinates
    ]
    components: list[tuple[set[int], set[int]]] = []
    for g, reads in enumerate(depends):
        if not reads:
            continue  # a factor of size 1 has nothing to move
        joined = [component for component in components if component[0] & reads]
        components = [component for component in components if not component[0] & reads]
        components.append((reads.union(*(c[0] for c in joined)), {g}.union(*(c[1] for c in joined))))
    return any(_bind(s, t, sorted(fs), sorted(gs), coordinates) for fs, gs in components)


def _bind(s: Segment, t: Segment, fs: list[int], gs: list[int], coordinates: Sequence[np.ndarray]) -> bool:
    """Makes the factors `fs` of `s` and `gs` of `t`, which cover the same positions, one; True if anything changed."""
    lefts, rights = [s.factors[f] for f in fs], [t.factors[g] for g in gs]
    grid = [coordinates[g][tuple(slice(None) if k in fs else 0 for k in range(s.positions.ndim))] for g in gs]
    if len(lefts) == len(rights) == 1 and lefts[0] is rights[0]:
        if lefts[0].fixed or (grid[0] == np.arange(lefts[0].size)).all():
            return False
        lefts[0].fix()  # a factor against its own renumbering, as in x + flip(x)
        return True
    if len(rights) == 1:
        return _refine(rights[0], lefts, grid[0])
    if len(lefts) == 1:
        positions = np.empty(tuple(right.size for right in rights), dtype=np.int64)
        positions[tuple(grid)] = np.arange(lefts[0].size)
        return _refine(lefts[0], rights, positions)
    for g, right in enumerate(rights):  # many to many: cut the larger factor where the smaller one ends
        varies = [k for k in range(len(lefts)) if (np.diff(grid[g], axis=k) != 0).any()]
        if len(varies) == 1 and lefts[varies[0]].size > right.size:
            first = tuple(slice(None) if k == varies[0] else 0 for k in range(len(lefts)))
            if _cut(lefts[varies[0]], grid[g][first], right.size):
                return True
    flat = [np.unravel_index(_inverse(grid, rights), tuple(f.size for f in lefts))[k] for k in range(len(lefts))]
    for f, left in enumerate(lefts):
        varies = [k for k in range(len(rights)) if (np.diff(flat[f], axis=k) != 0).any()]
        if len(varies) == 1 and rights[varies[0]].size > left.size:
            first = tuple(slice(None) if k == varies[0] else 0 for k in range(len(rights)))
            if _cut(rights[varies[0]], flat[f][first], left.size):
                return True
    moving = [factor for factor in lefts + rights if not factor.fixed]
    for factor in moving:
        factor.fix()
    return bool(moving)


def _inverse(grid: Sequence[np.ndarray], rights: Sequence[Factor]) -> np.ndarray:
    """On the grid of `rights`, the flat position on the grid of the left side."""
    inverse = np.empty(tuple(right.size for right in rights), dtype=np.int64)
    inverse[tuple(grid)] = np.arange(grid[0].size).reshape(grid[0].shape)
    return inverse


def _refine(whole: Factor, parts: list[Factor], positions: np.ndarray) -> bool:
    """Binds `whole` to the product of `parts`; both sides inherit what the other may not move and depends on."""
    if whole.fixed:
        for part in parts:
            part.fix()
    for part in parts:
        if not part.fixed:
            part.keys = [*part.keys, *whole.keys]
    if len(parts) == 1 and parts[0].fixed:
        whole.fix()
    whole.bound = Axis((Segment(tuple(parts), positions),))
    return True


def _cut(whole: Factor, outer: np.ndarray, size: int) -> bool:
    """Binds `whole` to outer x inner, `outer[p]` being the coarse coordinate; False if the classes differ in size."""
    counts = np.bincount(outer, minlength=size)
    if (counts != counts[0]).any():
        return False
    coarse = Factor(size, whole.fixed, list(whole.keys))
    fine = Factor(whole.size // size, whole.fixed, list(whole.keys))
    if not whole.fixed:  # which of the two depends on the other shows in the end
        coarse.keys, fine.keys = [*coarse.keys, fine], [*fine.keys, coarse]
    whole.bound = Axis((Segment((coarse, fine), np.argsort(outer, kind="stable").reshape(size, -1)),))
    return True
