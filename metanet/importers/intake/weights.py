"""Weights: the shard of a group, hashed and written a few megabytes at a time, in which stacks are read meanwhile."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    count, expected = sum(len(lot.numbers) for lot in lots), fitting.expected(arch)
    kinds = {name: (DTYPES[floating], (count, *shape)) for name, (shape, floating) in expected.items()}
    header, starts = shards.header(kinds, about)
    hashes: list[str] = []
    sums: Counter[str] = Counter()

    def parts() -> Iterator[tuple[int, bytes | memoryview]]:
        yield 0, header
        for tensors in _pieces(lots, arch):
            row = len(hashes)
            hashes.extend(shards.net_hashes(tensors))
            sums.update(shards.tensor_sums(tensors))
            for name, tensor in tensors.items():
                yield starts[name] + row * (tensor.nbytes // len(tensor)), shards.memory(tensor)

    disk.write_parts_atomically(path, parts())
    return Written(disk.sha256(header), {name: total % 2**32 for name, total in sums.items()}, hashes)


def size(arch: Mapping[str, Any]) -> int:
    """Bytes of a net as it is stored."""
    return sum(math.prod(shape) * DTYPES[floating].itemsize for shape, floating in fitting.expected(arch).values())


def _pieces(lots: Sequence[Lot], arch: Mapping[str, Any]) -> Iterator[Mapping[str, Tensor]]:
    """The tensors of all nets, [some nets, *shape]."""
    singles = [lot.tensors for lot in lots if lot.tensors is not None]
    some = max(PIECE_BYTES // size(arch), 1)
    for start in range(0, len(singles), some):
        together = singles[start : start + some]
        yield {name: torch.stack([tensors[name] for tensors in together]) for name in together[0]}
    for stack in (lot.found for lot in lots if isinstance(lot.found, Stack)):
        for _, numbers in stack.pieces():
            yield fitting.fit(stack.tensors(numbers), arch, "", stacked=True)
