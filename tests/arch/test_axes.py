"""Axis types: hand-solved unifications, and random systems of equations whose solutions must satisfy them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metanet.arch.axes import Axis, Factor, Segment, axis, factors_of, fixed, free, merge, renumber, resolve, unify
from metanet.arch.certificate import certify
from metanet.arch.symmetry import from_axes


def free_sizes(*axes: Axis) -> list[int]:
    return sorted(factor.size for factor in factors_of(axes) if not factor.fixed and factor.size > 1)


def concatenate(*axes: Axis) -> Axis:
    starts = np.cumsum([0, *(one.size for one in axes)])
    return Axis(
        tuple(
            Segment(segment.factors, segment.positions + start)
            for one, start in zip(axes, starts, strict=False)
            for segment in one.segments
        )
    )


def test_a_flattened_grid_keeps_its_channels_free():
    flat = free(12)
    unify(flat, merge([free(4), fixed(3)]))
    assert free_sizes(flat) == [4]


def test_an_axis_equal_to_a_fixed_one_is_fixed():
    one = free(5)
    unify(one, fixed(5))
    assert free_sizes(one) == []


def test_a_concatenation_splits_what_reads_it():
    whole, first, second = free(7), free(3), free(4)
    unify(whole, concatenate(first, second))
    assert free_sizes(whole) == [3, 4]
    unify(whole, concatenate(free(5), free(2)))
    assert free_sizes(whole, first, second) == [2, 2, 3]


def test_a_renumbered_axis_is_the_same_axis():
    one, other = free(6), free(6)
    unify(renumber(one, np.array([3, 1, 5, 0, 2, 4])), other)
    assert free_sizes(one, other) == [6]
    assert certify([(renumber(one, np.array([3, 1, 5, 0, 2, 4])), other)], [(one,), (other,)]) == 0


def test_an_axis_against_its_own_reversal_is_fixed():
    one = free(6)
    unify(one, renumber(one, np.arange(6)[::-1].copy()))
    assert free_sizes(one) == []


def test_two_ways_to_cut_an_axis_meet_in_the_finest():
    one, other = merge([free(6), free(4)]), merge([free(3), free(8)])
    unify(one, other)
    assert sorted(factor.size for factor in factors_of([one])) == [2, 3, 4]
    assert certify([(one, other)], [(one,), (other,)]) == 0


def test_identical_factors_in_another_order_are_solved():
    heads, dims = Factor(3), Factor(4)
    one = axis(heads, dims)
    to = np.arange(12).reshape(3, 4).T.reshape(-1).argsort()
    unify(renumber(one, to), axis(dims, heads))
    assert free_sizes(one) == [3, 4]


def test_resolving_lists_every_position_once():
    one = free(12)
    unify(one, merge([free(3), free(4)]))
    unify(one, concatenate(free(4), free(8)))
    positions = np.concatenate([segment.positions.reshape(-1) for segment in resolve(one).segments])
    assert sorted(positions.tolist()) == list(range(12))


def random_axis(draw, pool: list[Factor]) -> Axis:
    """12 positions: products and sums of the pool's factors, renumbered."""
    products = [[[12]], [[3, 4]], [[4, 3]], [[2, 6]], [[6, 2]], [[2, 2, 3]], [[3, 1, 4]]]
    sums = [[[4], [8]], [[2, 3], [6]], [[3, 2], [2, 3]], [[2], [2, 3], [4]]]

    def factor(size: int) -> Factor:
        known = [one for one in pool if one.size == size]
        fresh = Factor(size, fixed=draw(st.integers(0, 9)) == 0)
        chosen = draw(st.sampled_from([*known, fresh]))
        if chosen is fresh:
            pool.append(fresh)
        return chosen

    groups = draw(st.sampled_from(products + sums))
    built = concatenate(*(axis(*(factor(size) for size in group)) for group in groups))
    if draw(st.booleans()):
        built = renumber(built, np.array(draw(st.permutations(range(12)))))
    return built


@given(data=st.data(), count=st.integers(2, 5), seed=st.integers(0, 2**31))
def test_every_certified_solution_moves_both_sides_of_every_equation_alike(data, count, seed):
    pool: list[Factor] = []
    axes = [random_axis(data.draw, pool) for _ in range(count)]
    equations = [(axes[i], axes[data.draw(st.integers(0, count - 1))]) for i in range(count)]
    for left, right in equations:
        unify(left, right)
    certify(equations, [(one,) for one in axes])
    symmetry = from_axes({str(number): (one,) for number, one in enumerate(axes)})
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        moved = symmetry.sample(generator)({str(number): torch.arange(12) for number in range(count)})
        for left, right in equations:
            one, other = (next(i for i, a in enumerate(axes) if a is side) for side in (left, right))
            assert torch.equal(moved[str(one)], moved[str(other)])
        for tensor in moved.values():
            assert sorted(tensor.tolist()) == list(range(12))


@pytest.mark.parametrize("groups", [2, 3])
def test_a_factor_with_keys_has_a_permutation_per_key(groups):
    group = Factor(groups)
    one = axis(group, Factor(4, keys=[group]))
    symmetry = from_axes({"one": (one,)})
    expected = math.lgamma(groups + 1) + groups * math.lgamma(5)
    assert symmetry.log10_order == pytest.approx(expected / math.log(10))
