import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import metanet
from metanet.views.tokens import tokens

NET = nn.Sequential(
    nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 2)
)
TEMPLATE = metanet.trace(NET, torch.randn(2, 1, 4, 4))


def stacked(nets: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(nets, *shape) for name, shape in TEMPLATE.shapes.items()}


def test_a_token_is_a_channel_with_its_weights_bias_and_norm_vectors():
    params = stacked(2)
    cut = tokens(TEMPLATE, params, size=16)
    assert cut.values.shape == (2, 2 + 3 + 2, 16)
    vectors = ("0.bias", "1.bias", "1.weight", "1.running_mean", "1.running_var")
    channel = torch.cat([params["0.weight"][1, 1].flatten(), *(params[name][1, 1, None] for name in vectors)])
    assert torch.equal(cut.values[1, 1], torch.cat([channel, torch.zeros(16 - 14)]))
    assert cut.real[1].sum() == 14
    assert torch.equal(cut.positions[:, 1], torch.tensor([0, 0, 1, 1, 1, 2, 2]))
    assert torch.equal(cut.positions[:, 2], torch.tensor([0, 1, 0, 1, 2, 0, 1]))


@given(size=st.integers(1, 20))
def test_every_number_is_in_one_token_whatever_its_size_and_padding_is_zero(size):
    params = stacked(2)
    cut = tokens(TEMPLATE, params, size)
    everything = torch.cat([tensor.flatten(1) for tensor in params.values()], 1)
    assert torch.equal(cut.values[:, cut.real].sort(1).values, everything.sort(1).values)
    assert not cut.values[:, ~cut.real].any()
    assert cut.real[:, 0].all()
    assert torch.equal(cut.positions[:, 0], torch.arange(cut.values.shape[1]))


@pytest.mark.parametrize("size", [3, 16])
def test_permuted_hidden_units_are_permuted_tokens_of_their_layer(size):
    params = stacked(1)
    permute = TEMPLATE.symmetry.sample(torch.Generator().manual_seed(3), nets=1)
    before, after = (tokens(TEMPLATE, p, size) for p in (params, permute(params)))
    first = before.positions[:, 1] == 0  # its inputs are fixed, so each token moves as it is
    rows_before, rows_after = (sorted(cut.values[0, first].tolist()) for cut in (before, after))
    assert rows_before == rows_after
