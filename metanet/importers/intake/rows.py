"""Rows: what the manifest says of the nets of a group, by what the source says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from metanet.importers.intake.source import WHERE, Foreign, Numbers, Source, Stack
from metanet.zoo import manifest
from metanet.zoo.families import FAMILIES


class Lot(NamedTuple):
    """What came at once: a net, or a stack of them."""

    found: Foreign | Stack
    numbers: np.ndarray  # int64 [nets]
    lineages: np.ndarray  # int64 [nets]
    tensors: Mapping[str, Tensor] | Numbers | None  # of a single net; a stack is read where it is written
    statuses: Sequence[str]
    is_there: bool  # on the disk already, so that its weights were not looked at


def columns(source: Source) -> dict[str, list[str]]:
    """The manifest's columns by what they say; recorded in zoo.json."""
    fields = {name for family in source.families for name in FAMILIES[family].FIELDS}
    return {
        "hyperparameters": list(source.hyperparameters),
        "architecture": ["family", *sorted(fields)],
        "metrics": list(source.metrics),
        "source": [f"source.{name}" for name in ("where", *source.metadata)],
    }


def schema(source: Source) -> pa.Schema:
    """The manifest's columns with their types."""
    fields = {name: field.kind for family in source.families for name, field in FAMILIES[family].FIELDS.items()}
    architecture, needed = {"family": str} | fields, {"activation": str, "dropout": float}
    own = {**source.hyperparameters, **{name: needed[name] for name in needed if name not in source.hyperparameters}}
    names = columns(source)
    return pa.schema(
        [
            *manifest.PLACE,
            *((name, manifest.TYPES[kind]) for name, kind in own.items()),
            *((name, manifest.TYPES[architecture[name]]) for name in names["architecture"]),
            *((name, manifest.MEASURED[kind]) for name, kind in source.metrics.items()),
            *((name, pa.string()) for name in names["source"]),
            ("sha256", pa.string()),
        ]
    )


def wheres(lots: Sequence[Lot]) -> list[str]:
    """Of all nets of the lots, their places in the source."""
    found = [lot.found for lot in lots]
    return [where for one in found for where in ([one.where] if isinstance(one, Foreign) else one.where)]


def table(
    schema: pa.Schema, group: str, arch_name: str, arch: Mapping[str, Any], lots: Sequence[Lot], hashes: Sequence[str]
) -> pa.Table:
    """The rows of a group, whose nets have the SHA-256 `hashes`."""
    count, fields = len(hashes), FAMILIES[arch["family"]].FIELDS
    of_all = {"arch": arch_name, "group": group, "family": arch["family"]}
    of_all |= {name: field.shown(arch[name]) for name, field in fields.items() if name in arch}
    found: dict[str, Any] = {
        **_found(lots),
        "net": np.concatenate([lot.numbers for lot in lots]),
        "lineage": np.concatenate([lot.lineages for lot in lots]),
        "row": np.arange(count),
        "status": [status for lot in lots for status in lot.statuses],
        "sha256": hashes,
    }
    arrays = []
    for own in schema:
        values = found.get(own.name)
        if own.name in of_all:
            arrays.append(pa.repeat(pa.scalar(of_all[own.name], own.type), count))
        elif values is None:
            arrays.append(pa.nulls(count, own.type))
        else:
            is_column = isinstance(values, pa.ChunkedArray)
            array = pc.cast(values, own.type).combine_chunks() if is_column else pa.array(values, own.type)
            arrays.append(array.fill_null(0.0) if own.name == "dropout" else array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _found(lots: Sequence[Lot]) -> Mapping[str, Sequence[Any] | pa.ChunkedArray]:
    """What the source says of nets, by the manifest's names."""
    stacks = [lot.found.columns for lot in lots if isinstance(lot.found, Stack)]
    if stacks:
        whole = pa.concat_tables(stacks)
        return dict(zip(whole.column_names, whole.columns, strict=True))
    found = [lot.found for lot in lots if isinstance(lot.found, Foreign)]
    own: dict[str, Any] = {WHERE: [one.where for one in found]}
    for name in ("run", "step", "epoch", "snapshot_fraction", "image_set", "activation", "dropout"):
        own[name] = [getattr(one, name) for one in found]
    for name in {name: None for one in found for name in (*one.values, *one.metrics)}:
        own.setdefault(name, [one.values.get(name, one.metrics.get(name)) for one in found])
    for name in {name: None for one in found for name in one.metadata}:
        own.setdefault(f"source.{name}", [_text(one.metadata.get(name)) for one in found])
    return own


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
