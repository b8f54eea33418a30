import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from metanet.blocks.boosting import Boosting, bin_edges, binned, cut, read_trees, staged_outputs
from metanet.targets import Target

NUMBERS = {
    "iterations": 40,
    "patience": 10,
    "learning_rate": 0.2,
    "leaves": [3, 7],
    "min_samples": 5,
    "l2": 1.0,
    "feature_share": 0.5,
    "bins": 64,
}


def table(nets: int, seed: int) -> torch.Tensor:
    """Columns with missing values, and one without any value."""
    x = np.random.default_rng(seed).normal(size=(nets, 4))
    x[x < -1.0] = np.nan
    return torch.from_numpy(np.concatenate([x, np.full((nets, 1), np.nan)], axis=1))


def score(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0].nan_to_num() + x[:, 1].nan_to_num(-2.0).square()


@given(classes=st.integers(2, 4), seed=st.integers(0, 99), iterations=st.integers(1, 12))
def test_the_trees_as_tensors_give_the_classifier_s_own_outputs(classes, seed, iterations):
    x, names = table(120, seed)[:, :4], tuple("abcd"[:classes])
    y = torch.bucketize(score(x), torch.linspace(-1, 3, classes - 1))
    if len(y.unique()) < classes:
        return
    model = HistGradientBoostingClassifier(max_iter=iterations, max_leaf_nodes=6).fit(x.numpy(), y.numpy())
    ours = staged_outputs(read_trees(model, Target("t", "classification", names)), x)
    theirs = model.decision_function(x.numpy())
    theirs = theirs if classes > 2 else np.stack([np.zeros_like(theirs), theirs], 1)
    np.testing.assert_allclose(ours[:, -1].numpy(), theirs, rtol=1e-12)
    np.testing.assert_allclose(ours[:, -1].softmax(1).numpy(), model.predict_proba(x.numpy()), rtol=1e-9)


@given(seed=st.integers(0, 99))
def test_the_trees_as_tensors_give_the_regressor_s_own_outputs_after_every_iteration(seed):
    x, unseen = table(120, seed)[:, :4], table(50, seed + 1)[:, :4]
    model = HistGradientBoostingRegressor(max_iter=7, max_leaf_nodes=6).fit(x.numpy(), score(x).numpy())
    trees = read_trees(model, Target("t", "regression"))
    ours = staged_outputs(trees, unseen)
    for stage, theirs in enumerate(model.staged_predict(unseen.numpy()), start=1):
        np.testing.assert_allclose(ours[:, stage, 0].numpy(), theirs, rtol=1e-12)
        torch.testing.assert_close(staged_outputs(cut(trees, stage), unseen)[:, -1], ours[:, stage])


@given(seed=st.integers(0, 99), bins=st.integers(2, 9), nets=st.integers(1, 60))
def test_bins_keep_the_order_and_share_the_nets_evenly(seed, bins, nets):
    x = table(nets, seed)
    codes = binned(x, bin_edges(x, bins))
    assert torch.equal(codes.isnan(), x.isnan())
    for values, places in zip(x.T, codes.T, strict=True):
        known = ~values.isnan()
        if known.any():
            assert (places[known][values[known].argsort()].diff() >= 0).all()
            counts = torch.bincount(places[known].long(), minlength=bins)
            assert counts.max() <= -(-int(known.sum()) // bins) + 1


def test_a_value_of_many_nets_has_a_bin_of_its_own():
    x = torch.tensor([0.0] * 50 + [1.0] * 30 + [2.0] * 20).double().unsqueeze(1)
    assert len(binned(x, bin_edges(x, 8)).unique()) == 3


def test_it_stops_where_the_validation_loss_is_lowest_and_predicts_better_than_the_mean():
    boosting = Boosting((Target("t", "regression"),), **NUMBERS)
    x, valid = table(300, 0), table(100, 1)
    boosting.fit(x, {"t": score(x)}, valid, {"t": score(valid)})
    staged = staged_outputs(boosting.trees["t"], binned(valid, boosting.edges))[..., 0]
    losses = (staged - score(valid).unsqueeze(1)).square().mean(0)
    assert losses[-1] <= losses.min() + 1e-3
    assert losses[-1] < 0.3 * score(valid).var()


@pytest.mark.parametrize("present", [[1], [0, 2], [0, 1, 3]])
def test_a_class_without_a_training_net_gets_a_small_probability(present):
    boosting = Boosting((Target("t", "classification", ("a", "b", "c", "d")),), **NUMBERS)
    x = table(90, 2)
    y = torch.tensor(present)[torch.arange(90) % len(present)]
    boosting.fit(x, {"t": y}, x, {"t": (y + 1) % 4})
    probabilities = boosting.predict(x)["t"].softmax(1)
    absent = [c for c in range(4) if c not in present]
    assert probabilities.isfinite().all()
    assert probabilities[:, absent].max() < 1e-3


def test_the_same_seed_gives_the_same_trees():
    def fitted(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        boosting, x = Boosting((Target("t", "regression"),), **NUMBERS), table(100, 3)
        boosting.fit(x, {"t": score(x)}, table(60, 4), {"t": score(table(60, 4))})
        return boosting.state()

    torch.testing.assert_close(fitted(0), fitted(0), rtol=0, atol=0)
    assert not torch.equal(fitted(0)["t.value"].sum(), fitted(1)["t.value"].sum())
