"""Where boxes and bands of a picture lie: rows by distance from the input, few crossings, straight bands.

Source: Sugiyama, Tagawa and Toda (1981), "Methods for visual understanding of hierarchical system structures": ranks,
places for the bands that pass a row, orders by the mean place of the neighbours. Places along a row are then the ones
closest to the neighbours' that keep everything apart (isotonic regression).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

PASSING = 10.0  # half the width of a band that passes a row, in px
GAP = 30.0  # between neighbours in a row
_SWEEPS = 12

Edge = tuple[int, int]  # (source, target), source < target


@dataclass(frozen=True)
class Places:
    """`x` and `row` of every box, and for every edge the (x, row) at which it passes the rows in between."""

    x: list[float]
    row: list[int]
    passing: list[list[tuple[float, int]]]


def place(left: Sequence[float], right: Sequence[float], edges: Sequence[Edge]) -> Places:
    """Places for boxes that reach `left` and `right` of their centres, so that nothing in a row overlaps."""
    row = ranks(len(left), edges)
    lefts, rights, rows_of = list(left), list(right), list(row)
    chains: list[list[int]] = []  # of each edge: its source, the places where it passes a row, its target
    for source, target in edges:
        first = len(lefts)
        passed = range(row[source] + 1, row[target])
        lefts += [PASSING] * len(passed)
        rights += [PASSING] * len(passed)
        rows_of += passed
        chains.append([source, *range(first, len(lefts)), target])
    above: list[list[int]] = [[] for _ in lefts]
    below: list[list[int]] = [[] for _ in lefts]
    for chain in chains:
        for one, other in itertools.pairwise(chain):
            below[one].append(other)
            above[other].append(one)
    rows: list[list[int]] = [[] for _ in range(max(rows_of, default=-1) + 1)]
    for item, its_row in enumerate(rows_of):
        rows[its_row].append(item)
    rows = _ordered(rows, above, below)
    x = _across(rows, above, below, lefts, rights)
    passing = [[(x[item], rows_of[item]) for item in chain[1:-1]] for chain in chains]
    return Places(x[: len(left)], row, passing)


def ranks(boxes: int, edges: Sequence[Edge]) -> list[int]:
    """The longest way from a box that nothing leads to; such boxes stand right above their first reader."""
    row, reached = [0] * boxes, [False] * boxes
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        row[target], reached[target] = max(row[target], row[source] + 1), True
    for box in range(boxes):
        readers = [row[target] for source, target in edges if source == box]
        if readers and not reached[box]:
            row[box] = min(readers) - 1
    return row


def _ordered(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[list[int]]:
    """The order of every row, of some sweeps down and up the one with the fewest crossings."""
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        near, down = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        place: dict[int, float] = {}
        swept = []
        for items in down:
            mean = {item: _mean([place[n] for n in near[item]], float(k)) for k, item in enumerate(items)}
            swept.append(sorted(items, key=mean.__getitem__))
            place |= {item: float(k) for k, item in enumerate(swept[-1])}
        rows = swept if sweep % 2 == 0 else swept[::-1]
        if (found := _crossings(rows, below)) < fewest:
            best, fewest = rows, found
    return best


def _crossings(rows: list[list[int]], below: list[list[int]]) -> int:
    count = 0
    for upper, lower in itertools.pairwise(rows):
        place = {item: k for k, item in enumerate(lower)}
        ends = [sorted(place[n] for n in below[item]) for item in upper]
        seen: list[int] = []
        for its_ends in ends:
            count += sum(before > end for end in its_ends for before in seen)
            seen += its_ends
    return count


def _across(
    rows: list[list[int]], above: list[list[int]], below: list[list[int]], lefts: list[float], rights: list[float]
) -> list[float]:
    """The x of every item; each row in turn moves as close to its neighbours as it can."""
    x = [0.0] * len(lefts)
    for items in rows:  # side by side, around 0
        edges = [0.0]
        for one, other in itertools.pairwise(items):
            edges.append(edges[-1] + rights[one] + GAP + lefts[other])
        for item, edge in zip(items, edges, strict=True):
            x[item] = edge - edges[-1] / 2
    for sweep in range(_SWEEPS):
        for items in rows if sweep % 2 == 0 else rows[::-1]:
            near = [above[i] if sweep % 2 == 0 else below[i] for i in items]
            if sweep == _SWEEPS - 1:
                near = [above[i] + below[i] for i in items]
            wanted = [_mean([x[n] for n in its], x[item]) for its, item in zip(near, items, strict=True)]
            apart = [rights[a] + GAP + lefts[b] for a, b in itertools.pairwise(items)]
            for item, place in zip(items, _closest(wanted, apart), strict=True):
                x[item] = place
    first = min((x[i] - lefts[i] for i in range(len(x))), default=0.0)
    return [place - first for place in x]


def _closest(wanted: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The places nearest to `wanted` in least squares with at least `apart` between neighbours, in their order.

    Pool adjacent violators: Ayer et al. (1955).
    """
    offset = [0.0]
    for distance in apart:
        offset.append(offset[-1] + distance)
    pools: list[tuple[float, int]] = []  # mean of what its members want, number of members
    for want, shift in zip(wanted, offset, strict=True):
        mean, size = want - shift, 1
        while pools and pools[-1][0] > mean:
            before, members = pools.pop()
            mean, size = (before * members + mean * size) / (members + size), members + size
        pools.append((mean, size))
    means = [mean for mean, size in pools for _ in range(size)]
    return [mean + shift for mean, shift in zip(means, offset, strict=True)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
