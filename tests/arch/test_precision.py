"""Checks in float64 are in float64 all the way, whatever a net casts to inside."""

import pytest
import torch
from torch import nn

from metanet.arch.check import check_symmetry
from metanet.arch.precision import Double
from metanet.arch.trace import trace


class Casting(nn.Module):
    """A norm in float32, a code of positions in the default precision, and a table that is no buffer."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.table = torch.randn(6)

    def forward(self, x):
        x = self.stem(x).float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6).to(torch.float32)
        places = torch.arange(5, dtype=torch.float32)[:, None] / 3
        return self.head(x.tanh().to(self.head.weight.dtype) + places) * self.table.sum()


TOKENS = torch.zeros(2, 5, 3)


def test_a_net_that_casts_is_checked_in_float64():
    net, tokens = Casting().float(), TOKENS.float()
    net.table = net.table.float()
    with torch.no_grad():
        assert net(tokens).dtype == torch.float32
    template = trace(net, tokens)
    assert template.symmetry.permutations
    assert check_symmetry(template, net, tokens) <= 1e-14


def test_without_it_casts_to_float32_count():
    torch.manual_seed(0)
    net = Casting().double()
    x = torch.randn(50, 5, 3, dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 5, 2])
    state = dict(net.state_dict())
    permuted = state | {
        "stem.weight": state["stem.weight"][order],
        "stem.bias": state["stem.bias"][order],
        "head.weight": state["head.weight"][:, order],
    }

    def error() -> float:
        return (torch.func.functional_call(net, permuted, x) - net(x)).abs().max().item()

    with torch.no_grad():
        assert error() > 1e-10
    with torch.no_grad(), Double():
        assert error() <= 1e-13


def test_the_default_precision_comes_back():
    before = torch.get_default_dtype()
    with pytest.raises(KeyError), Double():
        raise KeyError
    assert torch.get_default_dtype() == before
