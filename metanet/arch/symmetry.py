"""Symmetry: the permutations that leave a net's function unchanged, and how each acts on every tensor.

Conventions: an element of the group holds, per free factor, a table of permutations (one per position of its keys).
A new tensor reads the old one: `new[..., (k, f), ...] = old[..., (p_K[k], p_F[k][f]), ...]`, with the same tables for
every tensor of the net.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from metanet.arch.axes import Axis, factors_of, resolve

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Permutation:
    """A set of `size` exchangeable positions, with one permutation per position of its `keys`.

    `fixed` ones never move; they are listed because products and keys name them.
    """

    size: int
    keys: tuple[int, ...] = ()  # indices into Symmetry.factors
    fixed: bool = False


@dataclass(frozen=True)
class Part:
    """Positions of one tensor axis: a row-major product of factors, consecutive from `start` or listed."""

    factors: tuple[int, ...]  # indices into Symmetry.factors
    start: int = 0
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Symmetry:
    """Factors, and for each entry of the state_dict the parts of its axes; an axis without parts never moves."""

    factors: tuple[Permutation, ...]
    axes: Mapping[str, tuple[tuple[Part, ...], ...]]

    @cached_property
    def permutations(self) -> dict[int, Permutation]:
        """The factors that move, by index."""
        return {i: factor for i, factor in enumerate(self.factors) if not factor.fixed and factor.size > 1}

    @property
    def log10_order(self) -> float:
        """log10 of the number of permutations: the sum over free factors of key positions x log10 size!."""
        return math.fsum(
            math.prod(self.factors[key].size for key in factor.keys) * math.lgamma(factor.size + 1) / math.log(10)
            for factor in self.permutations.values()
        )

    def tensors(self, factor: int) -> list[tuple[str, int]]:
        """The (state_dict name, axis) pairs that a factor acts on."""
        return [
            (name, k)
            for name, axes in self.axes.items()
            for k, parts in enumerate(axes)
            if any(factor in part.factors for part in parts)
        ]

    def sample(
        self, generator: torch.Generator, nets: int | None = None, only: Collection[int] | None = None
    ) -> Callable[[StateDict], dict[str, Tensor]]:
        """One uniformly drawn element, as a function from a state_dict to one that computes the same function.

        The function takes single tensors [*shape] and stacked ones [nets, *shape] on any device and leaves entries
        that it does not know as they are. With `nets` every net of a stack gets an element of its own.
        `only` moves the named factors alone.
        """
        lead = () if nets is None else (nets,)
        tables: dict[int, Tensor] = {}
        for i, factor in self.permutations.items():
            if only is None or i in only:
                shape = (*lead, *(self.factors[key].size for key in factor.keys), factor.size)
                tables[i] = torch.rand(shape, generator=generator, device=generator.device).argsort(-1)
        return lambda state_dict: self.apply(tables, state_dict)

    def apply(self, tables: Mapping[int, Tensor], state_dict: StateDict) -> dict[str, Tensor]:
        """The state_dict moved by `tables`: factor -> int64 [*(nets), *key sizes, size].

        Raises:
            ValueError: a tensor that does not end in the traced shape, or is not stacked where the tables are.
        """
        known: dict[Hashable, list[Tensor]] = {}  # the vectors of a space move alike
        return {name: self._moved(name, tensor, tables, known) for name, tensor in state_dict.items()}

    def _moved(
        self, name: str, tensor: Tensor, tables: Mapping[int, Tensor], known: dict[Hashable, list[Tensor]]
    ) -> Tensor:
        axes = self.axes.get(name, ())
        if not any(f in tables for parts in axes for part in parts for f in part.factors):
            return tensor
        first = tensor.ndim - len(axes)
        last = 1 + max(k for k, parts in enumerate(axes) if parts)  # the axes behind (kernel taps) move as they are
        shape = tuple(tensor.shape[max(first, 0) : first + last])
        expected = tuple(sum(map(self._size, parts)) if parts else None for parts in axes[:last])
        if first < 0 or any(size not in (found, None) for size, found in zip(expected, shape, strict=True)):
            found = f"{list(tensor.shape)}, expected it to end in {[size or 'any' for size in expected]}"
            raise ValueError(f"{name}: shape {found} and {len(axes) - last} more axes, as in the traced net")
        if (axes[:last], shape, tensor.device) not in known:
            known[axes[:last], shape, tensor.device] = self._sources(axes[:last], shape, tables, tensor.device)
        sources = known[axes[:last], shape, tensor.device]
        if all(source.numel() == size for source, size in zip(sources, shape, strict=True)):  # axis by axis is faster
            for k, source in enumerate(sources):
                tensor = tensor.index_select(first + k, source.reshape(-1)) if axes[k] else tensor
            return tensor
        flat = tensor.flatten(first + last) if first + last < tensor.ndim else tensor.unsqueeze(-1)
        if max(source.ndim for source in sources) > last:  # tables of its own for every net
            if first != 1 or any(len(source) not in (1, len(tensor)) for source in sources if source.ndim > last):
                raise ValueError(f"{name}: shape {list(tensor.shape)} is not a stack of as many nets as were asked for")
            nets = torch.arange(len(tensor), device=tensor.device).reshape(-1, *[1] * last)
            return flat[(nets, *sources)].reshape(tensor.shape)
        return flat[(..., *sources, slice(None))].reshape(tensor.shape)

    def _sources(
        self,
        axes: tuple[tuple[Part, ...], ...],
        shape: tuple[int, ...],
        tables: Mapping[int, Tensor],
        device: torch.device,
    ) -> list[Int64[Tensor, "..."]]:
        """For each axis the old position that every new one reads, broadcastable to [*(nets), *shape]."""

        def along(values: Tensor, axis: int) -> Tensor:
            return values.to(device).reshape(*(-1 if axis == k else 1 for k in range(len(axes))))

        coordinates = [self._coordinates(parts, size) for parts, size in zip(axes, shape, strict=True)]
        sources = []
        for k, (parts, size) in enumerate(zip(axes, shape, strict=True)):
            if not parts:
                sources.append(along(torch.arange(size), k))
                continue
            beside = {f: along(c, j) for j, found in enumerate(coordinates) if j != k for f, c in found.items()}
            reads, written = [], []
            for part in parts:
                positions = self._positions(part)
                grid = [along(coordinate, k) for coordinate in self._grid(part)]
                keys = beside | dict(zip(part.factors, grid, strict=True))
                old = torch.zeros((), dtype=torch.int64, device=device)
                for f, coordinate in zip(part.factors, grid, strict=True):
                    new = coordinate
                    if f in tables:
                        new = tables[f].to(device)[(..., *(keys[key] for key in self.factors[f].keys), coordinate)]
                    old = old * self.factors[f].size + new
                reads.append(positions.to(device)[old])
                written.append(positions)
            dim = k - len(axes)
            wide = torch.broadcast_shapes(*(read.narrow(dim, 0, 1).shape for read in reads))
            whole = torch.cat([read.expand(*wide[:dim], -1, *wide[dim:][1:]) for read in reads], dim)
            sources.append(whole.index_select(dim, torch.cat(written).argsort().to(device)))
        return sources

    def _size(self, part: Part) -> int:
        return math.prod(self.factors[f].size for f in part.factors)

    def _positions(self, part: Part) -> Int64[Tensor, " positions"]:
        if part.positions is None:
            return torch.arange(part.start, part.start + self._size(part))
        return torch.tensor(part.positions)

    def _grid(self, part: Part) -> tuple[Int64[Tensor, " positions"], ...]:
        """The coordinate in each factor, for the positions of a part in row-major order."""
        sizes = [self.factors[f].size for f in part.factors]
        return tuple(grid.reshape(-1) for grid in torch.meshgrid(*map(torch.arange, sizes), indexing="ij"))

    def _coordinates(self, parts: tuple[Part, ...], size: int) -> dict[int, Int64[Tensor, " positions"]]:
        """The coordinate of every position of an axis in each factor; zero where the factor does not reach."""
        found: dict[int, Tensor] = {}
        for part in parts:
            for f, coordinate in zip(part.factors, self._grid(part), strict=True):
                found.setdefault(f, torch.zeros(size, dtype=torch.int64))[self._positions(part)] = coordinate
        return found


def from_axes(entries: Mapping[str, Sequence[Axis]]) -> Symmetry:
    """The symmetry that certified axis types say; an axis on which nothing moves and that holds no key has no parts."""
    axes = {name: [resolve(one) for one in unresolved] for name, unresolved in entries.items()}
    factors = factors_of(one for resolved in axes.values() for one in resolved)
    needed = {id(f) for f in factors if not f.fixed and f.size > 1}
    needed |= {id(key) for factor in factors if id(factor) in needed for key in factor.keys}
    kept = {name: [one if _meets(one, needed) else Axis(()) for one in resolved] for name, resolved in axes.items()}
    listed = factors_of(one for resolved in kept.values() for one in resolved)
    number = {id(factor): i for i, factor in enumerate(listed)}
    permutations = tuple(
        Permutation(f.size, () if f.fixed else tuple(number[id(key)] for key in f.keys), f.fixed) for f in listed
    )
    parts = {name: tuple(_parts(one, number) for one in resolved) for name, resolved in kept.items()}
    return Symmetry(permutations, parts)


def _meets(one: Axis, needed: set[int]) -> bool:
    return any(id(factor) in needed for segment in one.segments for factor in segment.factors)


def _parts(one: Axis, number: Mapping[int, int]) -> tuple[Part, ...]:
    parts = []
    for segment in one.segments:
        factors = tuple(number[id(factor)] for factor in segment.factors)
        positions = segment.positions.reshape(-1)
        start = int(positions[0])
        consecutive = (positions == np.arange(start, start + len(positions))).all()
        parts.append(Part(factors, start) if consecutive else Part(factors, 0, tuple(positions.tolist())))
    return tuple(parts)
