"""Weights: the shard of a group. Stacks are read here, a few megabytes at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from metanet.importers.intake import fitting
from metanet.importers.intake.rows import Lot
from metanet.importers.intake.source import Layout, Numbers, Stack
from metanet.zoo import disk, shards

DTYPES = {True: torch.float32, False: torch.int64}  # of tensors that are floating-point, or not
Columns = Mapping[str, UInt8[np.ndarray, "nets bytes"]]  # tensor, by their names -> the bytes of each net


@dataclass(frozen=True)
class Written:
    """What a shard's bytes are told apart by."""

    header: str  # SHA-256
    tensors: Mapping[str, int]  # see shards.tensor_sums
    nets: Sequence[str]  # SHA-256


def write(path: Path, arch: Mapping[str, Any], about: Mapping[str, Any], lots: Sequence[Lot]) -> Written:
    """Puts the weights of nets of one architecture at `path`. They are in memory as they lie in the file meanwhile.

    Raises:
        OSError: disk full, no permission, ...
    """
    count, kinds = sum(len(lot.numbers) for lot in lots), _kinds(arch)
    header, starts = shards.header({name: (dtype, (count, *shape)) for name, (dtype, shape) in kinds.items()}, about)
    widths = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in sorted(kinds.items())}
    columns = {name: np.empty((count, width), np.uint8) for name, width in widths.items()}
    hashes = _put_together(lots, columns)
    disk.write_atomically(path, header, *(columns[name].reshape(-1).data for name in starts))
    sums = {name: int(column.view("<u4").sum(dtype=np.uint32)) for name, column in columns.items()}
    return Written(disk.sha256(header), sums, hashes)


def size(arch: Mapping[str, Any]) -> int:
    """Bytes of a net as it is stored."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in _kinds(arch).values())


def _kinds(arch: Mapping[str, Any]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of a net's tensors as they are stored."""
    return {name: (DTYPES[floating], tuple(shape)) for name, (shape, floating) in fitting.expected(arch).items()}


def _put_together(lots: Sequence[Lot], columns: Columns) -> list[str]:
    """Fills the `columns`; SHA-256 of each net, tensor after tensor in their order."""
    hashes: list[str] = []
    gather = _Gather(columns)
    for lot in lots:
        if isinstance(lot.found, Stack):
            for _, numbers in lot.found.pieces():
                hashes += gather.put(len(hashes), numbers, lot.found.layout)
        elif isinstance(lot.tensors, Numbers):
            hashes += gather.put(len(hashes), lot.tensors.row[None], lot.tensors.layout)
        elif lot.tensors is not None:
            parts = [shards.memory(lot.tensors[name]) for name in columns]
            for column, part in zip(columns.values(), parts, strict=True):
                column[len(hashes)] = part
            hashes.append(disk.sha256(*parts))
    return hashes


class _Gather:
    """Puts nets whose numbers lie side by side into columns."""

    def __init__(self, columns: Columns):
        self._columns, self._layout = columns, None
        self._rows = torch.empty(0)  # used again, as new memory costs more than what is done in it

    def put(self, start: int, numbers: Float32[Tensor, "nets numbers"], layout: Layout) -> list[str]:
        """Fills the rows from `start` on; SHA-256 of each net."""
        if layout is not self._layout:
            self._layout = layout
            self._names = [name for name in self._columns if name in layout]  # counters are not
            self._places = torch.from_numpy(np.concatenate([layout[name].reshape(-1) for name in self._names]))
        torch.index_select(numbers, 1, self._places, out=self._rows.resize_(len(numbers), len(self._places)))
        nets = self._rows.numpy().view(np.uint8)
        own = {name: column[start : start + len(nets)] for name, column in self._columns.items()}
        end = 0
        for name, column in own.items():
            if name in layout:
                end += column.shape[1]
                np.copyto(column, nets[:, end - column.shape[1] : end])
            else:
                column[:] = 0
        parts = [nets] if len(self._names) == len(own) else list(own.values())
        return [disk.sha256(*(part.data for part in net)) for net in zip(*parts, strict=True)]
