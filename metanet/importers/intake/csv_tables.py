"""CSV tables: columns of text, in which each different text is kept once."""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv as pa_csv

TEXTS = pa.dictionary(pa.int32(), pa.string())
TABLE_ROWS = 4096  # of a CSV file that are Python's own objects at once


def read(text: str, where: str, needed: tuple[str, ...] = ()) -> pa.Table:
    """The rows below the header of a CSV file.

    Raises:
        ValueError: no header, a row of another length, or a column of `needed` is missing.
    """
    try:
        header = next((line for line in csv.reader(_lines(text), strict=True) if line), [])
    except csv.Error as error:
        raise ValueError(f"{where}: line 1: {error}") from error
    missing = [column for column in needed if column not in header]
    if missing or len(set(header)) < len(header):
        told = str(header)[:1000]
        raise ValueError(f"{where}: found the columns {told}, expected distinct ones, with {', '.join(needed)}")
    plain = '"' not in text and text.count("\r") == text.count("\r\n")
    if plain:  # every reader splits such text alike, and Arrow's ten times as fast
        with contextlib.suppress(pa.ArrowInvalid):  # a row of another length; the slower reader tells which
            return _plain_table(text.encode(), header)
    return _table(text, header, where)


def _plain_table(text: bytes, header: list[str]) -> pa.Table:
    """The rows of a CSV file that has no quotes.

    Raises:
        pa.ArrowInvalid: a row of another length than the header's, or one that is very long.
    """
    return pa_csv.read_csv(
        pa.BufferReader(text),
        pa_csv.ReadOptions(use_threads=False),
        pa_csv.ParseOptions(quote_char=False),
        pa_csv.ConvertOptions(column_types=dict.fromkeys(header, TEXTS), strings_can_be_null=False),
    )


def _table(text: str, header: list[str], where: str) -> pa.Table:
    """The rows of a CSV file.

    Raises:
        ValueError: no CSV, or a row of another length than the header's.
    """
    reader = csv.reader(_lines(text), strict=True)
    lines = itertools.islice((line for line in reader if line), 1, None)
    chunks, count = [pa.schema([(column, TEXTS) for column in header]).empty_table()], 1
    try:
        while some := list(itertools.islice(lines, TABLE_ROWS)):
            for number, line in enumerate(some, count + 1):
                if len(line) != len(header):
                    raise ValueError(f"{where}: row {number} has {len(line)} values, expected {len(header)}")
            count += len(some)
            columns = [pa.array(column, pa.string()).dictionary_encode() for column in zip(*some, strict=True)]
            chunks.append(pa.table(columns, header))
    except csv.Error as error:
        raise ValueError(f"{where}: line {reader.line_num}: {error}") from error
    return pa.concat_tables(chunks).unify_dictionaries()


def _lines(text: str) -> Iterator[str]:
    """The lines of a text with their ends; io.StringIO would keep four bytes a letter."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end
