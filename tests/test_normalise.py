import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

import metanet
from metanet.dataset import Nets
from metanet.normalise import Rank, Standardise, StandardiseParts


@given(
    values=arrays(np.float64, (12, 3), elements=st.floats(-100, 100)),
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=4).map(sorted),
)
def test_statistics_do_not_depend_on_how_the_training_nets_are_batched(values, cuts):
    standardise = Standardise(3).double()
    for part in np.split(values, cuts):
        standardise.update(torch.from_numpy(part).view(-1, 3))
    assert int(standardise.count) == 12
    np.testing.assert_allclose(standardise.mean.numpy(), values.mean(0), atol=1e-10)
    np.testing.assert_allclose(standardise.variance.numpy(), values.var(0), atol=1e-8)


def test_standardised_training_values_have_mean_zero_and_variance_one():
    x = torch.randn(4, 50, 2) * torch.tensor([3.0, 0.01]) + torch.tensor([100.0, -1.0])
    standardise = Standardise(2)
    standardise.update(x)
    torch.testing.assert_close(standardise(x).mean((0, 1)), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(standardise(x).var((0, 1), correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_masked_entries_count_for_nothing():
    x, mask = torch.randn(5, 7, 2), torch.rand(5, 7) < 0.5
    masked, selected = Standardise(2), Standardise(2)
    masked.update(torch.where(mask.unsqueeze(-1), x, torch.nan), mask)
    selected.update(x[mask])
    torch.testing.assert_close(masked.state_dict(), selected.state_dict())


def test_it_is_the_identity_until_fitted_and_leaves_constant_features_unscaled():
    x = torch.randn(6, 2)
    standardise = Standardise(2)
    torch.testing.assert_close(standardise(x), x)
    standardise.update(torch.full((9, 2), 0.1))
    torch.testing.assert_close(standardise(x), x - 0.1)


def test_a_nan_in_a_training_net_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"NaN or infinite values.*status"):
        Standardise(1).update(torch.tensor([[1.0], [torch.nan]]))


@given(seed=st.integers(0, 2**31))
def test_rank_equals_scipys_share_of_smaller_training_values(seed):
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(seed)).double().exp()
    rank = Rank(3).double()
    rank.fit(x)
    expected = 2 * (scipy.stats.rankdata(x, axis=0) - 1) / 1999 - 1
    assert np.abs(rank(x).numpy() - expected).max() < 0.05
    assert rank(x.new_full((1, 3), 1e30)).eq(1).all()
    assert rank(x.new_full((1, 3), -1e30)).eq(-1).all()


def test_rounding_does_not_move_a_rank_across_tied_training_values():
    rank = Rank(1).double()
    rank.fit(torch.cat([torch.zeros(500, 1), torch.ones(500, 1)]).double())
    value = torch.tensor([[1.0]], dtype=torch.float64)
    assert (rank(value + 1e-15) - rank(value - 1e-15)).abs() < 1e-9
    assert rank(value) > rank(value - 0.5)


TEMPLATE = metanet.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))


def nets(count: int, size: float) -> Nets:
    params = {name: size * torch.randn(count, *shape) for name, shape in TEMPLATE.shapes.items()}
    return Nets("mlp", TEMPLATE, params, torch.arange(count))


def test_one_net_about_to_diverge_does_not_flatten_all_others():
    standardise, usual = StandardiseParts([TEMPLATE]), nets(50, 0.1)
    standardise.update(usual)
    standardise.update(nets(1, 1e8))
    spread = {name: float(tensor.std()) for name, tensor in standardise(usual).items()}
    assert set(spread) == set(TEMPLATE.shapes)
    assert min(spread.values()) > 0.1


def test_weights_of_every_size_keep_their_order():
    standardise = StandardiseParts([TEMPLATE])
    standardise.update(nets(50, 1.0))
    group = nets(3, 10.0)
    for name, tensor in standardise(group).items():
        assert torch.equal(tensor.flatten().argsort(), group.params[name].flatten().argsort())
