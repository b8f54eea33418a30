import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

import metanet
from metanet.dataset import Nets
from metanet.normalise import Magnitudes, Standardise, StandardiseParts


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


@given(seed=st.integers(0, 2**31), places=st.lists(st.integers(0, 199), max_size=50))
def test_magnitudes_are_standardised_over_the_values_that_are_there(seed, places):
    x = 10 ** torch.randn(200, 3, generator=torch.Generator().manual_seed(seed)).double()
    x[places, 1] = torch.nan
    magnitudes = Magnitudes(3).double()
    magnitudes.fit(x)
    read = magnitudes(x).numpy()
    signed = np.log1p(1e3 * x.numpy()) / 6.9
    plain = np.log10(1 + x.numpy() / 1e-8)
    expected = np.concatenate([plain, signed], 1)
    expected = (expected - np.nanmean(expected, 0)) / np.nanstd(expected, 0)
    np.testing.assert_allclose(read, np.nan_to_num(np.clip(expected, -6, 6)), atol=1e-6)


def test_magnitudes_tell_rounding_noise_from_what_is_only_small():
    x = torch.tensor([[1e-9], [-1e-9], [1e-5], [-1e-5], [1.0], [-1.0]])
    magnitudes = Magnitudes(1)
    magnitudes.fit(x)
    size, signed = magnitudes(x).unbind(1)
    assert size[0] == size[1]
    assert size[2] - size[0] > 0.5
    assert (signed[2] - signed[0]).abs() < 0.1
    assert signed[4] - signed[5] > 1


def test_magnitudes_leave_a_constant_or_missing_column_unscaled():
    magnitudes = Magnitudes(2)
    magnitudes.fit(torch.tensor([[3.0, torch.nan], [3.0, torch.nan]]))
    assert magnitudes(torch.tensor([[3.0, 5.0]])).abs()[0, [0, 2]].max() < 1e-6
    assert magnitudes(torch.tensor([[torch.nan, torch.nan]])).eq(0).all()
    assert magnitudes(torch.tensor([[torch.inf, -torch.inf]])).isfinite().all()


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
