"""Metrics of stored predictions, with bootstrap intervals over training runs and seeds.

Every metric but Kendall's tau is a function of sums over nets. The sums are taken once per lineage; a bootstrap
resample is then a weighting of the lineages, and all resamples together are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.stats
from jaxtyping import Float, Int64

from metanet.targets import Target

Sums = Float[np.ndarray, "lineages sums"]


@dataclass(frozen=True)
class Predictions:
    """One target's predictions by one run. Class numbers (true -1: a class that the run never saw), or values."""

    true: Float[np.ndarray, " nets"]
    predicted: Float[np.ndarray, " nets"]
    lineage: Int64[np.ndarray, " nets"]


def predictions_of(table: pa.Table, target: Target, split: str = "test") -> Predictions:
    """One target's rows of a predictions table (see `runs`)."""
    chosen = table.filter((pc.field("target") == target.name) & (pc.field("split") == split))
    true, predicted, lineage = (chosen[name].to_numpy() for name in ("true", "predicted", "lineage"))
    return Predictions(true, predicted, lineage)


def main_metric(target: Target) -> str:
    """The metric that is called the score of a target; 1 is perfect, and higher is better."""
    return "accuracy" if target.kind == "classification" else "r2"


def metrics(target: Target, predictions: Predictions) -> dict[str, float]:
    """accuracy and macro_f1, or r2, mae and kendall_tau_b. Log targets are scored on log10 (mae in decades)."""
    sums, _ = _lineage_sums(target, predictions)
    values = {name: value.item() for name, value in _from_sums(target, sums.sum(0, keepdims=True)).items()}
    if target.kind == "regression":
        values["kendall_tau_b"] = kendall_tau_b(predictions.predicted, predictions.true)
    return values


def score(target: Target, predictions: Predictions) -> float:
    """`main_metric`: accuracy in [0, 1], or R2 in (-inf, 1]."""
    return metrics(target, predictions)[main_metric(target)]


def resampled(
    target: Target, runs: Sequence[Predictions], metric: str | None = None, resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, " resamples"]:
    """A metric's mean over `runs` (the seeds of one model on the same nets) under each bootstrap resample.

    Resampled are the lineages, as a whole (snapshots of one training run are not independent) and equally in every
    run, and the runs. Equal seeds draw equal lineages, so that models can be compared in pairs. nan where a resample
    has no variance and hence no R2. Cost: resamples x lineages. `metric` is any of `metrics` but kendall_tau_b.

    Raises:
        ValueError: the runs do not have the same lineages.
    """
    sums, lineages = zip(*(_lineage_sums(target, run) for run in runs), strict=True)
    count = len(lineages[0])
    if any(not np.array_equal(lineages[0], other) for other in lineages):
        raise ValueError(f"{target.name}: the runs were tested on different nets and cannot be averaged")
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    values = np.stack([_from_sums(target, weights @ each)[metric or main_metric(target)] for each in sums], axis=1)
    chosen = generator.integers(len(runs), size=(resamples, len(runs)))
    return np.take_along_axis(values, chosen, axis=1).mean(1)


def interval(
    target: Target, runs: Sequence[Predictions], metric: str | None = None, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of a metric's mean over `runs`; see `resampled`."""
    means = resampled(target, runs, metric)
    means = means[np.isfinite(means)]
    if len(means) == 0:
        return math.nan, math.nan
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(
    table: pa.Table, targets: Sequence[Target], split: str = "test", intervals: bool = True
) -> dict[str, dict[str, float]]:
    """For every target its metrics, and its score with the 95% interval (score, low, high)."""
    result = {}
    for target in targets:
        predictions = predictions_of(table, target, split)
        values = metrics(target, predictions)
        result[target.name] = {"score": values[main_metric(target)], **values}
        if intervals:
            result[target.name]["low"], result[target.name]["high"] = interval(target, [predictions])
    return result


def mean_score(summary: Mapping[str, Mapping[str, float]]) -> float:
    """The mean over targets of their scores; an R2 below -1 counts as -1, so that one wild target cannot rule it.

    A score that is nan (an R2 of nets that all have the same true value) is left out.
    """
    scores = [max(values["score"], -1.0) for values in summary.values() if not math.isnan(values["score"])]
    return float(np.mean(scores)) if scores else math.nan


def kendall_tau_b(pred: Float[np.ndarray, " nets"], true: Float[np.ndarray, " nets"]) -> float:
    """Rank agreement of two scores over the same nets: unitless, in [-1, 1], 1 = same order.

    Ties lower the denominator, not the numerator; nan if either side is constant.
    Source: Kendall (1945), Biometrika 33(3), 239-251.
    """
    result: Any = scipy.stats.kendalltau(pred, true, variant="b")
    return float(result.statistic)


def confusion(target: Target, predictions: Predictions) -> Int64[np.ndarray, "classes classes"]:
    """Nets with each (true, predicted) pair of classes; nets of an unknown class are left out."""
    known = predictions.true >= 0
    pairs = predictions.true[known] * target.width + predictions.predicted[known]
    return np.bincount(pairs.astype(np.int64), minlength=target.width**2).reshape(target.width, target.width)


def _lineage_sums(target: Target, predictions: Predictions) -> tuple[Sums, Int64[np.ndarray, " lineages"]]:
    """What `_from_sums` needs, summed over each lineage, and the lineages' numbers."""
    lineages, place = np.unique(predictions.lineage, return_inverse=True)
    if target.kind == "classification":
        known = np.eye(target.width + 1)  # -1, an unknown class, is the last row
        true, predicted = (known[side.astype(np.int64)] for side in (predictions.true, predictions.predicted))
        terms = np.concatenate([true, predicted, true * predicted], axis=1)
    else:
        true, predicted = target.scaled(predictions.true), target.scaled(predictions.predicted)
        error, true = predicted - true, true - true.mean()  # centred: no digits are lost in the sum of squares
        terms = np.stack([np.ones_like(true), true, true**2, error**2, np.abs(error)], axis=1)
    sums = np.zeros((len(lineages), terms.shape[1]))
    np.add.at(sums, place, terms)
    return sums, lineages


def _from_sums(target: Target, sums: Float[np.ndarray, "*shape sums"]) -> dict[str, Float[np.ndarray, "*shape"]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        if target.kind == "classification":
            true, predicted, both = np.split(sums, 3, axis=-1)
            f1 = 2 * both / (true + predicted)  # nan for a class that neither side has: left out of the mean
            present = np.isfinite(f1)
            return {
                "accuracy": both.sum(-1) / true.sum(-1),
                "macro_f1": np.where(present, f1, 0).sum(-1) / present.sum(-1),
            }
        count, first, second, squared, absolute = np.moveaxis(sums, -1, 0)
        spread = second - first**2 / count
        spread = np.where(
            spread > 1e-12 * second, spread, np.nan
        )  # R2 has no meaning when every true value is the same
        return {"r2": 1 - squared / spread, "mae": absolute / count}
