"""The worked example of docs/add-a-layer.md is what a newcomer copies: it must be a rule that works."""

import re
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn

from metanet.arch import rules
from metanet.arch.check import check_symmetry
from metanet.arch.trace import UnsupportedOperator, trace

DOCUMENT = (Path(__file__).parents[2] / "docs/add-a-layer.md").read_text()


class Polynomial(nn.Module):
    def forward(self, x):
        return torch.special.chebyshev_polynomial_t(x, 3)


NET = nn.Sequential(nn.Conv1d(3, 4, 1), Polynomial(), nn.Conv1d(4, 2, 1))
INPUT = torch.zeros(2, 3, 5)


def example() -> dict:
    source = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0]
    names: dict = {}
    exec(source, names)
    return names


def test_the_documented_rule_makes_a_refused_operator_traceable():
    with pytest.raises(UnsupportedOperator, match=r"aten.special_chebyshev_polynomial_t in module '1' .*: no rule"):
        trace(NET, INPUT)
    with patch.dict(rules.BY_OPERATOR, example()["RULES"]):
        template = trace(NET, INPUT)
        assert check_symmetry(template, NET, INPUT) <= 1e-10
    assert template.symmetry.permutations
    operation = template.spaces[1].operations[-1]
    assert example()["OPERATIONS"] == {operation.kind: tuple(operation.attributes)}


def test_every_verb_of_the_document_exists():
    from metanet.arch.call import Call

    verbs = set(re.findall(r"`call\.(\w+)", DOCUMENT))
    assert verbs <= set(dir(Call))
    public = {name for name, value in vars(Call).items() if callable(value) and not name.startswith("_")}
    assert public == verbs & public
