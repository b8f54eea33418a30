"""Every operator rule, found by being in metanet/arch/rules: sound, and not trivially so, on a net of its own."""

import functools
from collections import Counter
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.func import functional_call

from metanet.arch import rules
from metanet.arch.check import check_symmetry
from metanet.arch.template import Template
from metanet.arch.trace import trace


def _operators() -> list:
    """All operators; of those that have one rule the first three, the others are slow."""
    seen, found = Counter(), []
    for operator in sorted(rules.BY_OPERATOR):
        seen[rules.BY_OPERATOR[operator]] += 1
        late = seen[rules.BY_OPERATOR[operator]] > 3
        found.append(pytest.param(operator, marks=pytest.mark.slow) if late else operator)
    return found


every_operator = pytest.mark.parametrize("operator", _operators())


class Host(nn.Module):
    """A pointwise layer, the example of a rule, and a layer that reads all that the example returns."""

    def __init__(self, operator: str):
        super().__init__()
        (channels, *grid), make = rules.EXAMPLES[operator]
        torch.manual_seed(0)
        pointwise = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        self.stem = pointwise[len(grid) - 1](3, channels, 1) if grid else nn.Linear(3, channels)
        self.example = make()
        self.input = torch.randn(2, 3, *grid, dtype=torch.float64)
        with torch.no_grad():
            flat = self.example(self.stem(self.input.float())).flatten(1)
        self.head = nn.Linear(flat.shape[1], 2)

    def forward(self, x):
        return self.head(self.example(self.stem(x)).flatten(1))


def test_every_rule_has_an_example_and_no_operator_has_two_rules():
    assert rules.EXAMPLES.keys() == rules.BY_OPERATOR.keys()
    assert len(rules.BY_OPERATOR) == sum(len(module.RULES) for module in rules.MODULES)


@functools.cache
def traced(operator: str) -> tuple[Host, Template]:
    """The host of an operator in float64, and its template; fails if the example does not use the operator."""
    host, calls = Host(operator).double().eval(), []

    def counted(call):
        calls.append(call)
        return rule(call)

    rule = rules.BY_OPERATOR[operator]
    with patch.dict(rules.BY_OPERATOR, {operator: counted}):
        template = trace(host, host.input)
    assert calls, f"the example does not use {operator}"
    return host, template


@every_operator
def test_every_rule_is_sound_and_leaves_the_channels_free(operator):
    host, template = traced(operator)
    assert template.coverage() == 1
    factors = {factor for part in template.symmetry.axes["stem.weight"][0] for factor in part.factors}
    assert factors & template.symmetry.permutations.keys(), "the rule fixes the channels"
    assert check_symmetry(template, host, host.input) <= 1e-10


@every_operator
def test_every_operation_that_a_rule_writes_is_declared_with_its_attributes(operator):
    for space in traced(operator)[1].spaces:
        for operation in space.operations:
            assert tuple(operation.attributes) == rules.OPERATIONS[operation.kind]


@every_operator
def test_a_permutation_that_leaves_out_one_tensor_changes_the_function(operator):
    host, template = traced(operator)
    state, generator = host.state_dict(), torch.Generator().manual_seed(1)
    before = functional_call(host, state, host.input)
    for name in ("stem.weight", "head.weight"):
        samples = (template.symmetry.sample(generator)(state) for _ in range(20))
        moved = next(permuted for permuted in samples if not torch.equal(permuted[name], state[name]))
        after = functional_call(host, moved | {name: state[name]}, host.input)
        assert (after - before).abs().max() > 1e-6


@every_operator
def test_scalings_and_signs_keep_the_function_around_every_rule(operator):
    host, template = traced(operator)
    state = host.state_dict()
    before = functional_call(host, state, host.input)
    for name in ("scaling", "sign"):
        for seed in range(2):
            moved = template.actions[name].sample(torch.Generator().manual_seed(seed))(state)
            after = functional_call(host, moved, host.input)
            assert (after - before).abs().max() <= 1e-10 * before.abs().max(), name
