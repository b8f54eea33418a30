import math

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metanet import metrics
from metanet.metrics import Predictions
from metanet.targets import Target

CLASSES = Target("c", "classification", ("a", "b", "c", "d"))
VALUE = Target("v", "regression", mean=0.5, std=0.2)
LOG = Target("l", "regression", log=True, mean=-3.0, std=1.0)


def predictions(target: Target, count: int, seed: int, skill: float = 0.5, first: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    lineage = np.sort(generator.integers(max(count // 3, 1), size=count)) + first
    if target.kind == "classification":
        true, guess = generator.integers(target.width, size=(2, count)).astype(float)
        return Predictions(true, np.where(generator.random(count) < skill, true, guess), lineage)
    true = generator.normal(size=count)
    guess = true + generator.normal(size=count) * (1 - skill)
    return Predictions(10**true, 10**guess, lineage) if target.log else Predictions(true, guess, lineage)


@given(count=st.integers(2, 60), seed=st.integers(0, 2**31), skill=st.floats(0, 1))
def test_classification_metrics_equal_scikit_learns(count, seed, skill):
    each = predictions(CLASSES, count, seed, skill)
    found = metrics.metrics(CLASSES, each)
    assert math.isclose(found["accuracy"], sk.accuracy_score(each.true, each.predicted))
    assert math.isclose(found["macro_f1"], sk.f1_score(each.true, each.predicted, average="macro"), abs_tol=1e-12)
    expected = sk.confusion_matrix(each.true, each.predicted, labels=range(4))
    np.testing.assert_array_equal(metrics.confusion(CLASSES, each), expected)


@given(count=st.integers(3, 60), seed=st.integers(0, 2**31))
def test_regression_metrics_equal_scikit_learns_and_scipys(count, seed):
    each = predictions(VALUE, count, seed)
    found = metrics.metrics(VALUE, each)
    assert math.isclose(found["r2"], sk.r2_score(each.true, each.predicted), rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(found["mae"], sk.mean_absolute_error(each.true, each.predicted))
    assert math.isclose(found["kendall_tau_b"], stats.kendalltau(each.true, each.predicted)[0])  # pyright: ignore


def test_a_log_target_is_scored_in_decades():
    each = predictions(LOG, 50, seed=1)
    found = metrics.metrics(LOG, each)
    assert math.isclose(found["r2"], sk.r2_score(np.log10(each.true), np.log10(each.predicted)))
    assert math.isclose(found["mae"], sk.mean_absolute_error(np.log10(each.true), np.log10(each.predicted)))


def test_r2_keeps_its_digits_far_from_zero():
    each = predictions(VALUE, 200, seed=2)
    far = Predictions(each.true + 1e6, each.predicted + 1e6, each.lineage)
    assert math.isclose(metrics.score(VALUE, far), metrics.score(VALUE, each), rel_tol=1e-6)


def test_r2_of_equal_true_values_is_nan_and_left_out_of_the_mean():
    same = Predictions(np.ones(5), np.arange(5.0), np.arange(5))
    assert math.isnan(metrics.score(VALUE, same))
    assert math.isnan(metrics.interval(VALUE, [same])[0])
    assert metrics.mean_score({"a": {"score": math.nan}, "b": {"score": 0.5}, "c": {"score": -7.0}}) == -0.25


def test_a_class_that_the_run_never_saw_counts_as_a_mistake():
    each = Predictions(np.array([-1.0, 1.0]), np.array([3.0, 1.0]), np.arange(2))
    assert metrics.score(CLASSES, each) == 0.5
    assert metrics.confusion(CLASSES, each).sum() == 1


@pytest.mark.parametrize("target", [CLASSES, VALUE, LOG], ids=lambda target: target.name)
def test_a_resample_equals_the_metric_of_its_lineages_written_out(target):
    """The oracle repeats every lineage's rows as often as it was drawn, and asks for the plain metric."""
    each = predictions(target, 40, seed=3)
    fast = metrics.resampled(target, [each], resamples=20, seed=5)
    generator = np.random.default_rng(5)
    lineages = np.unique(each.lineage)
    weights = generator.multinomial(len(lineages), np.full(len(lineages), 1 / len(lineages)), size=20)
    for value, counts in zip(fast, weights, strict=True):
        rows = np.repeat(np.arange(40), counts[np.searchsorted(lineages, each.lineage)])
        chosen = Predictions(each.true[rows], each.predicted[rows], each.lineage[rows])
        assert math.isclose(value, metrics.score(target, chosen), rel_tol=1e-9)


def test_the_interval_is_wider_when_snapshots_share_a_lineage():
    alone = predictions(CLASSES, 300, seed=4)
    rows = np.repeat(np.arange(60), 5)
    repeated = Predictions(alone.true[rows], alone.predicted[rows], rows)
    independent = Predictions(repeated.true, repeated.predicted, np.arange(300))
    width = np.diff(metrics.interval(CLASSES, [repeated]))[0]
    assert width > 1.8 * np.diff(metrics.interval(CLASSES, [independent]))[0]


def test_the_interval_of_accuracy_covers_its_expectation_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        right = generator.random(80) < 0.7
        each = Predictions(np.zeros(80), np.where(right, 0.0, 1.0), np.arange(80))
        low, high = metrics.interval(CLASSES, [each])
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 199


def test_seeds_that_disagree_widen_the_interval():
    good, bad = (predictions(CLASSES, 200, seed=6, skill=skill) for skill in (1.0, 0.0))
    low, high = metrics.interval(CLASSES, [good, bad])
    assert low < 0.4
    assert high > 0.9
    assert np.diff(metrics.interval(CLASSES, [good, good]))[0] == 0


def test_runs_on_other_nets_are_not_averaged():
    with pytest.raises(ValueError, match="c: the runs were tested on different nets"):
        metrics.interval(CLASSES, [predictions(CLASSES, 30, 0), predictions(CLASSES, 30, 0, first=100)])


def test_a_summary_has_the_score_with_its_interval_for_every_target_of_a_table():
    each = predictions(CLASSES, 30, seed=7)
    columns = {"true": each.true, "predicted": each.predicted, "lineage": each.lineage}
    table = pa.table(columns | {"target": ["c"] * 30, "split": ["test"] * 20 + ["valid"] * 10})
    found = metrics.summary(table, [CLASSES])["c"]
    assert found["low"] <= found["score"] == (each.true == each.predicted)[:20].mean() <= found["high"]
    assert metrics.summary(table, [CLASSES], "valid", intervals=False)["c"].keys() == {"score", "accuracy", "macro_f1"}
