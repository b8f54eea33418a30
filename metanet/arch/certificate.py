"""The independent checker: nothing is sampled from a symmetry that has not passed here.

It shares no code with the solver of `axes.py` beyond reading its result, and knows two facts that together make every
element of the group keep the function:

1. *Equations*: two axes that an operator reads together send every position to the same place. Checked position by
   position: the same free factors, the same coordinates, the same keys, and the same place once the free coordinates
   are set to zero.
2. *Scopes*: in every tensor and in every loop nest of an operator, a factor with keys meets each key exactly once, so
   that "its own permutation per key" has one meaning.

What fails is made smaller (a key dropped, a factor fixed) until everything holds, so an imperfect solver costs
symmetry, never soundness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metanet.arch.axes import Axis, Factor, Segment, factors_of, resolve, resolved_keys

Equation = tuple[Axis, Axis]
Scope = tuple[Axis, ...]


def certify(equations: Sequence[Equation], scopes: Sequence[Scope]) -> int:
    """Shrinks the group until every equation and scope holds; the number of factors that had to be fixed for it."""
    fixed = 0
    while True:
        prune_keys(scopes)
        wrong = {id(f): f for left, right in equations for f in mismatch(resolve(left), resolve(right))}
        if not wrong:
            return fixed
        for factor in wrong.values():
            factor.fix()
        fixed += len(wrong)


def mismatch(left: Axis, right: Axis) -> list[Factor]:
    """The free factors of two resolved axes at positions that the two do not send to the same place."""
    place, places = _label(left)
    other_place, other_places = _label(right)
    differs = place != other_place
    absent = np.full(left.size, -1, dtype=np.int64)
    for mark in places.keys() | other_places.keys():
        differs |= places.get(mark, absent) != other_places.get(mark, absent)
    if not differs.any():
        return []
    return [
        factor
        for one in (left, right)
        for segment in one.segments
        if differs[segment.positions].any()
        for factor in segment.factors
        if not factor.fixed and factor.size > 1
    ]


def _label(one: Axis) -> tuple[np.ndarray, dict[tuple[int, int], np.ndarray]]:
    """For every position its place with all free coordinates at zero, and its coordinate in each factor that matters.

    A factor is marked by its identity and by how often it has occurred before in the same segment.
    """
    place = np.empty(one.size, dtype=np.int64)
    coordinates: dict[tuple[int, int], np.ndarray] = {}
    for segment in one.segments:
        keys = {id(key) for factor in segment.factors for key in factor.keys}
        grids = np.indices(segment.positions.shape)
        at_zero = tuple(grids[k] if f.fixed else np.zeros_like(grids[k]) for k, f in enumerate(segment.factors))
        place[segment.positions] = segment.positions[at_zero]
        for k, factor in enumerate(segment.factors):
            if factor.size == 1 or (factor.fixed and id(factor) not in keys):
                continue  # it cannot move, and tells nothing apart
            mark = (id(factor), sum(before is factor for before in segment.factors[:k]))
            coordinates.setdefault(mark, np.full(one.size, -1, dtype=np.int64))[segment.positions] = grids[k]
    return place, coordinates


def orbits(one: Axis) -> list[int]:
    """For every position the first of those with which permutations may exchange it, whatever else they move."""
    return _label(resolve(one))[0].tolist()


def prune_keys(scopes: Sequence[Scope]) -> None:
    """Drops every key that some scope does not hold exactly once, then those that close a cycle (greatest fixpoint)."""
    resolved = [tuple(resolve(one) for one in scope) for scope in scopes]
    factors = [f for f in factors_of(one for scope in resolved for one in scope) if not f.fixed]
    for factor in factors:
        factor.keys = resolved_keys(factor) if factor.size > 1 else []  # nothing moves along one position
    for scope in resolved:
        for k, one in enumerate(scope):
            for segment in one.segments:
                for factor in segment.factors:
                    factor.keys = [key for key in factor.keys if _once(key, segment, scope, k)]
    for factor in factors:
        factor.keys = [key for key in factor.keys if not _reaches(key, factor, set())]


def _once(key: Factor, segment: Segment, scope: Scope, position: int) -> bool:
    """Whether the key occurs exactly once beside `segment` of axis `position`, whichever segments the others are at."""
    count = sum(factor is key for factor in segment.factors)
    for k, other in enumerate(scope):
        if k == position:
            continue
        counts = {sum(factor is key for factor in part.factors) for part in other.segments}
        if len(counts) > 1:
            return False
        count += counts.pop() if counts else 0
    return count == 1


def _reaches(start: Factor, goal: Factor, seen: set[int]) -> bool:
    if start is goal:
        return True
    seen.add(id(start))
    return any(id(key) not in seen and _reaches(key, goal, seen) for key in start.keys)
