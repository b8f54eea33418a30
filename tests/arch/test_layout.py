"""Views as strided walks: numpy's own views are the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanet.arch.layout import Dim, Misaligned, expand, numbers, refine, reshape, row_major, take, text, whole

HOME = (2, 12, 6)
EVERY = row_major(HOME, range(3))


def seen(axes, starts) -> np.ndarray:
    """The number of every place that a view shows."""
    dims = [dim for row in axes for dim in row]
    flat = numbers(dims, [dim.size for dim in dims], starts, EVERY)
    return flat.reshape([int(np.prod([dim.size for dim in row])) for row in axes])


@given(data=st.data())
def test_chains_of_views_show_what_numpy_shows(data):
    axes, starts = whole(HOME), (0, 0, 0)
    oracle = np.arange(int(np.prod(HOME))).reshape(HOME)
    for _ in range(data.draw(st.integers(1, 5))):
        step = data.draw(st.sampled_from(["permute", "split", "merge", "slice"]))
        dim = data.draw(st.integers(0, oracle.ndim - 1))
        try:
            if step == "permute":
                order = data.draw(st.permutations(range(oracle.ndim)))
                axes, oracle = tuple(axes[k] for k in order), oracle.transpose(order)
            elif step == "split" and oracle.shape[dim] % 2 == 0:
                shape = (*oracle.shape[:dim], 2, oracle.shape[dim] // 2, *oracle.shape[dim + 1 :])
                axes, oracle = reshape(axes, shape), oracle.reshape(shape)
            elif step == "merge" and dim + 1 < oracle.ndim:
                shape = (*oracle.shape[:dim], oracle.shape[dim] * oracle.shape[dim + 1], *oracle.shape[dim + 2 :])
                axes, oracle = reshape(axes, shape), oracle.reshape(shape)
            elif step == "slice":
                first = data.draw(st.integers(0, oracle.shape[dim] - 1))
                by = data.draw(st.integers(1, 3))
                count = len(range(first, oracle.shape[dim], by))
                row, starts = take(axes[dim], starts, first, by, count)
                axes = (*axes[:dim], row, *axes[dim + 1 :])
                oracle = np.take(oracle, range(first, oracle.shape[dim], by), axis=dim)
        except Misaligned:
            return
        assert np.array_equal(seen(axes, starts), oracle)


def test_sizes_that_do_not_cut_each_other_are_refused():
    with pytest.raises(Misaligned, match="do not cut each other"):
        refine([[Dim(0, 3, 2), Dim(0, 1, 3)], [Dim(1, 2, 3), Dim(1, 1, 2)]])
    with pytest.raises(Misaligned, match="places 1, 2"):
        take([Dim(0, 1, 2), Dim(1, 1, 3)], (0, 0), 1, 1, 4)


def test_a_repeated_axis_counts_no_place_twice():
    axes = expand(whole((1, 3)), (4, 3))
    assert numbers(axes[0] + axes[1], [4, 3], (0, 0), row_major((1, 3), (0, 1))).tolist() == [[0, 1, 2]] * 4


def test_the_text_of_a_walk_is_empty_where_nothing_moved_and_tells_apart_what_did():
    rows = whole((2, 4, 6))
    sizes, at = (2, 4, 6), (0, 0, 0)
    assert text(rows, (0, 1, 2), sizes, at) == ""
    others = [
        text((rows[0], rows[2], rows[1]), (0, 1, 2), sizes, at),
        text((rows[0], rows[1] + rows[2]), (0, 1, 2), sizes, at),
        text((rows[0], rows[2] + rows[1]), (0, 1, 2), sizes, at),
        text((rows[0], rows[1]), (0, 1, 2), sizes, at),
        text((rows[0], rows[1]), (0, 1, 2), sizes, (0, 0, 1)),
        text((rows[0], (Dim(1, 2, 2), Dim(1, 1, 2)), rows[2]), (0, 1, 2), sizes, at),
        text((rows[0], (Dim(1, 1, 2),), rows[2]), (0, 1, 2), sizes, at),
        text((rows[0], (Dim(1, -1, 4),), rows[2]), (0, 1, 2), sizes, (0, 3, 0)),
    ]
    assert len({*others, ""}) == len(others) + 1
