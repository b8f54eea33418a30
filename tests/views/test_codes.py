"""Typed codes: one set of columns for all templates, different for what differs, and nothing dropped in silence."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metanet.arch.template import Block, Operation, Space, Template
from metanet.arch.trace import trace
from metanet.views.codes import (
    BLOCK_CODES,
    BLOCK_COLUMNS,
    OPERATIONS,
    POSITION_CODES,
    SPACE_CODES,
    SPACE_COLUMNS,
    block_codes,
    fixed_positions,
    space_codes,
)

SIMPLE = [kind for kind, attributes in OPERATIONS.items() if not attributes]


def template() -> Template:
    net = nn.Sequential(nn.Conv1d(2, 4, 5, stride=2, padding=1), nn.ELU(), nn.Flatten(), nn.Linear(16, 3))
    return trace(net, torch.randn(1, 2, 9))


TEMPLATE = template()


def with_space(space: Space, number: int = 1) -> Template:
    return replace(TEMPLATE, spaces=(*TEMPLATE.spaces[:number], space, *TEMPLATE.spaces[number + 1 :]))


def with_operations(*operations: Operation) -> Template:
    return with_space(replace(TEMPLATE.spaces[1], operations=operations))


def with_block(**changes) -> Template:
    return replace(TEMPLATE, blocks=(replace(TEMPLATE.blocks[0], **changes), *TEMPLATE.blocks[1:]))


def columns(names: tuple[str, ...], row: torch.Tensor) -> dict[str, float]:
    return {name: value for name, value in zip(names, row.tolist(), strict=True) if value}


def test_columns_have_unique_names():
    assert len(set(SPACE_COLUMNS)) == SPACE_CODES == space_codes(TEMPLATE).shape[1]
    assert len(set(BLOCK_COLUMNS)) == BLOCK_CODES == block_codes(TEMPLATE).shape[1]


def test_codes_say_what_the_template_says():
    space = columns(SPACE_COLUMNS, space_codes(TEMPLATE)[1])
    expected = {"role.hidden": 1.0, "log2_size": 2.0, "relative_depth": 0.5, "has.bias": 1.0, "does.elu": 1.0}
    assert expected.items() <= space.items()
    assert (space["order.bias"], space["order.elu"], space["elu.alpha"]) == (0.5, 0.25, 1.0)
    block = columns(BLOCK_COLUMNS, block_codes(TEMPLATE)[0])
    assert (block["kernel_height"], block["stride_width"], block["padding_left"]) == (
        1.0,
        pytest.approx(1.585, abs=1e-3),
        1.0,
    )
    assert "padding_top" not in block
    assert block["from_input"] == block["tap_axes"] == block["kind.conv"] == 1.0


@given(pair=st.lists(st.lists(st.sampled_from(SIMPLE), max_size=24), min_size=2, max_size=2))
def test_different_sequences_of_operations_have_different_codes(pair):
    codes = [space_codes(with_operations(*map(Operation, kinds)))[1] for kinds in pair]
    assert torch.equal(*codes) == (pair[0] == pair[1])


def test_hidden_operations_leave_only_their_place():
    shown = [with_operations(Operation("bias"), Operation(kind)) for kind in ("relu", "tanh")]
    hidden = [space_codes(one.hide({"relu", "tanh"})) for one in shown]
    assert torch.equal(*hidden)
    assert not torch.equal(*(space_codes(one) for one in shown))
    assert columns(SPACE_COLUMNS, hidden[0][1])["order.hidden"] == 0.25


def test_positions_of_fixed_nodes_differ_and_exchangeable_ones_have_none():
    wide = with_space(replace(TEMPLATE.spaces[2], size=1000, vectors={}), 2)
    inputs, hidden, outputs = fixed_positions(wide)
    assert len(outputs.unique(dim=0)) == 1000
    assert set(outputs.flatten().tolist()) == {-1.0, 1.0}
    assert inputs.shape == (2, POSITION_CODES)
    assert not hidden.any()


def test_kernels_that_differ_in_one_number_have_different_codes():
    kernels = [(1, 3), (3, 1), (3, 3), (4, 4)]
    numbers = [
        {"stride": s, "padding": p, "dilation": d}
        for s in ((1, 1), (2, 1))
        for p in ((0, 1, 0, 0), (0, 0, 0, 1))
        for d in ((1, 1), (1, 2))
    ]
    rows = []
    for kernel, attributes in itertools.product(kernels, numbers):
        block = Block("0.weight", 0, 1, "conv", TEMPLATE.blocks[0].shape, kernel, "", attributes=attributes)
        rows.append(block_codes(replace(TEMPLATE, blocks=(block, *TEMPLATE.blocks[1:])))[0])
    assert len(torch.stack(rows).unique(dim=0)) == len(rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (with_operations(Operation("swish9")), r"space '0', operation 'swish9': no code for this kind; known: bias"),
        (with_operations(Operation("relu", {"cap": 6})), r"found attributes cap, expected none"),
        (with_operations(Operation("batch_norm")), r"found attributes none, expected eps"),
        (with_operations(Operation("batch_norm", {"eps": "small"})), r"no code for eps = 'small'"),
        (with_operations(Operation("adaptive_avg_pool", {"output": (None, 1)})), r"no code for output = \(None, 1\)"),
        (with_operations(Operation("gelu", {"approximate": "erf"})), r"no code for approximate = 'erf'"),
        (with_operations(*(Operation("mul", {"value": v}) for v in (2, 3))), r"occurs twice .* different attributes"),
        (with_operations(*[Operation("relu")] * 25), r"25 operations, expected at most 24"),
        (with_space(replace(TEMPLATE.spaces[1], role="middle")), r"no code column for role\.middle"),
        (with_block(kind="embedding"), r"block '0\.weight': no code for kind 'embedding'"),
        (with_block(attributes={"transposed": True}), r"block '0\.weight': no code for attribute transposed"),
        (with_block(taps=(1, 1, 1, 5)), r"block '0\.weight': taps \(1, 1, 1, 5\) have 4 axes, expected at most 3"),
    ],
)
def test_what_has_no_code_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        [codes(wrong) for codes in (space_codes, block_codes)]


def test_too_many_fixed_nodes_are_refused():
    wrong = with_space(replace(TEMPLATE.spaces[2], size=1_100_000, vectors={}), 2)
    with pytest.raises(ValueError, match=r"a space of 1,100,000 fixed nodes; this code holds at most 1,048,576"):
        fixed_positions(wrong)
