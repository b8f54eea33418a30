"""Groups: the nets of a stream, numbered, gathered by architecture and written, a shard and then a fragment for each.

The fragment acknowledges the group: it names all nets whose weights are in the shard, which is durable before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from metanet.importers.intake import rows, weights
from metanet.importers.intake.rows import Lot
from metanet.importers.intake.source import WHERE, Foreign, Numbers, Stack
from metanet.zoo import disk, layout, manifest, manifest_writer
from metanet.zoo.manifest_writer import Writer

GROUP_NETS = 4096  # at most
POOL_BYTES = 12 << 20  # that wait for their group to fill; stacks are read when they are written


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


@dataclass(frozen=True)
class Fragment:
    """The file with the rows of a group."""

    name: str
    rows: pa.Table
    rows_sha256: str
    sha256: str


class ChangedError(Exception):
    """What is on the disk was made of other nets than those that come now, or is damaged."""


class Groups:
    """Collects nets and writes a group when it is large enough; in `threads` beside the caller, if there are some.

    Raises:
        ChangedError: what an interrupted import has left is damaged.
    """

    def __init__(self, zoo: Path, schema: pa.Schema, whole: Writer, threads: Executor | None, most_writing: int):
        self.zoo, self.rows, self.schema = zoo, 0, schema
        self.archs: dict[str, dict[str, Any]] = {}
        self.plan: list[dict[str, Any]] = []
        self._written, self.done = _fragments(zoo)
        self._whole = whole  # manifest.parquet
        self._hashes: dict[str, str] = {}  # fragment -> SHA-256
        self._numbers: dict[tuple[str, str | None], int] = {}  # of nets, by run and net
        self._lineages: dict[str, int] = {}
        self._steps: dict[int, set[int]] = {}  # of every net
        self._pools: dict[tuple[str, bool], Pool] = {}  # by architecture, and whether its lots are stacks
        self._sizes: dict[str, int] = {}  # of a net
        self._threads, self._most_writing = threads, most_writing
        self._writing: deque[Future[Fragment]] = deque()

    def add(self, arch_name: str, found: Foreign, tensors: Mapping[str, Tensor] | Numbers | None, status: str) -> bool:
        """Takes a net into the pool of its architecture, without tensors if it is on the disk already.

        Returns whether its run and step are new.
        """
        number = self._number(found.run, found.net)
        if not self._is_new(number, found.step):
            return False
        places = np.array([number]), np.array([self._lineages[found.run]])
        self._put_into_pool(arch_name, Lot(found, *places, tensors, [status], tensors is None))
        return True

    def add_stack(self, arch_name: str, stack: Stack, statuses: Sequence[str], is_there: bool) -> list[int]:
        """Takes a stack into the pool of its architecture; its rows whose run and step were there already."""
        runs = stack.columns["run"].combine_chunks()
        names, of_run = runs.dictionary, runs.indices.to_numpy()
        different, first = np.unique(of_run, return_index=True)
        numbers, lineages = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
        for run in different[np.argsort(first)].tolist():  # as they come
            numbers[run] = self._number(names[run].as_py(), None)
            lineages[run] = self._lineages[names[run].as_py()]
        numbers, lineages = numbers[of_run], lineages[of_run]
        pairs = zip(numbers.tolist(), stack.columns["step"].to_pylist(), strict=True)
        again = [row for row, (number, step) in enumerate(pairs) if not self._is_new(number, step)]
        if again:
            new = sorted(set(range(len(numbers))).difference(again))
            stack, numbers, lineages = stack.rows(new), numbers[new], lineages[new]
            statuses = [statuses[row] for row in new]
        if len(numbers):
            self._put_into_pool(arch_name, Lot(stack, numbers, lineages, None, statuses, is_there))
        return again

    def end(self) -> None:
        """Writes what is left, and waits until all is on the disk.

        Raises:
            ChangedError: the disk holds more than what came.
        """
        for key in sorted(self._pools):
            self._flush(key)
        while self._writing:
            self._add(self._writing.popleft().result())
        if self._written:
            raise ChangedError
        if self.rows:
            self._whole.end(self._hashes)

    def _number(self, run: str, net: str | None) -> int:
        """The number of a net."""
        number = self._numbers.setdefault((run, net), len(self._numbers))
        self._lineages.setdefault(run, number)
        return number

    def _is_new(self, number: int, step: int) -> bool:
        """Whether this step of the net was not there before; it is from now on."""
        steps = self._steps.setdefault(number, set())
        count = len(steps)
        steps.add(step)
        return len(steps) > count

    def _put_into_pool(self, arch_name: str, lot: Lot) -> None:
        if arch_name not in self.archs:
            self.archs[arch_name], self._sizes[arch_name] = dict(lot.found.arch), weights.size(lot.found.arch)
        nets = set(lot.numbers.tolist())
        key = (arch_name, isinstance(lot.found, Stack))
        if key in self._pools and len(self._pools[key].nets | nets) > GROUP_NETS:
            self._flush(key)
        pool = self._pools.setdefault(key, Pool(arch_name))
        pool.lots.append(lot)
        pool.nets |= nets
        pool.bytes += len(lot.numbers) * self._sizes[arch_name]
        self.rows += len(lot.numbers)
        if sum(pool.bytes for pool in self._pools.values()) > POOL_BYTES:
            self._flush(max(sorted(self._pools), key=lambda key: self._pools[key].bytes))

    def _flush(self, key: tuple[str, bool]) -> None:
        """Writes a pool as one group."""
        pool = self._pools.pop(key)
        count = sum(entry["group"].rpartition("-")[0] == pool.arch for entry in self.plan)
        group = Group(f"{pool.arch}-{count}", pool.arch, self.archs[pool.arch], pool.lots)
        self.plan.append({"group": group.name, "nets": sorted(pool.nets)})
        if self._threads is None:
            self._add(self._put(group))
            return
        while len(self._writing) >= self._most_writing:  # each keeps its weights in memory
            self._add(self._writing.popleft().result())
        self._writing.append(self._threads.submit(self._put, group))

    def _add(self, fragment: Fragment) -> None:
        """Adds the rows of a group to manifest.parquet, in the order of the plan."""
        self._whole.add(fragment.rows, fragment.rows_sha256)
        self._hashes[fragment.name] = fragment.sha256

    def _put(self, group: Group) -> Fragment:
        path = layout.fragment_path(self.zoo, group.name, None)
        if path.name in self._written:
            self._written.remove(path.name)
            found = _fragment(path)
            if found.rows[WHERE].to_pylist() != rows.wheres(group.lots):
                raise ChangedError
            return found
        if any(lot.is_there for lot in group.lots):
            raise ChangedError
        shard = layout.shard_path(self.zoo, group.name, None)
        written = weights.write(shard, group.arch, {"arch": group.arch, "group": group.name}, group.lots)
        table = rows.table(self.schema, group.name, group.arch_name, group.arch, group.lots, written.nets)
        sha256 = manifest_writer.rows_hash(table)
        fragment = manifest.pack_imported(table, sha256, {"header": written.header, "tensors": written.tensors})
        disk.write_atomically(path, fragment)
        return Fragment(path.name, table, sha256, disk.sha256(fragment))


def _fragments(zoo: Path) -> tuple[set[str], set[str]]:
    """The names of the fragments that are on the disk, and of all nets in them their places in the source."""
    names, wheres = set[str](), set[str]()
    for path in sorted((zoo / "manifest").glob("[!.]*.parquet")):
        names.add(path.name)
        wheres.update(_fragment(path).rows[WHERE].to_pylist())
    return names, wheres


def _fragment(path: Path) -> Fragment:
    data = path.read_bytes()
    try:
        table = manifest.read(data, path)[0]
    except ValueError as error:
        raise ChangedError from error
    return Fragment(path.name, table, manifest_writer.rows_hash(table), disk.sha256(data))
