"""Template: JSON, hiding, sizes and validation."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from metanet.arch.template import Link, Operation, Template
from metanet.arch.trace import trace


class Net(nn.Module):
    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6), activation()
        self.conv, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Linear(6 * 4, 2)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        return self.head(nn.functional.max_pool2d(x + self.conv(x), 4).flatten(1))


def traced(activation: type[nn.Module] = nn.ReLU) -> Template:
    return trace(Net(activation), torch.zeros(2, 3, 8, 8))


def test_json_gives_back_an_equal_template_with_its_symmetry():
    template = traced()
    again = Template.from_json(template.to_json())
    assert again == template
    assert again.to_json() == template.to_json()
    state = Net().state_dict()
    one, other = (t.symmetry.sample(torch.Generator().manual_seed(0))(state) for t in (template, again))
    assert all(torch.equal(one[name], other[name]) for name in state)


@pytest.mark.parametrize("text", ["{", "[]", '{"spaces": []}', "3"])
def test_what_is_no_template_is_refused(text):
    with pytest.raises(ValueError, match="not a template in JSON"):
        Template.from_json(text)


def test_hidden_kinds_cannot_be_told_apart():
    relu, elu = traced(), traced(nn.ELU)
    assert relu != elu
    assert relu.hide(["relu", "elu"]) == elu.hide({"elu", "relu"})
    assert Operation("hidden") in relu.hide(["relu"]).spaces[1].operations
    assert relu.hide(["tanh"]) == relu


def test_sizes_count_what_the_state_dict_holds():
    template, state = traced(), Net().state_dict()
    assert template.num_params == sum(value.numel() for value in state.values() if value.ndim)
    assert template.shapes == {name: tuple(value.shape) for name, value in state.items() if value.ndim}
    assert template.coverage() == 1


def test_coverage_tells_which_share_the_blocks_and_spaces_carry():
    template = traced()
    partial = dataclasses.replace(template, blocks=template.blocks[:-1])
    missing = math.prod(template.shapes["head.weight"])
    assert partial.coverage() == pytest.approx(1 - missing / template.num_params)


def replaced(template: Template, field: str, place: int, **changes) -> Template:
    items = list(getattr(template, field))
    items[place] = dataclasses.replace(items[place], **changes)
    return dataclasses.replace(template, **{field: tuple(items)})


@pytest.mark.parametrize(
    ("field", "changes", "message"),
    [
        ("blocks", {"source": 9}, "expected source < target < 5 spaces"),
        ("blocks", {"shape": (6, 3, 8)}, "block 'stem.weight': .* does not fit"),
        ("blocks", {"name": "other"}, "'other' is not among the template's entries"),
        ("spaces", {"vectors": {"bias": "head.bias"}}, "space 'input': its bias 'head.bias' has shape"),
        ("spaces", {"vectors": {"gain": "head.bias"}}, "space 'input'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(field, changes, message):
    with pytest.raises(ValueError, match=message):
        replaced(traced(), field, 0, **changes)


def test_a_link_backwards_is_refused():
    with pytest.raises(ValueError, match="expected source < target"):
        dataclasses.replace(traced(), links=(Link("add", 2, 1),))
