"""The independent checker: it passes what holds, and shrinks what does not until it holds."""

import numpy as np

from metanet.arch.axes import Axis, Factor, Segment, axis, fixed, free, renumber
from metanet.arch.certificate import certify, mismatch, prune_keys


def test_an_equation_that_nobody_solved_fixes_both_sides():
    one, other = Factor(4), Factor(4)
    assert certify([(axis(one), axis(other))], []) == 2
    assert one.fixed
    assert other.fixed


def test_a_wrong_renumbering_is_caught():
    factor = Factor(4)
    assert certify([(axis(factor), renumber(axis(factor), np.array([1, 0, 2, 3])))], []) == 1
    assert factor.fixed


def test_a_free_axis_beside_a_fixed_one_is_caught():
    factor = Factor(3)
    assert mismatch(axis(factor), fixed(3)) == [factor]


def test_products_in_another_order_hold_when_their_positions_say_so():
    first, second = Factor(3), Factor(4)
    transposed = renumber(axis(second, first), np.arange(12).reshape(3, 4).T.reshape(-1))
    assert certify([(axis(first, second), transposed)], []) == 0
    assert mismatch(axis(first, second), axis(second, first)) != []


def test_the_fixed_part_of_a_position_is_compared_too():
    channel, grid = Factor(3), Factor(4, fixed=True)
    positions = np.arange(12).reshape(3, 4)
    turned = Axis((Segment((channel, Factor(4, fixed=True)), positions[:, [1, 0, 3, 2]]),))
    assert certify([(axis(channel, grid), turned)], []) == 0  # another numbering of what never moves
    crossed = positions.copy()
    crossed[1] = crossed[1, [1, 0, 2, 3]]
    assert mismatch(axis(channel, grid), Axis((Segment((channel, grid), crossed),))) == [channel, channel]


def test_one_factor_twice_in_a_product_must_keep_its_order():
    factor = Factor(3)
    swapped = renumber(axis(factor, factor), np.arange(9).reshape(3, 3).T.reshape(-1))
    assert certify([(axis(factor, factor), axis(factor, factor))], []) == 0
    assert certify([(axis(factor, factor), swapped)], []) == 1


def test_a_key_that_a_scope_does_not_hold_is_dropped():
    group = Factor(2)
    member = Factor(3, keys=[group])
    prune_keys([(axis(group), axis(member))])
    assert member.keys == [group]
    prune_keys([(axis(group), axis(member)), (axis(member),)])
    assert member.keys == []


def test_a_key_that_a_scope_holds_twice_or_only_in_places_is_dropped():
    group, member = Factor(2), Factor(3)
    member.keys = [group]
    prune_keys([(axis(group), axis(group), axis(member))])
    assert member.keys == []
    member.keys = [group]
    mixed = Axis((Segment((group,), np.arange(2)), Segment((Factor(1),), np.array([2]))))
    prune_keys([(mixed, axis(member))])
    assert member.keys == []


def test_keys_that_form_a_cycle_are_broken_at_the_outer_factor():
    outer, inner = Factor(2), Factor(3)
    outer.keys, inner.keys = [inner], [outer]
    prune_keys([(axis(outer, inner),)])
    assert (outer.keys, inner.keys) == ([], [outer])


def test_different_keys_on_the_two_sides_of_an_equation_are_caught():
    left, right, member = Factor(2), Factor(2), Factor(3)
    member.keys = [left]
    assert member in mismatch(axis(left, member), axis(right, member))


def test_factors_of_size_one_matter_to_nobody():
    factor = Factor(3)
    assert certify([(axis(factor, Factor(1)), axis(Factor(1), factor))], []) == 0
    assert certify([(free(1), fixed(1))], []) == 0
