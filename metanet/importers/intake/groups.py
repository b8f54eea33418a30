"""Groups: the nets of a stream, numbered, gathered by architecture and written, a shard and then a fragment for each.

The fragment acknowledges the group: it names all nets whose weights are in the shard, which is durable before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from metanet.importers.intake import fitting
from metanet.importers.intake.source import Foreign, Source, Stack
from metanet.zoo import disk, layout, manifest, shards
from metanet.zoo.families import FAMILIES

GROUP_NETS = 4096  # at most
POOL_BYTES, STACKED_BYTES = 8 << 20, 6 << 20  # that wait for their group to fill; single nets take more beside them
NOTHING: Mapping[str, Tensor] = {}  # the tensors of nets that are on the disk already
Columns = Mapping[str, Sequence[Any] | pa.Array]


class Lot(NamedTuple):
    """What came at once: a net, or a stack of them."""

    found: Foreign | Stack
    numbers: Sequence[int]
    tensors: Mapping[str, Tensor]  # of a stack: [nets, *shape]
    statuses: Sequence[str]


@dataclass
class Pool:
    """Lots of one architecture, all of single nets or all of stacks, that are written together."""

    arch: str
    lots: list[Lot] = field(default_factory=list)
    nets: set[int] = field(default_factory=set)
    bytes: int = 0


@dataclass(frozen=True)
class Group:
    """What is written together."""

    name: str
    arch_name: str
    arch: Mapping[str, Any]
    lots: Sequence[Lot]

    @property
    def numbers(self) -> list[int]:
        return [number for lot in self.lots for number in lot.numbers]


class ChangedError(Exception):
    """What is on the disk was made of other nets than those that come now, or is damaged."""


class Groups:
    """Collects nets and writes a group when it is large enough; in `threads` beside the caller, if there are some.

    Raises:
        ChangedError: what an interrupted import has left is damaged.
    """

    def __init__(self, zoo: Path, source: Source, threads: Executor | None, most_writing: int):
        self.zoo, self.rows = zoo, 0
        fields = {name for family in source.families for name in FAMILIES[family].FIELDS}
        self.columns = {
            "hyperparameters": list(source.hyperparameters),
            "architecture": ["family", *sorted(fields)],
            "metrics": list(source.metrics),
            "source": [f"source.{name}" for name in ("where", *source.metadata)],
        }
        self.schema = _schema(self.columns, source)
        self.archs: dict[str, dict[str, Any]] = {}
        self.plan: list[dict[str, Any]] = []
        self.tables: dict[str, pa.Table] = {}  # fragment -> its rows
        self.hashes: dict[str, str] = {}  # fragment -> SHA-256
        self._written = dict(_fragments(zoo))
        self.done = {where for table, _ in self._written.values() for where in table["source.where"].to_pylist()}
        self._numbers: dict[tuple[str, str | None], int] = {}  # of nets, by run and net
        self._lineages: dict[str, int] = {}
        self._seen: set[tuple[int, int]] = set()
        self._pools: dict[tuple[str, bool], Pool] = {}  # by architecture, and whether its lots are stacks
        self._sizes: dict[str, int] = {}  # of a net
        self._threads, self._most_writing = threads, most_writing
        self._writing: deque[Future[None]] = deque()

    def add(self, arch_name: str, found: Foreign, tensors: Mapping[str, Tensor], status: str) -> bool:
        """Takes a net into the pool of its architecture; whether its run and step are new."""
        number = self._number(found.run, found.net, found.step)
        if number is not None:
            self._put_into_pool(arch_name, Lot(found, [number], tensors, [status]), POOL_BYTES)
        return number is not None

    def add_stack(
        self, arch_name: str, stack: Stack, tensors: Mapping[str, Tensor], statuses: Sequence[str]
    ) -> list[int]:
        """Takes a stack into the pool of its architecture; its rows whose run and step were there already."""
        numbers = [self._number(run, None, step) for run, step in zip(stack.run, stack.step, strict=True)]
        again = [row for row, number in enumerate(numbers) if number is None]
        if again:
            new = [row for row, number in enumerate(numbers) if number is not None]
            own, statuses = rows_of(tensors, new), [statuses[row] for row in new]
            stack, tensors = stack.rows(new, lambda: own), own
        if len(again) < len(numbers):
            lot = Lot(stack, [number for number in numbers if number is not None], tensors, statuses)
            self._put_into_pool(arch_name, lot, STACKED_BYTES)
        return again

    def end(self) -> None:
        """Writes what is left, and waits until all is on the disk.

        Raises:
            ChangedError: the disk holds more than what came.
        """
        for key in sorted(self._pools):
            self._flush(key)
        while self._writing:
            self._writing.popleft().result()
        if self._written:
            raise ChangedError

    def _number(self, run: str, net: str | None, step: int) -> int | None:
        """The number of a net; None if this step of it was there already."""
        number = self._numbers.setdefault((run, net), len(self._numbers))
        if (number, step) in self._seen:
            return None
        self._seen.add((number, step))
        self._lineages.setdefault(run, number)
        return number

    def _put_into_pool(self, arch_name: str, lot: Lot, most_bytes: int) -> None:
        if arch_name not in self.archs:
            self.archs[arch_name], self._sizes[arch_name] = dict(lot.found.arch), _size(lot.found.arch)
        key = (arch_name, isinstance(lot.found, Stack))
        if key in self._pools and len(self._pools[key].nets.union(lot.numbers)) > GROUP_NETS:
            self._flush(key)
        pool = self._pools.setdefault(key, Pool(arch_name))
        pool.lots.append(lot)
        pool.nets.update(lot.numbers)
        pool.bytes += len(lot.numbers) * self._sizes[arch_name]
        self.rows += len(lot.numbers)
        if sum(pool.bytes for pool in self._pools.values()) > most_bytes:
            self._flush(max(sorted(self._pools), key=lambda key: self._pools[key].bytes))

    def _flush(self, key: tuple[str, bool]) -> None:
        """Writes a pool as one group."""
        pool = self._pools.pop(key)
        count = sum(entry["group"].rpartition("-")[0] == pool.arch for entry in self.plan)
        group = Group(f"{pool.arch}-{count}", pool.arch, self.archs[pool.arch], pool.lots)
        self.plan.append({"group": group.name, "nets": sorted(pool.nets)})
        if self._threads is None:
            self._put(group)
            return
        while len(self._writing) >= self._most_writing:  # each keeps its weights in memory
            self._writing.popleft().result()
        self._writing.append(self._threads.submit(self._put, group))

    def _put(self, group: Group) -> None:
        path = layout.fragment_path(self.zoo, group.name, None)
        there = self._written.pop(path.name, None)
        if there:
            self.tables[path.name], self.hashes[path.name] = there
            if there[0]["source.where"].to_pylist() != _wheres(group.lots):
                raise ChangedError
            return
        if any(lot.tensors is NOTHING for lot in group.lots):
            raise ChangedError
        stacked = _stacked(group.lots)
        shard = shards.parts(stacked, {"arch": group.arch, "group": group.name})
        about = {"header": disk.sha256(bytes(shard[0])), "tensors": shards.tensor_sums(stacked)}
        table = self._table(group, shards.net_hashes(stacked))
        fragment = manifest.pack(table, about)
        disk.write_atomically(layout.shard_path(self.zoo, group.name, None), *shard)
        disk.write_atomically(path, fragment)
        self.tables[path.name], self.hashes[path.name] = table, disk.sha256(fragment)

    def _table(self, group: Group, hashes: Sequence[str]) -> pa.Table:
        """The rows of the manifest."""
        count, found = len(hashes), _columns(group.lots)
        fields, arch = FAMILIES[group.arch["family"]].FIELDS, group.arch
        of_all = {"arch": group.arch_name, "group": group.name, "family": arch["family"]}
        of_all |= {name: field.shown(arch[name]) for name, field in fields.items() if name in arch}
        columns: dict[str, Any] = {
            **found,
            "net": group.numbers,
            "lineage": [self._lineages[run] for run in found["run"]],
            "row": np.arange(count),
            "status": [status for lot in group.lots for status in lot.statuses],
            "sha256": hashes,
        }
        arrays = []
        for own in self.schema:
            values = columns.get(own.name)
            if own.name in of_all:
                arrays.append(pa.repeat(pa.scalar(of_all[own.name], own.type), count))
            elif values is None:
                arrays.append(pa.nulls(count, own.type))
            else:
                arrays.append(values.cast(own.type) if isinstance(values, pa.Array) else pa.array(values, own.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)


def rows_of(tensors: Mapping[str, Tensor], rows: Sequence[int]) -> Mapping[str, Tensor]:
    """Those of some nets of a stack; nothing of nothing."""
    return {name: tensor[torch.tensor(rows)] for name, tensor in tensors.items()} if tensors else NOTHING


def _fragments(zoo: Path) -> Iterator[tuple[str, tuple[pa.Table, str]]]:
    """The groups that are on the disk."""
    for path in sorted((zoo / "manifest").glob("[!.]*.parquet")):
        data = path.read_bytes()
        try:
            yield path.name, (manifest.read(data, path)[0], disk.sha256(data))
        except ValueError as error:
            raise ChangedError from error


def _wheres(lots: Sequence[Lot]) -> list[str]:
    return [
        where for lot in lots for where in ([lot.found.where] if isinstance(lot.found, Foreign) else lot.found.where)
    ]


def _columns(lots: Sequence[Lot]) -> Columns:
    """What the source says of nets, by the manifest's names."""
    stacks = [lot.found for lot in lots if isinstance(lot.found, Stack)]
    found = [lot.found for lot in lots if isinstance(lot.found, Foreign)]
    own: dict[str, Any] = {"source.where": _wheres(lots)}
    if stacks:
        own |= {name: [value for stack in stacks for value in getattr(stack, name)] for name in ("run", "step")}
        return own | {name: pa.concat_arrays([stack.columns[name] for stack in stacks]) for name in stacks[0].columns}
    for name in ("run", "step", "epoch", "snapshot_fraction", "image_set", "activation", "dropout"):
        own[name] = [getattr(one, name) for one in found]
    for name in {name: None for one in found for name in (*one.values, *one.metrics)}:
        own.setdefault(name, [one.values.get(name, one.metrics.get(name)) for one in found])
    for name in {name: None for one in found for name in one.metadata}:
        own.setdefault(f"source.{name}", [_text(one.metadata.get(name)) for one in found])
    return own


def _stacked(lots: Sequence[Lot]) -> Mapping[str, Tensor]:
    """The tensors of lots of one architecture, [nets, *shape]."""
    first = lots[0].tensors
    if isinstance(lots[0].found, Foreign):
        return {name: torch.stack([lot.tensors[name] for lot in lots]) for name in first}
    return first if len(lots) == 1 else {name: torch.cat([lot.tensors[name] for lot in lots]) for name in first}


def _size(arch: Mapping[str, Any]) -> int:
    """Bytes of a net as it is stored."""
    return sum(math.prod(shape) * (4 if floating else 8) for shape, floating in fitting.expected(arch).values())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _schema(columns: Mapping[str, list[str]], source: Source) -> pa.Schema:
    architecture = {"family": str} | {
        name: field.kind for one in _families(source) for name, field in one.FIELDS.items()
    }
    needed = {
        name: kind for name, kind in (("activation", str), ("dropout", float)) if name not in source.hyperparameters
    }
    return pa.schema(
        [
            *manifest.PLACE,
            *((name, manifest.TYPES[kind]) for name, kind in {**source.hyperparameters, **needed}.items()),
            *((name, manifest.TYPES[architecture[name]]) for name in columns["architecture"]),
            *((name, manifest.MEASURED[kind]) for name, kind in source.metrics.items()),
            *((name, pa.string()) for name in columns["source"]),
            ("sha256", pa.string()),
        ]
    )


def _families(source: Source) -> Iterator[Any]:
    return (FAMILIES[name] for name in source.families)
