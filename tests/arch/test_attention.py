"""Attention in every form in which it is written: sound, lossless, and with the group that is counted by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace
from metanet.views.graph import blocked, graph_of, state_dict_of
from metanet.views.sequence import sequence
from metanet.views.statistics import statistics
from metanet.views.tokens import tokens

WIDTH, HEADS, TOKENS = 12, 3, torch.zeros(2, 6, 5)
EACH = WIDTH // HEADS


def log10_factorials(*sizes: int) -> float:
    return sum(math.lgamma(size + 1) for size in sizes) / math.log(10)


# H! (d!)^H for queries and keys, and another (d!)^H for values and outputs
ONE = log10_factorials(HEADS, *[EACH] * HEADS, *[EACH] * HEADS)
STREAM = log10_factorials(WIDTH)


class Hand(nn.Module):
    """Self-attention by hand beside a residual stream."""

    def __init__(self, heads: int = HEADS, causal: bool = False, fused: bool = False, swapped: bool = False):
        super().__init__()
        self.heads, self.causal, self.fused, self.swapped = heads, causal, fused, swapped
        self.stem, self.head, self.out = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2), nn.Linear(WIDTH, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        q, k = (k, q) if self.swapped else (q, k)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            mixed = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2)))


class Grouped(nn.Module):
    """Four heads of queries, two of keys and values."""

    def __init__(self):
        super().__init__()
        self.stem, self.query, self.out, self.head = (
            nn.Linear(5, 12),
            nn.Linear(12, 12),
            nn.Linear(12, 12),
            nn.Linear(12, 2),
        )
        self.key, self.value = nn.Linear(12, 6), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = (layer(x).unflatten(-1, (-1, 3)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        k, v = k.repeat_interleave(2, 1), v[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


class Fused(nn.Module):
    """nn.MultiheadAttention on one or two streams."""

    def __init__(self, streams: int, weights: bool = False):
        super().__init__()
        self.stems, self.head = nn.ModuleList(nn.Linear(5, WIDTH) for _ in range(streams)), nn.Linear(WIDTH, 2)
        self.attention, self.weights = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), weights

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        streams = [stem(x) for stem in self.stems]
        y, weights = self.attention(streams[0], streams[-1], streams[-1], need_weights=self.weights)
        return (self.head(y), weights) if self.weights else self.head(y)


class Encoder(nn.Module):
    def __init__(self, first: bool):
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=first)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x)).mean(1))


class Vision(nn.Module):
    """A small vision transformer: patches, class token, positions."""

    def __init__(self):
        super().__init__()
        self.patches, self.layer = (
            nn.Conv2d(1, WIDTH, 4, 4),
            nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True),
        )
        self.token, self.places = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 5, WIDTH))
        self.gain, self.head = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.gain * self.layer(x)[:, 0])


IMAGES = torch.zeros(2, 1, 8, 8)
NETS = {
    "hand": (Hand(), TOKENS, STREAM + ONE),
    "fused": (Hand(fused=True, causal=True), TOKENS, STREAM + ONE),
    "grouped": (Grouped(), TOKENS, STREAM + log10_factorials(2, 2, 2, *[3] * 4)),
    "multihead": (Fused(1), TOKENS, 2 * STREAM + ONE),
    "weights": (Fused(1, weights=True), TOKENS, 2 * STREAM + ONE),
    "cross": (Fused(2), TOKENS, 2 * STREAM + ONE),
    "encoder": (Encoder(first=False), TOKENS, STREAM + ONE + log10_factorials(16)),
    "pre-norm encoder": (Encoder(first=True), TOKENS, STREAM + ONE + log10_factorials(16)),
    "vision": (Vision(), IMAGES, STREAM + ONE + log10_factorials(16)),
}


@pytest.mark.parametrize("name", NETS)
def test_the_group_of_attention_is_as_large_as_by_hand_and_sound(name):
    net, x, order = NETS[name]
    template = trace(net, x)
    assert template.coverage() == 1
    assert template.symmetry.log10_order == pytest.approx(order)
    assert check_symmetry(template, net, x) <= 1e-10


@pytest.mark.parametrize("name", NETS)
def test_every_view_takes_a_template_with_attention(name):
    net, x, _ = NETS[name]
    template, state = trace(net, x), net.state_dict()
    rebuilt = state_dict_of(template, graph_of(template, state))
    assert all(torch.equal(rebuilt[entry], state[entry]) for entry in state)
    params = {entry: value.unsqueeze(0) for entry, value in state.items()}
    assert tokens(template, params, 32).values.isfinite().all()
    assert sequence(template, params).shape[1] == template.num_params
    assert statistics(template, params).shape[0] == 1
    assert all(
        edges.shape[1:] == block.shape
        for edges, block in zip(blocked(template, params).edges, template.blocks, strict=True)
    )


def test_heads_that_are_permuted_without_their_values_change_the_function():
    net = Hand().double()
    state, x = net.state_dict(), torch.randn(2, 6, 5, dtype=torch.float64)
    symmetry = trace(net, x).symmetry
    heads = next(f for f, one in symmetry.permutations.items() if one.size == HEADS)
    moved = symmetry.apply({heads: torch.tensor([1, 2, 0])}, state)
    before = net(x)
    torch.testing.assert_close(functional_call(net, moved, x), before)
    for name in ("query.weight", "key.weight", "value.weight", "out.weight"):
        assert (functional_call(net, moved | {name: state[name]}, x) - before).abs().max() > 1e-6


def test_what_the_weights_of_attention_do_not_show_is_in_the_graph():
    state = Hand().state_dict()
    graphs = [
        graph_of(trace(net, TOKENS), state).widened()
        for net in (Hand(), Hand(heads=2), Hand(swapped=True), Hand(fused=True), Hand(fused=True, causal=True))
    ]
    fields = ("x", "edge_index", "edge_attr")
    for number, one in enumerate(graphs):
        for other in graphs[:number]:
            assert any(one[f].shape != other[f].shape or not torch.equal(one[f], other[f]) for f in fields)


def test_queries_meet_keys_channel_by_channel():
    """Permuting the queries' channels alone changes the function, so it must change the graph up to isomorphism."""
    template = trace(Hand(), TOKENS)
    products = [link for link in template.links if link.kind in ("matmul", "matmul_right")][:2]
    assert products[0].target == products[1].target
    assert template.spaces[products[0].target].size == WIDTH
    sums = next(link for link in template.links if link.kind == "sum")
    assert sums.source == products[0].target
    assert sums.targets == tuple(node // EACH for node in range(WIDTH))
