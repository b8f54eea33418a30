"""Writing: a stream of foreign nets -> an ordinary zoo. It lies under a hidden name until it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from metanet import formats, importers
from metanet.commandline import RefusedError
from metanet.importers.intake import fitting
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Foreign, LeftOut, Source
from metanet.progress import progress
from metanet.zoo import disk, layout, manifest, nets, shards
from metanet.zoo.families import FAMILIES
from metanet.zoo.store import Zoo, open_zoo

GROUP_NETS, POOL_BYTES = 256, 1 << 27  # nets of a group, and what waits in memory for its group to fill, at most
REPORT = "left_out.json"


def import_zoo(format: str, path: str | Path, out: str | Path, **options: Any) -> Zoo:
    """The zoo in the folder `out`, made of the foreign files at `path`; options are those of the format.

    Equal sources give equal bytes. What is left out stands in left_out.json, with a count and a reason.

    Raises:
        ValueError: an unknown format or option, damaged files, or nothing that can be imported.
        RefusedError: nothing can be imported because reading it would not be safe.
        FileNotFoundError: nothing is at `path`.
        FileExistsError: something is at `out`.
        LockedError: another import writes to `out`.
        OSError: disk full, no permission, ...
    """
    reader, out, folder = importers.find(format), Path(out), Folder(path)
    formats.check_options(format, reader.read, options)
    if out.exists():
        raise FileExistsError(f"{out}: is there already. Remove it, or choose another out=.")
    unfinished = out.with_name(f".{out.name}.import{disk.TEMPORARY}")
    disk.make_folder(unfinished)
    with disk.one_writer(unfinished), Parser() as parser:
        try:
            _clear(unfinished)
            source = reader.read(folder, parser, **options)
            writer = _Writer(unfinished, source)
            left_out = writer.write(source, f"importing {folder.path.name}")
            _check_anything(writer, left_out, folder)
            writer.finish(
                out.name, {"format": format, "options": options, "sha256": folder.sha256(parser.sha256)}, left_out
            )
            os.rename(unfinished, out)
            disk.sync_folder(out.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return open_zoo(out)


def summary(left_out: list[LeftOut]) -> dict[str, int]:
    """Reason -> how many nets were left out for it."""
    reasons: dict[str, int] = {}
    for one in left_out:
        reasons[one.reason] = reasons.get(one.reason, 0) + 1
    return reasons


def _check_anything(writer: _Writer, left_out: list[LeftOut], folder: Folder) -> None:
    if writer.rows:
        return
    if not left_out:
        raise ValueError(f"{folder.path}: found no net of this format. docs/import.md says which files are expected.")
    kind = RefusedError if any(one.refused for one in left_out) else ValueError
    first = next((one for one in left_out if one.refused), left_out[0])
    raise kind(
        f"{folder.path}: no net could be imported: {summary(left_out)}. The first: {first.detail or first.where}"
    )


def _clear(folder: Path) -> None:
    """Removes what a killed import left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


class _Writer:
    """Collects nets into groups of one architecture, and writes a group when it is large enough."""

    def __init__(self, zoo: Path, source: Source):
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
        self._numbers: dict[tuple[str, str | None], int] = {}  # of nets, by run and net
        self._lineages: dict[str, int] = {}
        self._seen: set[tuple[int, int]] = set()
        self._pools: dict[str, list[tuple[int, Foreign]]] = {}  # architecture -> net's number, snapshot
        self._bytes: dict[str, int] = {}
        self._fragments: dict[str, bytes] = {}

    def write(self, source: Source, what: str) -> list[LeftOut]:
        """Everything of the stream; what was left out of it."""
        left_out: list[LeftOut] = []
        for folder in ("shards", "manifest"):
            disk.make_folder(self.zoo / folder)
        with progress(what, source.total, "snapshots") as advance:
            for found in source.nets:
                problem = self._add(found) if isinstance(found, Foreign) else found
                left_out += [problem] if problem else []
                advance()
        for arch in sorted(self._pools):
            self._flush(arch)
        return left_out

    def finish(self, name: str, source: Mapping[str, Any], left_out: list[LeftOut]) -> None:
        """Writes what makes a zoo of the shards."""
        record = {
            "schema": layout.SCHEMA,
            "spec": {
                "name": name,
                "num_classes": max(arch["num_classes"] for arch in self.archs.values()),
                "eval_images": None,
            },
            "spec_sha256": disk.sha256(json.dumps(source, sort_keys=True).encode()),  # what runs know the zoo by
            "source": {**source, "left_out": len(left_out)},
            "device": "cpu",
            "versions": layout.versions(),
            "columns": self.columns,
            "archs": self.archs,
            "plan": self.plan,
        }
        told = [{"where": one.where, "reason": one.reason, "detail": one.detail} for one in left_out]
        report = {"count": len(left_out), "reasons": summary(left_out), "left_out": told}
        disk.write_atomically(self.zoo / REPORT, json.dumps(report, indent=1).encode())
        disk.write_atomically(self.zoo / layout.MANIFEST, manifest.merge(self._fragments))
        disk.write_atomically(self.zoo / layout.RECORD, layout.pack(record))

    def _add(self, found: Foreign) -> LeftOut | None:
        """Takes a net into its architecture's pool, or says why not."""
        try:
            tensors = fitting.fit(found.tensors, found.arch, found.where)
            arch_name = nets.arch_name(found.arch)
        except ValueError as error:
            return LeftOut(found.where, "does not fit its architecture", str(error), isinstance(error, RefusedError))
        bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if bad:
            return LeftOut(found.where, "weights that are not finite", f"{found.where}: {bad[0]} is not finite")
        if found.activation not in nets.ACTIVATIONS and not nets.brings_activation(found.arch):
            return LeftOut(found.where, "unknown activation", f"{found.where}: found {found.activation!r}")
        large = [value for value in (found.step, *found.values.values()) if type(value) is int and abs(value) >> 63]
        if large:
            return LeftOut(found.where, "a number beyond 64 bits", f"{found.where}: found {large[0]}")
        net = self._numbers.setdefault((found.run, found.net), len(self._numbers))
        if (net, found.step) in self._seen:
            return LeftOut(found.where, "a run's step that is there already", f"{found.where}: step {found.step}")
        self._seen.add((net, found.step))
        self._lineages.setdefault(found.run, net)
        self.archs[arch_name] = dict(found.arch)
        pool = self._pools.setdefault(arch_name, [])
        if pool and pool[-1][0] != net and len({number for number, _ in pool}) >= GROUP_NETS:
            self._flush(arch_name)
            pool = self._pools.setdefault(arch_name, [])
        pool.append((net, _with(found, tensors)))
        self.rows += 1
        self._bytes[arch_name] = self._bytes.get(arch_name, 0) + sum(tensor.nbytes for tensor in tensors.values())
        if sum(self._bytes.values()) > POOL_BYTES:
            self._flush(max(sorted(self._bytes), key=lambda name: self._bytes[name]))
        return None

    def _flush(self, arch: str) -> None:
        """Writes a pool as one group: a shard and a fragment for each step."""
        pool, _ = self._pools.pop(arch), self._bytes.pop(arch)
        group = f"{arch}-{sum(entry['group'].rpartition('-')[0] == arch for entry in self.plan)}"
        steps = sorted({found.step for _, found in pool})
        self.plan.append({"group": group, "nets": sorted({net for net, _ in pool}), "steps": steps})
        disk.make_folder(self.zoo / "shards" / group)
        for step in steps:
            members = sorted(((net, found) for net, found in pool if found.step == step), key=lambda member: member[0])
            stacked = {
                name: torch.stack([found.tensors[name] for _, found in members]) for name in members[0][1].tensors
            }
            shard = shards.pack(stacked, {"arch": self.archs[arch], "group": group, "step": step})
            about = {"shard": disk.sha256(shard), "tensors": shards.tensor_hashes(stacked)}
            hashes = shards.net_hashes(stacked)
            rows = [self._row(net, found, arch, group, row) for row, (net, found) in enumerate(members)]
            table = pa.Table.from_pylist(
                [row | {"sha256": sha} for row, sha in zip(rows, hashes, strict=True)], self.schema
            )
            disk.write_atomically(layout.shard_path(self.zoo, group, step), shard)
            path = layout.fragment_path(self.zoo, group, step)
            self._fragments[path.name] = manifest.pack(table, about)
            disk.write_atomically(path, self._fragments[path.name])

    def _row(self, net: int, found: Foreign, arch: str, group: str, row: int) -> dict[str, Any]:
        verbatim = {"source.where": found.where}
        verbatim |= {f"source.{name}": str(value) for name, value in found.metadata.items() if value is not None}
        place = {
            "net": net,
            "lineage": self._lineages[found.run],
            "arch": arch,
            "group": group,
            "row": row,
            "step": found.step,
            "epoch": found.epoch,
            "snapshot_fraction": found.snapshot_fraction,
            "status": "ok",
            "image_set": found.image_set,
            "activation": found.activation,
            "dropout": found.dropout,
        }
        fields = FAMILIES[found.arch["family"]].FIELDS
        architecture = {"family": found.arch["family"]} | {
            name: fields[name].shown(found.arch[name]) if name in fields else None
            for name in self.columns["architecture"][1:]
        }
        return {**found.values, **found.metrics, **place, **architecture, **verbatim}


def _with(found: Foreign, tensors: dict[str, Tensor]) -> Foreign:
    return Foreign(**{**vars(found), "tensors": tensors})


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
