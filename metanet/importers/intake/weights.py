"""Weights: the shard of a group, hashed and written a few megabytes at a time, in which stacks are read meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from metanet.importers.intake import fitting
from metanet.importers.intake.rows import Lot
from metanet.importers.intake.source import PIECE_BYTES, Stack
from metanet.zoo import disk, shards

DTYPES = {True: torch.float32, False: torch.int64}  # of tensors that are floating-point, or not


@dataclass(frozen=True)
class Written:
    """What a shard's bytes are told apart by."""

    header: str  # SHA-256
    tensors: Mapping[str, int]  # see shards.tensor_sums
    nets: Sequence[str]  # SHA-256


def write(path: Path, arch: Mapping[str, Any], about: Mapping[str, Any], lots: Sequence[Lot]) -> Written:
    """Puts the weights of nets of one architecture at `path`.

    Raises:
        OSError: disk full, no permission, ...
    """
    count, kinds = sum(len(lot.numbers) for lot in lots), _kinds(arch)
    header, starts = shards.header({name: (dtype, (count, *shape)) for name, (dtype, shape) in kinds.items()}, about)
    widths = {name: kinds[name][0].itemsize * math.prod(kinds[name][1]) for name in sorted(kinds)}
    ends = dict(zip(widths, itertools.accumulate(widths.values()), strict=True))
    some = max(PIECE_BYTES // size(arch), 1)
    columns = {name: np.empty((min(some, count), width), np.uint8) for name, width in widths.items()}
    sums = np.zeros(size(arch) // 4, np.uint32)
    hashes: list[str] = []

    def parts() -> Iterator[tuple[int, bytes | memoryview]]:
        yield 0, header
        for rows in _rows(lots, kinds, some):
            start = len(hashes)
            hashes.extend(shards.row_hashes(rows))
            np.add(sums, rows.view("<u4").sum(0, dtype=np.uint32), out=sums)
            for name, width in widths.items():
                own = columns[name][: len(rows)]  # together, as they lie in the file
                np.copyto(own, rows[:, ends[name] - width : ends[name]])
                yield starts[name] + start * width, own.reshape(-1).data

    disk.write_parts_atomically(path, parts())
    totals = {
        name: int(sums[(ends[name] - width) // 4 : ends[name] // 4].sum()) % 2**32 for name, width in widths.items()
    }
    return Written(disk.sha256(header), totals, hashes)


def size(arch: Mapping[str, Any]) -> int:
    """Bytes of a net as it is stored."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in _kinds(arch).values())


def _kinds(arch: Mapping[str, Any]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of a net's tensors as they are stored."""
    return {name: (DTYPES[floating], tuple(shape)) for name, (shape, floating) in fitting.expected(arch).items()}


def _rows(lots: Sequence[Lot], names: Iterable[str], some: int) -> Iterator[UInt8[np.ndarray, "nets bytes"]]:
    """The bytes of each net, tensor after tensor in the order of their names; `some` nets at a time, gone after it."""
    order = sorted(names)
    singles = [lot.tensors for lot in lots if lot.tensors is not None]
    for start in range(0, len(singles), some):
        together = singles[start : start + some]
        yield np.stack([np.concatenate([shards.memory(tensors[name]) for name in order]) for tensors in together])
    for stack in (lot.found for lot in lots if isinstance(lot.found, Stack)):
        places = torch.from_numpy(np.concatenate([stack.layout[name].reshape(-1) for name in order]))
        rows = torch.empty(some, len(places))
        for _, numbers in stack.pieces():
            own = torch.index_select(numbers, 1, places, out=rows[: len(numbers)])
            yield own.numpy().view(np.uint8)
