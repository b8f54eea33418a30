"""Manifest writer: the parquet files of imported zoos, which grow with what comes and are hashed as they grow."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metanet.zoo.disk import Put

GROUP_ROWS = 1 << 12  # of a file that are in memory before they are written
DIFFERENT = ("net", "row", "source.where", "sha256")  # columns in which no value comes twice


class Writer:
    """A parquet file whose parts go to `put` as its rows come. Equal rows, equal bytes (by one version of pyarrow).

    Nothing is put after the `with` block that it is opened for.
    """

    def __init__(self, schema: pa.Schema, put: Put, compression: str = "zstd"):
        self._schema, self._sink = schema, _Sink(put)
        told: Any = [name for name in schema.names if name not in DIFFERENT]
        self._file = pq.ParquetWriter(
            self._sink, schema, compression=compression, use_dictionary=told, write_statistics=False
        )
        self._waiting: list[pa.Table] = []
        self._parts: list[tuple[int, str]] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.put = lambda place, part: None  # closing a file that was given up writes what it has
        self._file.close()

    def add(self, rows: pa.Table, sha256: str) -> None:
        """Takes rows, whose `rows_hash` is known."""
        self._parts.append((len(rows), sha256))
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= GROUP_ROWS:
            self._write()

    def end(self, about: Mapping[str, Any]) -> None:
        """Writes what is left, and puts `about` into the file's metadata with the SHA-256 of all."""
        self._write()
        about = {**about, "rows": self._parts}
        note = json.dumps({**about, "sha256": note_hash(self._schema, about)}, sort_keys=True)
        self._file.add_key_value_metadata({"metanet": note})
        self._file.close()

    def _write(self) -> None:
        if self._waiting:
            self._file.write_table(pa.concat_tables(self._waiting))
        self._waiting = []


class _Sink(io.RawIOBase):
    """What pyarrow writes into."""

    def __init__(self, put: Put):
        self.put, self._place = put, 0

    def writable(self) -> bool:
        return True

    def write(self, part: Any, /) -> int:
        self.put(self._place, part)
        self._place += len(part)
        return len(part)


def note_hash(schema: pa.Schema, about: Mapping[str, Any]) -> str:
    """SHA-256 of names and types of columns, and of `about`, which has those of the rows."""
    return hashlib.sha256(json.dumps([about, str(schema)], sort_keys=True).encode()).hexdigest()


def rows_hash(rows: pa.Table) -> str:
    """SHA-256 of the values, column after column; of texts their ends and letters. Parquet itself checks no byte."""
    sha256 = hashlib.sha256()
    for column in rows.columns:
        values = column.combine_chunks()
        sha256.update(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).astype("<i8").data)
        sha256.update(b"|")
        values = values.drop_null()
        is_text = pa.types.is_string(values.type)
        for part in _texts(values) if is_text else [values.to_numpy(zero_copy_only=False)]:
            sha256.update(part.data)
    return sha256.hexdigest()


def _texts(texts: pa.StringArray) -> list[np.ndarray]:
    """Where each text ends, and the letters of all."""
    _, ends, letters = texts.buffers()
    if not len(texts):
        return []
    where = np.frombuffer(ends, "<i4")[texts.offset : texts.offset + len(texts) + 1]
    return [where[1:] - where[0], np.frombuffer(letters or b"", np.uint8)[where[0] : where[-1]]]


def are_intact(rows: pa.Table, parts: Sequence[tuple[int, str]]) -> bool:
    """Whether the rows are those of the `parts`: how many, and their `rows_hash`."""
    start = 0
    for count, sha256 in parts:
        if rows_hash(rows.slice(start, count)) != sha256:
            return False
        start += count
    return start == len(rows)
