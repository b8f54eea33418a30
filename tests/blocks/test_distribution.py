import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metanet.arch.template import VECTOR_ROLES
from metanet.blocks.distribution import (
    BLOCK_FEATURES,
    QUANTILES,
    UNIT_FEATURES,
    block_distribution,
    quantiles,
    root_mean_square,
    signed_log,
    unit_distribution,
)


def weights(seed: int, nets: int = 2, out: int = 5, inputs: int = 4, taps: int = 3) -> torch.Tensor:
    return torch.randn(nets, out, inputs, taps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(seed: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(2, size, len(VECTOR_ROLES), generator=generator, dtype=torch.float64)
    incoming, outgoing = torch.rand(2, 2, size, generator=generator, dtype=torch.float64)
    return nodes, incoming, outgoing


@given(seed=st.integers(0, 2**31), out=st.integers(1, 5), inputs=st.integers(1, 5), taps=st.integers(1, 9))
def test_block_features_ignore_the_order_of_outputs_and_inputs(seed, out, inputs, taps):
    w = weights(seed, 2, out, inputs, taps)
    shuffled = w[:, torch.randperm(out)][:, :, torch.randperm(inputs)]
    features = block_distribution(w)
    assert features.shape == (2, BLOCK_FEATURES)
    assert features.isfinite().all()
    torch.testing.assert_close(block_distribution(shuffled), features, rtol=1e-9, atol=1e-9)


def test_block_features_notice_a_moved_tap_a_sign_and_a_scale():
    w = weights(0)
    for other in (w[..., [1, 0, 2]], -w, 2 * w):
        assert (block_distribution(other) - block_distribution(w)).abs().max() > 1e-3


def test_equal_rows_are_fully_alike_and_orthogonal_rows_are_not():
    constant, orthogonal = torch.full((1, 4, 4, 1), 0.1), torch.eye(4).view(1, 4, 4, 1)
    difference = (block_distribution(constant) - block_distribution(orthogonal)).abs()
    assert difference.max() > 0.9
    assert block_distribution(torch.zeros(1, 4, 4, 1)).isfinite().all()


@pytest.mark.parametrize("value", [-3.0, 0.0, 1e-30, 1e30])
def test_equal_values_of_any_sign_and_size_have_finite_features(value):
    assert block_distribution(torch.full((1, 4, 3, 1), value)).isfinite().all()
    nodes = torch.full((1, 4, len(VECTOR_ROLES)), value)
    assert unit_distribution(nodes, nodes[..., 0].abs(), nodes[..., 0].abs()).isfinite().all()


@given(seed=st.integers(0, 2**31), size=st.integers(1, 8))
def test_unit_features_ignore_the_order_of_units(seed, size):
    nodes, incoming, outgoing = units(seed, size)
    order = torch.randperm(size)
    features = unit_distribution(nodes, incoming, outgoing)
    assert features.shape == (2, UNIT_FEATURES)
    again = unit_distribution(nodes[:, order], incoming[:, order], outgoing[:, order])
    torch.testing.assert_close(again, features, rtol=1e-9, atol=1e-9)


def test_unit_features_notice_which_unit_has_which_bias_and_weights():
    nodes, incoming, outgoing = units(0)
    features = unit_distribution(nodes, incoming, outgoing)
    assert (unit_distribution(nodes.roll(1, 1), incoming, outgoing) - features).abs().max() > 1e-3
    assert (unit_distribution(nodes, incoming, outgoing.roll(1, 1)) - features).abs().max() > 1e-3


def test_a_net_alone_has_the_features_that_it_has_in_a_stack():
    w = weights(1, nets=6)
    torch.testing.assert_close(block_distribution(w)[3:4], block_distribution(w[3:4]), rtol=1e-12, atol=1e-12)


def test_sizes_and_quantiles_equal_numpys():
    w = weights(2)
    np.testing.assert_allclose(root_mean_square(w), np.sqrt((w.numpy() ** 2).mean((1, 2, 3))))
    x = torch.randn(3, 41, dtype=torch.float64)
    np.testing.assert_allclose(quantiles(x), np.quantile(x, QUANTILES, axis=1, method="nearest").T)


@pytest.mark.parametrize("x", [-3.0, -1e-5, 0.0, 1e-5, 3.0])
def test_signed_log_is_odd_and_monotone(x):
    value = torch.tensor(x, dtype=torch.float64)
    assert signed_log(-value) == -signed_log(value)
    assert signed_log(value + 1e-6) > signed_log(value)
