"""Described: formats whose files say their own architecture, and a table beside them how the nets were trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from metanet.importers.intake import labels as tables
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser
from metanet.importers.intake.reading import each
from metanet.importers.intake.source import Foreign, LeftOut, Source
from metanet.zoo.families import program

LABELS = ("metadata.csv", "metadata.parquet", "metadata.json")
ARCH = "arch"  # what a reader says in its metadata: the architecture, of family program,
PROGRAM = "program"  # or, where it does without torch, the program of one
BESIDE = "external"  # and the names of the files beside it that are a part of it


def source(folder: Folder, parser: Parser, names: list[str], reader: str, labels: str | None) -> Source:
    """The nets in the files `names`, and in those that the table names, each read by `reader` (of child.READERS)."""
    found = labels or next((name for name in LABELS if folder.has(name)), None)
    rows = [] if found is None else tables.table(folder, parser, found)
    named = {row["path"] for row in rows}
    rows += [{"path": name} for name in names if name not in named]
    columns = tables.columns(rows, ["program"])
    stream = _nets(folder, parser, rows, reader, columns.kinds)
    return Source(columns.families, len(rows), stream, columns.kinds, columns.metrics, [*columns.names, tables.FILE])


def _nets(
    folder: Folder, parser: Parser, rows: list[tables.Row], reader: str, kinds: Mapping[str, type]
) -> Iterator[Foreign | LeftOut]:
    for place, answer in each(folder, parser, [row["path"] for row in rows], reader):
        row = rows[place]
        try:
            if isinstance(answer, Exception):
                raise answer
            for beside in answer.metadata.get(BESIDE, ()):
                folder.file(str(PurePosixPath(row["path"]).parent / beside))  # so that it counts as read
            arch, tensors = _architecture(answer)
            told = {name: value for name, value in answer.metadata.items() if name not in (ARCH, PROGRAM)}
            yield tables.net(row, replace(answer, tensors=tensors, metadata=told), arch, kinds)
        except (ValueError, OSError) as error:
            yield LeftOut.of(row["path"], error)


def _architecture(answer: Parsed) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The architecture, and the tensors by the names that they have in it."""
    if ARCH in answer.metadata:
        return answer.metadata[ARCH], answer.tensors
    made, names = program.usable(answer.metadata[PROGRAM])
    return program.architecture(made), {names[name]: tensor for name, tensor in answer.tensors.items()}
