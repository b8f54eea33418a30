"""Both ways to read a CSV file give the same texts."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanet.importers.intake import csv_tables

CELLS = st.text(st.sampled_from("ab 0.,-é'nan"), max_size=4)


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=5), end=st.sampled_from(["\n", "\r\n"]))
def test_a_table_has_the_texts_that_python_reads(rows: list[tuple[str, str]], end: str):
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([("x", "y"), *rows])
    found = csv_tables.read(text.getvalue(), "here", ("x",))
    assert found.to_pylist() == list(csv.DictReader(io.StringIO(text.getvalue())))


def test_a_row_of_another_length_is_named():
    with pytest.raises(ValueError, match="here: row 3 has 1 values, expected 2"):
        csv_tables.read("x,y\n1,2\n3\n", "here")
