"""The collision suite for attention: the same weights, another use of them, another graph."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metanet
from metanet.views.isomorphism import canonical_hash

SEQUENCE = (2, 5, 3)
Head = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries, keys and values [batch, tokens, 8] -> the same


class Attention(nn.Module):
    """Projections to queries, keys and values of width 8, and a function that mixes them."""

    def __init__(self, mix: Head, roles: tuple[int, ...] = (0, 1, 2)):
        super().__init__()
        self.mix, self.roles = mix, roles
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 3)
        self.projections = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = (self.projections[role](x) for role in self.roles)
        return self.last(self.mix(q, k, v))


def heads(count: int, is_causal: bool = False, scale: float | None = None) -> Head:
    def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (one.unflatten(-1, (count, -1)).transpose(1, 2) for one in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale).transpose(1, 2).flatten(2)

    return mix


def heads_inside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two heads of which every other channel is the first's."""
    q, k, v = (one.unflatten(-1, (-1, 2)).permute(0, 3, 1, 2) for one in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).permute(0, 2, 3, 1).flatten(2)


PAIRS = {
    "number of heads": [Attention(heads(count)) for count in (1, 2, 4, 8)],
    "which projection is which": [Attention(heads(2), roles) for roles in itertools.permutations(range(3))],
    "a mask": [Attention(heads(2)), Attention(heads(2, is_causal=True))],
    "a scale": [Attention(heads(2)), Attention(heads(2, scale=1.0))],
    "where heads lie": [Attention(heads(2)), Attention(heads_inside)],
    "a residual": [Attention(lambda q, k, v, mix=mix: mix(q, k, v) + v) for mix in (heads(2), heads(1))],
}


@pytest.mark.parametrize("difference", PAIRS)
def test_different_uses_of_the_same_projections_have_different_graphs(difference):
    nets = PAIRS[difference]
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(value.shape, generator=generator) / 2 for name, value in nets[0].state_dict().items()}
    sequence = torch.randn(SEQUENCE, generator=generator)
    hashes, outputs = [], []
    for net in nets:
        net.load_state_dict(state)
        hashes.append(canonical_hash(metanet.trace(net, torch.zeros(SEQUENCE)).graph(state)))
        outputs.append(net(sequence).detach())
    for one, other in itertools.combinations(range(len(nets)), 2):
        assert (outputs[one] - outputs[other]).abs().max() > 1e-3
        assert hashes[one] != hashes[other], (one, other)
