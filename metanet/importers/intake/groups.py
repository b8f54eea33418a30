"""Groups: the nets of a stream, numbered, gathered by architecture and written, a shard and a fragment per step."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from metanet.importers.intake import fitting
from metanet.importers.intake.source import Foreign, Source
from metanet.zoo import disk, layout, manifest, shards
from metanet.zoo.families import FAMILIES

GROUP_NETS = 4096  # at most
POOL_BYTES, STACKED_BYTES = 8 << 20, 24 << 20  # that wait for their group to fill; single nets take more beside them
JOURNAL = ".group-{}.json"  # in the unfinished zoo: where the nets of a group that is on the disk come from
NOTHING: Mapping[str, Tensor] = {}  # the tensors of nets that are on the disk already


class Member(NamedTuple):
    """A net in its architecture's pool."""

    number: int
    found: Foreign
    tensors: Mapping[str, Tensor]
    row: int | None  # of its tensors, where they are stacked
    status: str


@dataclass(frozen=True)
class Group:
    """Nets that are written together."""

    name: str
    arch: Mapping[str, Any]
    members: Sequence[Member]

    @property
    def steps(self) -> list[int]:
        return sorted({member.found.step for member in self.members})

    @property
    def wheres(self) -> list[str]:
        return [member.found.where for member in self.members]


class ChangedError(Exception):
    """What is on the disk was made of other nets than those that come now."""


class Groups:
    """Collects nets and writes a group when it is large enough; in a thread of its own if `aside`."""

    def __init__(self, zoo: Path, source: Source, aside: bool):
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
        self.fragments: dict[str, bytes] = {}
        self._written = {json.loads(path.read_bytes())["group"]: path for path in sorted(zoo.glob(JOURNAL.format("*")))}
        wheres = [json.loads(path.read_bytes())["wheres"] for path in self._written.values()]
        self.done = {where for group in wheres for where in group}  # nets whose tensors are not needed any more
        self._numbers: dict[tuple[str, str | None], int] = {}  # of nets, by run and net
        self._lineages: dict[str, int] = {}
        self._seen: set[tuple[int, int]] = set()
        self._pools: dict[str, list[Member]] = {}
        self._nets: dict[str, set[int]] = {}  # of a pool
        self._bytes: dict[str, int] = {}
        self._sizes: dict[str, int] = {}  # of a net
        self._thread = ThreadPoolExecutor(1) if aside else None
        self._writing: Future[None] | None = None

    def __enter__(self) -> Groups:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._thread.shutdown(cancel_futures=True)

    def add(self, name: str, found: Foreign, tensors: Mapping[str, Tensor], row: int | None, status: str) -> bool:
        """Takes a net into the pool of its architecture `name`; whether its run and step are new."""
        number = self._numbers.setdefault((found.run, found.net), len(self._numbers))
        if (number, found.step) in self._seen:
            return False
        self._seen.add((number, found.step))
        self._lineages.setdefault(found.run, number)
        if name not in self.archs:
            self.archs[name], self._sizes[name] = dict(found.arch), _size(found.arch)
        if len(self._nets.get(name, ())) >= GROUP_NETS and number not in self._nets[name]:
            self._flush(name)
        self._pools.setdefault(name, []).append(Member(number, found, tensors, row, status))
        self._nets.setdefault(name, set()).add(number)
        self.rows += 1
        self._bytes[name] = self._bytes.get(name, 0) + self._sizes[name]
        if sum(self._bytes.values()) > (POOL_BYTES if row is None else STACKED_BYTES):
            self._flush(max(sorted(self._bytes), key=lambda name: self._bytes[name]))
        return True

    def end(self) -> None:
        """Writes what is left, and waits until all is on the disk."""
        for name in sorted(self._pools):
            self._flush(name)
        self._wait()
        if self._written:
            raise ChangedError

    def _flush(self, arch: str) -> None:
        """Writes a pool as one group: a shard and a fragment for each step."""
        members = self._pools.pop(arch)
        del self._nets[arch], self._bytes[arch]
        name = f"{arch}-{sum(entry['group'].rpartition('-')[0] == arch for entry in self.plan)}"
        group = Group(name, self.archs[arch], members)
        self.plan.append({"group": name, "nets": sorted({one.number for one in members}), "steps": group.steps})
        self._wait()
        if self._thread:
            self._writing = self._thread.submit(self._put, group)
        else:
            self._put(group)

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()
            self._writing = None

    def _put(self, group: Group) -> None:
        journal = self._written.pop(group.name, None)
        paths = [layout.fragment_path(self.zoo, group.name, step) for step in group.steps]
        if journal:
            if json.loads(journal.read_bytes())["wheres"] != group.wheres:
                raise ChangedError
            self.fragments |= {path.name: path.read_bytes() for path in paths}
            return
        if any(member.tensors is NOTHING for member in group.members):
            raise ChangedError
        disk.make_folder(self.zoo / "shards" / group.name)
        for step, path in zip(group.steps, paths, strict=True):
            members = sorted(
                (member for member in group.members if member.found.step == step), key=lambda member: member.number
            )
            stacked = _stacked(members)
            shard = shards.pack(stacked, {"arch": group.arch, "group": group.name, "step": step})
            about = {"shard": disk.sha256(shard), "tensors": shards.tensor_hashes(stacked)}
            self.fragments[path.name] = manifest.pack(self._table(group, members, shards.net_hashes(stacked)), about)
            disk.write_atomically(layout.shard_path(self.zoo, group.name, step), shard)
            disk.write_atomically(path, self.fragments[path.name])
        about = {"group": group.name, "wheres": group.wheres}
        disk.write_atomically(self.zoo / JOURNAL.format(group.name), json.dumps(about).encode())

    def _table(self, group: Group, members: Sequence[Member], hashes: Sequence[str]) -> pa.Table:
        """The rows of the manifest, a column at a time."""
        count, found = len(members), [member.found for member in members]
        columns: dict[str, Sequence[Any]] = {
            "net": [member.number for member in members],
            "lineage": [self._lineages[one.run] for one in found],
            "arch": [group.name.rpartition("-")[0]] * count,
            "group": [group.name] * count,
            "row": range(count),
            "family": [group.arch["family"]] * count,
            "status": [member.status for member in members],
            "sha256": hashes,
            "source.where": [one.where for one in found],
        }
        for name in ("step", "epoch", "snapshot_fraction", "image_set", "activation", "dropout"):
            columns[name] = [getattr(one, name) for one in found]
        fields = FAMILIES[group.arch["family"]].FIELDS
        for name in self.columns["architecture"][1:]:
            columns[name] = [fields[name].shown(group.arch[name]) if name in fields else None] * count
        for name in self.schema.names:
            if name.startswith("source.") and name not in columns:
                own = name.removeprefix("source.")
                columns[name] = [_text(one.metadata.get(own)) for one in found]
            elif name not in columns:
                columns[name] = [one.values.get(name, one.metrics.get(name)) for one in found]
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _stacked(members: Sequence[Member]) -> dict[str, Tensor]:
    """The tensors of nets of one architecture, [nets, *shape]."""
    runs = [list(run) for _, run in itertools.groupby(members, key=lambda member: id(member.tensors))]
    first = runs[0][0].tensors
    if len(runs) == len(members):
        return {name: torch.stack([_own(member, name) for member in members]) for name in first}
    rows = [torch.tensor([member.row or 0 for member in run]) for run in runs]
    return {
        name: torch.cat(
            [
                run[0].tensors[name][inside] if run[0].row is not None else run[0].tensors[name][None]
                for run, inside in zip(runs, rows, strict=True)
            ]
        )
        for name in first
    }


def _own(member: Member, name: str) -> Tensor:
    tensor = member.tensors[name]
    return tensor if member.row is None else tensor[member.row]


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
