import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanet.splits import PARTS, split

TRAIN, VALID, TEST = range(3)


def manifest(lineages: int, snapshots: int = 3) -> pa.Table:
    lineage = np.repeat(np.arange(lineages) * 7, snapshots)
    depth = [None if number % 5 == 0 else 3 + number % 3 for number in lineage.tolist()]
    return pa.table({"lineage": lineage, "step": np.tile(np.arange(snapshots), lineages), "conv_depth": depth})


@given(lineages=st.integers(4, 200), snapshots=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_all_snapshots_of_a_lineage_stay_together(lineages, snapshots, seed):
    part = split(manifest(lineages, snapshots), seed=seed).reshape(lineages, snapshots)
    assert (part == part[:, :1]).all()


@given(lineages=st.integers(20, 400))
def test_parts_have_their_fractions_of_the_lineages(lineages):
    part = split(manifest(lineages, 1), valid=0.2, test=0.1)
    assert abs((part == VALID).sum() - 0.2 * lineages) <= 0.5
    assert abs((part == TEST).sum() - 0.1 * lineages) <= 0.5


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does():
    table = manifest(50)
    order = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_array_equal(split(table)[order], split(table.take(order)))
    assert (split(table, seed=1) != split(table)).any()


def test_the_default_split_never_changes():
    """Results of different versions are compared on it."""
    drawn = split(manifest(12, 1)).tolist()
    assert drawn == [1, 0, 0, 0, 0, 0, 1, 2, 0, 2, 0, 0]


def test_held_out_values_are_the_test_part_and_nothing_else_is():
    table = manifest(60)
    depth = np.array(table["conv_depth"].to_pylist(), dtype=float)
    part = split(table, "conv_depth", [4], test=None)
    np.testing.assert_array_equal(part == TEST, depth == 4)
    np.testing.assert_array_equal(split(table, "conv_depth", "last", test=None) == TEST, depth == 5)
    assert {TRAIN, VALID} <= set(part.tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": "conv_dept", "values": [3], "test": None}, "no such column .* did you mean conv_depth?"),
        ({"column": "conv_depth", "values": [9], "test": None}, r"cannot hold out conv_depth in \[9\].*in \[3, 4, 5\]"),
        ({"column": "conv_depth", "values": [3, 4, 5], "test": None, "valid": 0.99}, "leave the train part empty"),
        ({"column": "conv_depth", "values": "first", "test": None}, "expected last, or a list of values"),
        ({"column": "step", "values": [2], "test": None}, "varies within a training run"),
        ({"column": "conv_depth", "values": [3]}, "expected column and values, or test alone"),
        ({"values": [3]}, "expected column and values, or test alone"),
        ({"valid": 0.6, "test": 0.5}, "fractions above 0 with a sum below 1"),
        ({"valid": 0.0}, "fractions above 0 with a sum below 1"),
        ({"test": 0}, "found valid=0.15 and test=0, expected fractions above 0"),
    ],
)
def test_a_wrong_split_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        split(manifest(12), **arguments)


def test_too_few_lineages_say_which_part_is_empty():
    with pytest.raises(ValueError, match="2 training runs leave the train part empty"):
        split(manifest(2))
    assert PARTS == ("train", "valid", "test")
