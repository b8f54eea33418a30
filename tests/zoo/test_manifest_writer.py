"""Manifest files that grow: the bytes follow from the rows, and any changed value is found."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanet.zoo import disk, manifest, manifest_writer
from metanet.zoo.manifest_writer import Writer, rows_hash

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.float32()), ("c", pa.string()), ("d", pa.bool_())])
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-2, 2),
        st.none() | st.sampled_from([0.0, 1.5, float("inf")]),
        st.none() | st.text("aé", max_size=2),
        st.none() | st.booleans(),
    ),
    max_size=4,
)


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


def written(parts: list[pa.Table], about: dict[str, Any]) -> bytes:
    data: list[bytes] = []
    with Writer(SCHEMA, lambda _, part: data.append(bytes(part))) as file:
        for part in parts:
            file.add(part, rows_hash(part))
        file.end(about)
    return b"".join(data)


@given(one=ROWS, other=ROWS)
def test_rows_have_one_hash_only_if_they_are_equal(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]):
    equal = len(one) == len(other) and all(
        type(x) is type(y) and x == y for x, y in zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    )
    assert (len(one) == len(other) and rows_hash(table(one)) == rows_hash(table(other))) == equal


@given(rows=ROWS, more=ROWS)
def test_the_hash_of_a_part_of_a_table_is_that_of_its_rows(rows: list[tuple[Any, ...]], more: list[tuple[Any, ...]]):
    whole = pa.concat_tables([table(more), table(rows), table(more)])
    assert rows_hash(whole.slice(len(more), len(rows))) == rows_hash(table(rows))


@pytest.mark.parametrize("group_rows", [1, 1 << 15])
def test_what_is_written_is_read_and_any_changed_bit_of_it_is_found(group_rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest_writer, "GROUP_ROWS", group_rows)
    parts = [table([(1, 0.5, "x", True), (None, None, None, None)]), table([(2, 1.5, "y", False)])]
    data = written(parts, {"note": "n"})
    rows, about = manifest.read(data, "here")
    assert (rows.to_pylist(), about) == (pa.concat_tables(parts).to_pylist(), {"note": "n"})
    assert written(parts, {"note": "n"}) == data
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with contextlib.suppress(ValueError):  # else it says nothing of the rows; the SHA-256 of the file finds it
            found, about = manifest.read(changed, "here")
            assert (found.to_pylist(), about) == (rows.to_pylist(), {"note": "n"})


def test_a_file_that_is_given_up_is_put_no_further(tmp_path: Path):
    def give_up() -> None:
        with disk.written_atomically(tmp_path / "file") as put, Writer(SCHEMA, put) as file:
            file.add(table([(1, 0.5, "x", True)]), "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert list(tmp_path.iterdir()) == []


def test_rows_come_in_the_order_of_net_and_step():
    rows = pa.table({"net": [1, 0, 1, 0], "step": [0, 5, -1, 2], "x": ["a", "b", "c", "d"]})
    assert manifest.in_order(rows)["x"].to_pylist() == ["d", "b", "c", "a"]
    assert manifest.in_order(manifest.in_order(rows)).equals(manifest.in_order(rows))
