"""The element of a symmetry that brings one set of tensors closest to another: coordinate ascent over its factors.

The similarity of two sets of tensors is the sum of their products, entry by entry. Permutations keep norms, so the most
similar copy is the closest one. With all other factors held, the similarity is linear in the permutation of one factor,
and the best permutation is a linear assignment. A factor with keys has one assignment per position of its keys. Where a
factor is itself a key (the groups of a wreath product), two of its positions are as similar as the best inner matching
makes them.

Source: Ainsworth, Hayase and Srinivasa (2023), "Git Re-Basin", arXiv:2209.04836, algorithm 1. Departures: factors take
turns in the order of the network instead of a random one; there are two starts, and wreath products.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from metanet.arch.symmetry import Part, Symmetry

Tables = dict[int, Tensor]  # factor -> int64 [*key sizes, size], as Symmetry.apply reads them
Tensors = Mapping[str, Tensor]

_ROUNDING = 1e-12  # of the norms' product: what counts as no gain


class Place(NamedTuple):
    """Where a factor acts: the `turn`-th factor of a part of one axis of an entry."""

    name: str
    axis: int
    part: Part
    turn: int


@dataclass
class Search:
    """The tensors `b` as `tables` have moved them so far, and how to move them closer to `a`.

    All tensors are float64 and on the CPU. Entries that the symmetry does not act on are passed over.
    """

    symmetry: Symmetry
    a: Tensors
    b: dict[str, Tensor]
    tables: Tables = field(default_factory=dict)

    def __post_init__(self) -> None:
        permutations = self.symmetry.permutations
        self.places = _places(self.symmetry, self.a)
        self.inner = {f: [g for g, factor in permutations.items() if f in factor.keys] for f in permutations}
        for f, inner in self.inner.items():
            for g in inner:
                missing = set(self.symmetry.factors[f].keys) - set(permutations[g].keys)
                if missing:
                    acts = ", ".join(f"{name} (axis {axis})" for name, axis in self.symmetry.tensors(g))
                    raise ValueError(f"no matching of a factor that hangs on only part of its keys' keys: {acts}")
            self.tables.setdefault(f, _identity(self.symmetry, f))

    def climb(self, factors: Iterable[int] | None = None, names: Collection[str] | None = None) -> None:
        """Lets the factors, by default all, take turns until none of them gains; see `improve` for `names`."""
        gained = True
        while gained:
            gained = False
            for factor in self.places if factors is None else factors:
                gained |= self.improve(factor, names)

    def spread(self) -> None:
        """Matches each factor once, by the entries whose other factors are matched already, from the fixed ones on."""
        known: set[int] = set()
        while len(known) < len(self.places):
            usable = {f: self._usable(f, known) for f in self.places.keys() - known}
            weights = {f: sum(self.a[name].numel() for name in names) for f, names in usable.items()}
            best = max(weights, key=lambda f: (weights[f], -f))
            self.improve(best, usable[best])
            known.add(best)

    def improve(self, factor: int, names: Collection[str] | None = None) -> bool:
        """Moves one factor, with those that hang on it, to the best permutation; False if nothing was gained.

        Counts the entries `names` alone, by default all. A factor on two axes of one entry makes the similarity
        quadratic; there the assignment is of its linear part, and taken only if it gains.
        """
        names = {place.name for place in self.places[factor]} if names is None else names
        places = [place for place in self.places[factor] if place.name in names]
        if not places:
            return False
        before, tables = dict(self.b), dict(self.tables)
        if self.inner[factor]:
            moves = self._best_with_inner(factor, places, names)
        else:
            pairs = (self._pair(place, factor) for place in places)
            moves = {factor: _assign(sum(a @ b.mT for a, b in pairs), self.tables[factor].shape)}
        for moved, table in moves.items():
            self.move(moved, table)
        gain, size = 0.0, 0.0
        for name in names:
            gain += (self.a[name] * (self.b[name] - before[name])).sum().item()
            size += (self.a[name].norm() * self.b[name].norm()).item()
        if gain <= _ROUNDING * size:
            self.b, self.tables = before, tables
            return False
        return True

    def similarity(self) -> float:
        """The sum of all products, entry by entry."""
        return math.fsum((self.a[name] * self.b[name]).sum().item() for name in self.a)

    def move(self, factor: int, table: Int64[Tensor, "..."]) -> None:
        """Applies one more permutation of a factor; its inner factors travel with their keys."""
        touched = {place.name: self.b[place.name] for place in self.places[factor]}
        self.b |= self.symmetry.apply({factor: table}, touched)
        self.tables[factor] = self.tables[factor].gather(-1, table)
        for g in self.inner[factor]:
            grid = list(self._key_grid(g))
            grid[self.symmetry.factors[g].keys.index(factor)] = table[self._within(g, factor)]
            self.tables[g] = self.tables[g][tuple(grid)]

    def _best_with_inner(self, factor: int, places: list[Place], names: Collection[str]) -> Tables:
        """The best permutation of a factor that others hang on, and theirs.

        Cyclic shifts meet every pair of positions once; at each shift the inner factors are matched anew.
        """
        size = self.symmetry.factors[factor].size
        lead = self.tables[factor].shape[:-1]
        inner = self.inner[factor]
        gains = torch.zeros(math.prod(lead), size, size, dtype=torch.float64)
        found: dict[int, list[Tensor]] = {g: [] for g in inner}
        here = torch.arange(size)
        for shift in range(size):
            trial = copy.copy(self)
            trial.b, trial.tables = dict(self.b), dict(self.tables)
            trial.move(factor, here.roll(-shift).expand(*lead, size))
            trial.tables |= {g: _identity(self.symmetry, g) for g in inner}
            trial.climb(inner, names)
            pairs = (trial._pair(place, factor) for place in places)
            gains[:, here, here.roll(-shift)] = sum((a * b).sum(-1) for a, b in pairs)
            for g in inner:
                found[g].append(trial.tables[g])
        best = _assign(gains, self.tables[factor].shape)
        shifts = (best - here) % size
        chosen = {
            g: torch.stack(found[g])[(shifts[self._within(g, factor)], *self._key_grid(g))] for g in reversed(inner)
        }
        return {factor: best} | chosen

    def _usable(self, factor: int, known: set[int]) -> set[str]:
        """The entries whose factors are all known, but for this one and those that hang on it."""
        ready = known | {factor, *self.inner[factor]}
        names = {place.name for place in self.places[factor]}
        return {name for name in names if _moving(self.symmetry, name) <= ready}

    def _pair(
        self, place: Place, factor: int
    ) -> tuple[Float64[Tensor, "keys size rest"], Float64[Tensor, "keys size rest"]]:
        """Both tensors at a place as [keys of the factor, its positions, everything else]."""
        keys = self.symmetry.factors[factor].keys
        return tuple(_unfolded(self.symmetry, place, keys, side[place.name]) for side in (self.a, self.b))  # type: ignore[return-value]

    def _key_grid(self, factor: int) -> tuple[Tensor, ...]:
        """The coordinates of every position of the factor's keys, each broadcastable to all of them."""
        sizes = [self.symmetry.factors[key].size for key in self.symmetry.factors[factor].keys]
        return torch.meshgrid(*map(torch.arange, sizes), indexing="ij")

    def _within(self, inner: int, outer: int) -> tuple[Tensor, ...]:
        """Indices that spread a table of `outer` over the key grid of `inner`, which hangs on it."""
        grid, keys = self._key_grid(inner), self.symmetry.factors[inner].keys
        return tuple(grid[keys.index(key)] for key in (*self.symmetry.factors[outer].keys, outer))


def closest(symmetry: Symmetry, a: Tensors, b: Tensors) -> Tables:
    """Tables of the symmetry that move `b` close to `a`; never farther than it is.

    The better of two climbs: from `b` as it is (the paper's), and from a matching that spreads from the fixed axes
    inwards, which finds `a` again wherever `b` is a symmetric copy of it and no two channels are alike.

    Cost: per turn of a factor of size n with R weights at each position, O(n^2 R) products and an O(n^3) assignment; a
    factor that others hang on takes n times theirs.

    Raises:
        ValueError: a factor whose keys have keys of their own that it does not hang on.
    """
    names = [name for name in a if _moving(symmetry, name)]
    a, b = ({name: side[name].detach().cpu().double() for name in names} for side in (a, b))
    climbs = []
    for spread in (False, True):
        search = Search(symmetry, a, dict(b))
        if spread:
            search.spread()
        search.climb()
        climbs.append(search)
    return max(climbs, key=Search.similarity).tables


def _places(symmetry: Symmetry, names: Iterable[str]) -> dict[int, list[Place]]:
    """Every place at which each moving factor acts; factors without one are left out."""
    places: dict[int, list[Place]] = {}
    for name in names:
        for axis, parts in enumerate(symmetry.axes.get(name, ())):
            for part in parts:
                for turn, factor in enumerate(part.factors):
                    if factor in symmetry.permutations:
                        places.setdefault(factor, []).append(Place(name, axis, part, turn))
    return dict(sorted(places.items()))


def _moving(symmetry: Symmetry, name: str) -> set[int]:
    """The factors that move an entry."""
    factors = {factor for parts in symmetry.axes.get(name, ()) for part in parts for factor in part.factors}
    return factors & symmetry.permutations.keys()


def _identity(symmetry: Symmetry, factor: int) -> Int64[Tensor, "..."]:
    permutation = symmetry.factors[factor]
    return torch.arange(permutation.size).expand(*(symmetry.factors[key].size for key in permutation.keys), -1)


def _assign(gains: Tensor | int, shape: tuple[int, ...]) -> Int64[Tensor, "..."]:
    """For every key the permutation with the largest sum of gains [keys, new, old], as a table of `shape`."""
    assert isinstance(gains, Tensor)
    best = [torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1]) for gain in gains]
    return torch.stack(best).reshape(shape)


def _unfolded(symmetry: Symmetry, place: Place, keys: tuple[int, ...], tensor: Tensor) -> Float64[Tensor, "k n rest"]:
    """A tensor as [keys, positions of the factor, rest]: the part's grid in place of its axis, keys to the front.

    Keys lie beside the factor in the part, or on other axes, whose positions are then sorted by them.
    """
    sizes = [symmetry.factors[f].size for f in place.part.factors]
    labels: list[object] = [("axis", k) for k in range(tensor.ndim)]
    tensor = tensor.index_select(place.axis, _positions(place.part, math.prod(sizes))).unflatten(place.axis, sizes)
    beside = [("key", f) if k != place.turn else "factor" for k, f in enumerate(place.part.factors)]
    labels[place.axis : place.axis + 1] = beside
    for axis, parts in enumerate(symmetry.axes[place.name]):
        held = [key for key in keys if any(key in part.factors for part in parts)]
        if axis == place.axis or not held:
            continue
        joint = torch.zeros((), dtype=torch.int64)
        for key in held:
            joint = joint * symmetry.factors[key].size + _coordinate(symmetry, parts, key)
        dim = labels.index(("axis", axis))
        tensor = tensor.index_select(dim, joint.argsort(stable=True))
        tensor = tensor.unflatten(dim, [*(symmetry.factors[key].size for key in held), -1])
        labels[dim : dim + 1] = [*(("key", key) for key in held), ("axis", axis)]
    front = [*(labels.index(("key", key)) for key in keys), labels.index("factor")]
    rest = [dim for dim in range(tensor.ndim) if dim not in front]
    count = symmetry.factors[place.part.factors[place.turn]].size
    number = math.prod(symmetry.factors[key].size for key in keys)
    return tensor.permute(*front, *rest).reshape(number, count, -1)


def _positions(part: Part, size: int) -> Int64[Tensor, " positions"]:
    start = part.start
    return torch.arange(start, start + size) if part.positions is None else torch.tensor(part.positions)


def _coordinate(symmetry: Symmetry, parts: tuple[Part, ...], factor: int) -> Int64[Tensor, " positions"]:
    """The coordinate of every position of an axis in a factor that all its parts hold."""
    sizes = [[symmetry.factors[f].size for f in part.factors] for part in parts]
    coordinate = torch.empty(sum(map(math.prod, sizes)), dtype=torch.int64)
    for part, grid in zip(parts, sizes, strict=True):
        k = part.factors.index(factor)
        along = torch.arange(grid[k]).reshape(-1, *[1] * (len(grid) - k - 1)).expand(grid)
        coordinate[_positions(part, math.prod(grid))] = along.reshape(-1)
    return coordinate
