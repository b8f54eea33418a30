"""Manifest: a row per net and snapshot. Every shard has a fragment; manifest.parquet is all fragments in one file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metanet.zoo import disk, manifest_writer
from metanet.zoo.families import FAMILIES
from metanet.zoo.fit import Snapshot
from metanet.zoo.hyperparameters import HYPERPARAMETERS
from metanet.zoo.plan import Group
from metanet.zoo.spec import Spec
from metanet.zoo.tasks import TASKS

METRICS = {name: kind for task in TASKS.values() for name, kind in task.metrics.items()}
PLACE = pa.schema(
    [
        ("net", pa.int64()),
        ("lineage", pa.int64()),
        ("arch", pa.string()),
        ("group", pa.string()),
        ("row", pa.int64()),  # of the shard's tensors
        ("step", pa.int64()),
        ("epoch", pa.float64()),
        ("snapshot_fraction", pa.float64()),
        ("status", pa.string()),  # "ok" | "diverged"
        ("image_set", pa.string()),
    ]
)


def columns(spec: Spec) -> dict[str, list[str]]:
    """The manifest's columns by what they say; recorded in zoo.json."""
    fields = {field for family in spec.architectures for field in FAMILIES[family["family"]].FIELDS}
    return {
        "hyperparameters": [name for name in HYPERPARAMETERS if name in spec.hyperparameters],
        "architecture": ["family", "batch_norm", *sorted(fields - {"batch_norm"})],
        "metrics": list(TASKS[spec.task].metrics),
    }


def schema(columns: Mapping[str, Sequence[str]]) -> pa.Schema:
    """The manifest's columns with their types."""
    architecture = {"family": pa.string()} | {
        name: TYPES[field.kind] for family in FAMILIES.values() for name, field in family.FIELDS.items()
    }
    return pa.schema(
        [
            *PLACE,
            *((name, TYPES[HYPERPARAMETERS[name].kind]) for name in columns["hyperparameters"]),
            *((name, architecture[name]) for name in columns["architecture"]),
            *((name, MEASURED[METRICS[name]]) for name in columns["metrics"]),
            ("sha256", pa.string()),
        ]
    )


TYPES = {float: pa.float64(), int: pa.int64(), bool: pa.bool_(), str: pa.string()}
MEASURED = TYPES | {float: pa.float32()}


def fragment(
    columns: Mapping[str, Sequence[str]],
    group: Group,
    snapshot: Snapshot,
    hashes: Sequence[str],
    about: Mapping[str, Any],
) -> bytes:
    """The parquet file with the rows of one shard; `about` (the shard's hashes) goes into its metadata."""
    rows = [
        _place(group, row, snapshot)
        | {"status": "diverged" if snapshot.diverged[row] else "ok", "sha256": hashes[row]}
        | {name: net.hyperparameters[name] for name in columns["hyperparameters"]}
        | {name: net.arch.get(name) for name in columns["architecture"]}
        | {name: METRICS[name](snapshot.metrics[name][row].item()) for name in columns["metrics"]}
        for row, net in enumerate(group.nets[place] for place in snapshot.nets)
    ]
    return pack(pa.Table.from_pylist(rows, schema(columns)), about)


def _place(group: Group, row: int, snapshot: Snapshot) -> dict[str, Any]:
    net, step = group.nets[snapshot.nets[row]], snapshot.steps[row]
    own = snapshot.step is None  # then the fraction is that of its own training, as in imported zoos
    return {
        "net": net.net,
        "lineage": net.lineage,
        "arch": net.arch_name,
        "group": group.name,
        "row": row,
        "step": step,
        "epoch": step / net.steps_per_epoch,
        "snapshot_fraction": step / snapshot.ends[row] if own else net.snapshots[net.snapshot_steps.index(step)],
        "image_set": net.image_set,
    }


def merge(fragments: Mapping[str, bytes], digested: bool = True) -> bytes:
    """manifest.parquet: the rows of all fragments by (net, step), with each fragment's SHA-256 in its metadata."""
    tables = [read(fragments[name], name, digested)[0] for name in sorted(fragments)]
    whole = in_order(pa.concat_tables(tables).combine_chunks())
    return pack(whole, {name: disk.sha256(data) for name, data in fragments.items()})


def in_order(rows: pa.Table) -> pa.Table:
    """The rows by (net, step)."""
    net, step = (np.diff(rows[name].to_numpy()) for name in ("net", "step"))
    if ((net > 0) | ((net == 0) & (step >= 0))).all():
        return rows
    return rows.sort_by([("net", "ascending"), ("step", "ascending")])


def read(data: bytes, where: object, digested: bool = True) -> tuple[pa.Table, dict[str, Any]]:
    """The rows of a parquet file and what its writer was told about them; `digested`: it has a SHA-256 of both.

    Raises:
        ValueError: damaged; a changed value is damage too.
    """
    try:
        table = disk.read_parquet(data)
        about = json.loads((table.schema.metadata or {})[b"metanet"])
        table = table.replace_schema_metadata(None)
        intact = not digested or _is_intact(table, about)
    except (pa.ArrowException, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: not a readable manifest ({error}): damaged.") from error
    if not intact:
        raise ValueError(f"{where}: damaged: the SHA-256 of its rows is not the one that was written.")
    return table, about


def _is_intact(table: pa.Table, about: dict[str, Any]) -> bool:
    """Whether the SHA-256 fit, which are taken out of `about`."""
    was = about.pop("sha256")
    if "rows" not in about:
        return was == digest(table, about)
    intact = was == manifest_writer.note_hash(table.schema, about)
    parts = [(count, sha256) for count, sha256 in about.pop("rows")]
    return intact and manifest_writer.are_intact(table, parts)


def pack(table: pa.Table, about: Mapping[str, Any]) -> bytes:
    """A parquet file with `about` in its metadata; equal inputs, equal bytes (by one version of pyarrow)."""
    sink = io.BytesIO()
    note = json.dumps({**about, "sha256": digest(table, about)}, sort_keys=True)
    pq.write_table(table.replace_schema_metadata({"metanet": note}), sink, compression="zstd")
    return sink.getvalue()


def digest(table: pa.Table, about: Mapping[str, Any]) -> str:
    """SHA-256 of the values, names and types, and of `about`; parquet itself checks no byte."""
    sha256 = hashlib.sha256(json.dumps([about, str(table.schema)], sort_keys=True).encode())
    for column in table.columns:
        values = column.drop_null()
        sha256.update(column.is_null().to_numpy().tobytes())
        texts = pa.types.is_string(column.type)
        sha256.update(json.dumps(values.to_pylist()).encode() if texts else values.to_numpy().tobytes())
    return sha256.hexdigest()


def pack_imported(rows: pa.Table, sha256: str, about: Mapping[str, Any]) -> bytes:
    """What `pack` gives, of rows of an imported zoo whose `rows_hash` is `sha256`."""
    parts: list[bytes] = []
    with manifest_writer.Writer(rows.schema, lambda _, part: parts.append(bytes(part)), compression="snappy") as file:
        file.add(rows, sha256)
        file.end(about)
    return b"".join(parts)


def merge_imported(fragments: Mapping[str, bytes]) -> bytes:
    """What `merge` gives, of an imported zoo: the rows of its fragments, one after another in the order of the plan."""
    parts: list[bytes] = []
    tables = [read(data, name)[0] for name, data in fragments.items()]
    with manifest_writer.Writer(tables[0].schema, lambda _, part: parts.append(bytes(part))) as file:
        for rows in tables:
            file.add(rows, manifest_writer.rows_hash(rows))
        file.end({name: disk.sha256(data) for name, data in fragments.items()})
    return b"".join(parts)
