"""Labels: a table that says of each file, or of each row of stacked tensors, what net it is and how it was trained."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metanet.importers.intake import fitting
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser
from metanet.importers.intake.reading import each
from metanet.importers.intake.source import Foreign, LeftOut, Source
from metanet.zoo import manifest, nets
from metanet.zoo.families import factory
from metanet.zoo.hyperparameters import HYPERPARAMETERS

METRICS = {**manifest.METRICS, "valid_accuracy": float, "valid_loss": float}
PLACES = ("path", "row", "run", "net", "step", "epoch", "snapshot_fraction", "image_set", "arch")
BOOLEANS = {"false": False, "true": True}
ARCHS = "archs.json"
FILE = "file"  # the metadata column with what stands in the file itself
OF_SOURCE = "source."  # columns of a zoo that was imported once before, and say nothing of the training
SEED = "seed"  # kept in source.seed: no weight tells it, and as a target it would stand for the order of the nets
OWN = "own"  # the activation of a module that brings its own

Row = dict[str, str]


@dataclass(frozen=True)
class Architectures:
    """How a row says its architecture: by the name `arch` in archs.json, or all rows are of one module."""

    named: Mapping[str, Any]
    module: Mapping[str, Any] | None

    def of(self, row: Row, where: str) -> dict[str, Any]:
        """The architecture of a row.

        Raises:
            ValueError: the row names none, and no module was given.
        """
        name = row.get("arch", "")
        if name in self.named:
            return dict(self.named[name])
        if self.module is None or name:
            found = f"found the architecture {name!r}" if name else "found no architecture"
            known = f"{ARCHS}: {', '.join(self.named)}" if self.named else f"{ARCHS}, which is not there"
            raise ValueError(
                f"{where}: {found}, expected module=package:factory with input=[1,channels,height,width], or a column "
                f"arch with a name in {known}"
            )
        return dict(self.module)


def architectures(folder: Folder, module: str | None, input: list[int] | None) -> Architectures:
    """What the options and archs.json say of the nets; the module is made once, to see that it is one.

    Raises:
        ValueError: no such module, no input of [1, channels, height, width], or an output that is no [batch, numbers].
    """
    named = folder.json(ARCHS) if folder.has(ARCHS) else {}
    described = list(named.values()) if isinstance(named, dict) else [named]
    if not all(isinstance(arch, dict) and isinstance(arch.get("family"), str) for arch in described):
        raise ValueError(f"{folder.root / ARCHS}: expected {{name: architecture}}, each an object with a family")
    if module is None:
        return Architectures(named, None)
    if not input or len(input) != 4 or min(input) < 1:
        raise ValueError(f"module={module}: found input={input}, expected input=[1,channels,height,width]")
    factory.allow(module)
    with torch.no_grad():
        output = factory.made(module).eval()(torch.zeros(2, *input[1:]))
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise ValueError(f"module={module}: its output is no tensor [batch, numbers]")
    shape = {"image_shape": list(input[1:]), "num_classes": output.shape[1]}
    return Architectures(named, {"family": "factory", "factory": module, **shape})


def table(folder: Folder, parser: Parser, name: str) -> list[Row]:
    """The rows of a CSV, Parquet or JSON table, every value as text; JSON is a list of rows, or {path: row}.

    Raises:
        ValueError: damaged, no column `path`, or another kind of file.
    """
    if name.endswith((".csv", ".csv.gz")):
        return folder.rows(name, needed=("path",))
    if name.endswith(".parquet"):
        (answer,) = parser.parse([folder.file(name)])
        if isinstance(answer, ValueError):
            raise answer
        found: Any = answer.metadata["rows"]
    elif name.endswith(".json"):
        found = folder.json(name)
    else:
        raise ValueError(f"{name}: expected a table .csv, .csv.gz, .parquet or .json")
    if isinstance(found, dict):
        found = [{"path": path, **row} for path, row in found.items() if isinstance(row, dict)]
    if not isinstance(found, list) or not all(isinstance(row, dict) and "path" in row for row in found):
        raise ValueError(f"{name}: expected rows with a column path")
    return [texts(row) for row in found]


def texts(row: Mapping[Any, Any]) -> Row:
    """A row with every value as text; one that is missing is empty."""
    return {str(key): _text(value) for key, value in row.items()}


def source(folder: Folder, parser: Parser, rows: list[Row], archs: Architectures, weights: str | None = None) -> Source:
    """The nets of a table; `weights` names the entry with the net, where checkpoints have several."""
    families = [*(arch["family"] for arch in archs.named.values()), *(["factory"] if archs.module else [])]
    found = columns(rows, families)
    options = {} if weights is None else {"weights": weights}
    stream = _nets(folder, parser, rows, archs, found.kinds, options)
    return Source(found.families, len(rows), stream, found.kinds, found.metrics, [*found.names, FILE])


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are."""

    names: list[str]
    kinds: Mapping[str, type]  # of hyperparameters
    metrics: Mapping[str, type]
    families: list[str]  # those that are known


def columns(rows: list[Row], families: Sequence[str]) -> Columns:
    """The columns of rows on nets of `families`. With our own names they keep their kind; of others the values tell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    known = [name for name in nets.FAMILIES if name in families]
    taken = {*PLACES, *METRICS, *manifest.PLACE.names, "family", "sha256", SEED}
    taken |= {field for name in known for field in nets.FAMILIES[name].FIELDS}
    labels = [name for name in names if name not in taken and not name.startswith(OF_SOURCE)]
    kinds = {name: _kind(name, [row.get(name, "") for row in rows]) for name in labels}
    return Columns(names, kinds, {name: METRICS[name] for name in names if name in METRICS}, known)


def _nets(
    folder: Folder,
    parser: Parser,
    rows: list[Row],
    archs: Architectures,
    kinds: Mapping[str, type],
    options: dict[str, str],
) -> Iterator[Foreign | LeftOut]:
    by_file: dict[str, list[Row]] = {}
    for row in rows:
        by_file.setdefault(row["path"], []).append(row)
    names = list(by_file)
    for place, answer in each(folder, parser, names, **options):
        for row in by_file[names[place]]:
            try:
                if isinstance(answer, Exception):
                    raise answer
                arch = archs.of(row, _where(row))
                tensors = fitting.without_attribute(answer.tensors, arch)
                yield net(row, replace(answer, tensors=tensors), arch, kinds)
            except (ValueError, OSError) as error:
                yield LeftOut.of(_where(row), error)


def net(row: Row, answer: Parsed, arch: Mapping[str, Any], kinds: Mapping[str, type]) -> Foreign:
    """The net of a row, whose file was parsed; its tensors have the names that their owner gave them.

    Raises:
        ValueError: a place or number of the row that is none, or no activation where the family needs one.
    """
    where = _where(row)
    tensors = answer.tensors
    if row.get("row"):
        tensors = {name: tensor[_place(row, tensor, where)] for name, tensor in tensors.items()}
    tensors = nets.full_names(tensors, arch)
    values = {name: _value(row.get(name, ""), kind) for name, kind in kinds.items()}
    brings = arch["family"] in nets.FAMILIES and nets.brings_activation(arch)
    activation = row.get("activation") or (OWN if brings else "")
    if not activation:
        raise ValueError(f"{where}: no activation; expected a column activation, for family {arch['family']}")
    return Foreign(
        where=where,
        run=row.get("run") or row.get("net") or where,
        net=row.get("net") or None,
        step=_whole(row.get("step") or "0", f"{where}: step"),
        epoch=_optional(row, "epoch", where),
        snapshot_fraction=_optional(row, "snapshot_fraction", where),
        arch=arch,
        tensors=tensors,
        activation=activation,
        dropout=_optional(row, "dropout", where) or 0.0,
        image_set=row.get("image_set") or None,
        values=values,
        metrics={name: _metric(row, name, where) for name in METRICS if name in row},
        metadata={**row, FILE: json.dumps(answer.metadata, sort_keys=True) if answer.metadata else None},
    )


def _where(row: Row) -> str:
    return f"{row['path']}, row {row['row']}" if row.get("row") else row["path"]


def _place(row: Row, tensor: Tensor, where: str) -> int:
    place = _whole(row["row"], f"{where}: row")
    if tensor.dim() == 0 or not 0 <= place < len(tensor):
        raise ValueError(f"{where}: found tensors of shape {tuple(tensor.shape)}, expected more than {place} nets")
    return place


def _whole(text: str, where: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{where}: found {text!r}, expected a whole number")
    return int(text)


def _optional(row: Row, name: str, where: str) -> float | None:
    """A number; none where it is missing or not finite, as the loss of a net that diverges."""
    try:
        number = float(row.get(name) or "nan")
    except ValueError as error:
        raise ValueError(f"{where}: {name}: found {row[name]!r}, expected a number") from error
    return number if math.isfinite(number) else None


def _metric(row: Row, name: str, where: str) -> Any:
    return _optional(row, name, where) if METRICS[name] is float else _value(row[name], METRICS[name])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)


def _kind(name: str, texts: list[str]) -> type:
    """The kind that all values of a column have: bool, int, float or text."""
    if name in HYPERPARAMETERS:
        return HYPERPARAMETERS[name].kind
    for kind in (bool, int, float):
        if any(texts) and all(_value(text, kind) is not None for text in texts if text):
            return kind
    return str


def _value(text: str, kind: type) -> Any:
    """The text as `kind`; None if it is empty or none."""
    if kind is bool:
        return BOOLEANS.get(text.lower())
    try:
        value = kind(text) if text else None
    except ValueError:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value
