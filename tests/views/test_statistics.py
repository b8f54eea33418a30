import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import metanet
from metanet.views.statistics import COLUMNS, architecture, statistics

SHALLOW = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
DEEP = nn.Sequential(
    nn.Conv2d(1, 3, 3),
    nn.BatchNorm2d(3),
    nn.ReLU(),
    nn.Conv2d(3, 2, 2),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(8, 5),
    nn.Tanh(),
    nn.Linear(5, 2),
)
TEMPLATES = {
    "shallow": metanet.trace(SHALLOW, torch.randn(2, 4)),
    "deep": metanet.trace(DEEP, torch.randn(2, 1, 5, 5)),
}


def stacked(name: str, nets: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(nets, *shape, generator=generator) for k, shape in TEMPLATES[name].shapes.items()}


def column(table: torch.Tensor, name: str) -> torch.Tensor:
    return table[:, COLUMNS.index(name)]


@given(
    seed=st.integers(0, 99),
    layer=st.sampled_from([("first0", "0.weight"), ("last0", "8.weight"), ("last1", "6.weight")]),
)
def test_the_seven_statistics_of_a_tensor_are_numpy_s(seed, layer):
    params, (place, name) = stacked("deep", 3, seed), layer
    table, x = statistics(TEMPLATES["deep"], params), params[name].flatten(1).double().numpy()
    expected = {f"q{p}": np.percentile(x, p, axis=1) for p in (25, 50, 75)}
    expected |= {"min": x.min(1), "max": x.max(1), "std": x.std(1), "mean": x.mean(1)}
    for statistic, values in expected.items():
        np.testing.assert_allclose(column(table, f"{place}.weight.{statistic}").numpy(), values, rtol=1e-6)


def test_aggregates_run_over_the_layers_of_their_kind():
    params = stacked("deep", 2)
    table = statistics(TEMPLATES["deep"], params)
    largest = torch.stack([params[name].flatten(1).amax(1) for name in ("6.weight", "8.weight")])
    torch.testing.assert_close(column(table, "dense.max.weight.max"), largest.amax(0))
    torch.testing.assert_close(column(table, "dense.mean.weight.max"), largest.mean(0))
    torch.testing.assert_close(column(table, "first_dense.weight.max"), largest[0])


def test_what_an_architecture_lacks_is_missing_not_zero():
    shallow = statistics(TEMPLATES["shallow"], stacked("shallow", 2))
    assert shallow.shape == (2, len(COLUMNS))
    for name in ("first2.weight.mean", "conv.min.weight.std", "first0.variance.max", "all.max.scale.mean"):
        assert column(shallow, name).isnan().all()
    deep = statistics(TEMPLATES["deep"], stacked("deep", 2))
    for name in ("first2.weight.mean", "conv.min.weight.std", "first0.variance.max", "all.max.scale.mean"):
        assert column(deep, name).isfinite().all()


@given(value=st.sampled_from([0.0, 0.1, -3.0, 1e-8]), seed=st.integers(0, 99))
def test_equal_weights_leave_no_rounding_noise_for_a_tree_to_split_on(value, seed):
    """A sum over equal weights in another order may differ in its last bit: a tree would see the order."""
    params = stacked("deep", 2)
    params["6.weight"] = torch.full_like(params["6.weight"], value)
    table = statistics(TEMPLATES["deep"], params)
    for name in ("std", "row_spread"):
        noise = column(table, f"first_dense.weight.{name}")
        assert (noise == 0).all() or (value == 0 and noise.isnan().all())
    assert column(table, "first_dense.weight.kurtosis").isnan().all()
    permute = TEMPLATES["deep"].symmetry.sample(torch.Generator().manual_seed(seed), nets=2)
    torch.testing.assert_close(statistics(TEMPLATES["deep"], permute(params)), table, rtol=0, atol=0, equal_nan=True)


def test_a_changed_weight_changes_the_statistics():
    params = stacked("deep", 2)
    before = statistics(TEMPLATES["deep"], params)
    params["6.weight"][0, 0, 0] += 0.01
    after = statistics(TEMPLATES["deep"], params)
    assert (after[0] != before[0]).any()
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=0, equal_nan=True)


def test_the_architecture_tells_templates_apart_and_counts_operations():
    shallow, deep = (architecture(template, ("relu", "tanh")) for template in TEMPLATES.values())
    assert shallow.shape == deep.shape
    assert not torch.equal(shallow.nan_to_num(), deep.nan_to_num())
    assert shallow[-2:].tolist() == [1.0, 0.0]
    assert deep[-2:].tolist() == [2.0, 1.0]
    assert sum(p.numel() for p in SHALLOW.parameters()) in shallow.tolist()
