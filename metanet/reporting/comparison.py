"""Runs side by side: which may be compared, their scores with intervals, and their differences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float

from metanet import metrics
from metanet.metrics import Predictions
from metanet.reporting.record import Record, split_name
from metanet.targets import Target

CONTROLS = ("statistics", "architecture_only", "metadata_only", "shuffled_weights", "majority")
REFERENCE = "gnn"  # what the others are compared with, pair by pair, if it is there
LEVEL, RESAMPLES = 0.95, 2000
WORST = -1.0  # what an R2 counts at least in a mean over targets, as in metrics.mean_score


@dataclass(frozen=True, eq=False)
class Score:
    """A mean over seeds: its value, the 95% interval, every seed's own value, and the bootstrap behind the interval."""

    value: float
    seeds: tuple[float, ...]
    resampled: Float[np.ndarray, " resamples"] = field(repr=False)

    @cached_property
    def interval(self) -> tuple[float, float]:
        return _interval(self.resampled)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; nan with a single one."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else float("nan")

    def overlaps(self, other: Score) -> bool:
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


@dataclass(frozen=True, eq=False)
class Difference:
    """One model's score minus another's on the same resampled nets."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """better | worse, where the interval leaves out 0, else unclear."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


@dataclass(frozen=True, eq=False)
class Entry:
    """All seeds of one model (with its overrides) on one zoo, split and target set."""

    name: str  # without the changes that all entries of the model share
    runs: tuple[Record, ...]
    scores: Mapping[str, Score]  # by target
    mean: Score

    @property
    def control(self) -> bool:
        return self.runs[0].model in CONTROLS


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models that saw the same nets, targets and split, best mean score first, controls last."""

    title: str  # the zoo, numbered where there are several comparisons
    conditions: Mapping[str, str]  # equal for all its runs, and in no other comparison of the report
    targets: tuple[Target, ...]
    entries: tuple[Entry, ...]
    num_lineages: int  # training runs in the split
    num_rows: int  # their snapshots, each of which is scored

    @property
    def reference(self) -> Entry:
        """`gnn` where it takes part, else the model with the best mean."""
        return next((entry for entry in self.entries if entry.name == REFERENCE), self.entries[0])

    def best(self, target: str | None = None) -> Entry:
        """The entry with the highest score of a target, or of the mean over targets."""
        return max(self.entries, key=lambda entry: np.nan_to_num(score_of(entry, target).value, nan=-np.inf))


def score_of(entry: Entry, target: str | None) -> Score:
    """The score of a target, or of the mean over targets for None."""
    return entry.mean if target is None else entry.scores[target]


def difference(entry: Entry, other: Entry, target: str | None = None) -> Difference:
    """`entry` minus `other`, with the interval of the paired bootstrap: both are scored on the same resampled nets."""
    one, two = score_of(entry, target), score_of(other, target)
    return Difference(one.value - two.value, *_interval(one.resampled - two.resampled))


def compare(records: Iterable[Record], split: str = "test") -> list[Comparison]:
    """A comparison for every set of finished runs that may be compared: same zoo, split, targets and test nets.

    Raises:
        ValueError: two runs of one model have the same seed, or a run has no predictions on `split`.
    """
    alike: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        if record.result is not None:
            alike.setdefault(tuple(_conditions(record, split).items()), []).append(record)
    groups = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        _comparison(f"({place}) {group[0].zoo}" if len(groups) > 1 else group[0].zoo, dict(key), group, split)
        for place, (key, group) in enumerate(groups, 1)
    ]


def _conditions(record: Record, split: str) -> dict[str, str]:
    """What has to be equal for two runs to stand in one table, in words."""
    truth = hashlib.sha256()
    for target in record.targets:
        found = record.predictions(target, split)
        if not len(found.true):
            raise ValueError(
                f"{record.path}: predictions.parquet has no rows of target {target.name!r} in split {split!r}. "
                f"Choose another split=, or train the run again."
            )
        truth.update(np.ascontiguousarray(found.true).tobytes())
    rows = record.table.filter((pc.field("split") == split) & (pc.field("target") == record.targets[0].name))
    nets = hashlib.sha256(np.stack([rows[name].to_numpy() for name in ("net", "step", "lineage")]).tobytes())
    return {
        "zoo": record.zoo,
        "split": record.split,
        "snapshots": record.snapshots,
        "nets": ", ".join(f"{part} {count:,}" for part, count in (record.of_result("nets") or {}).items()),
        "targets": f"{', '.join(t.name for t in record.targets)} (true values {truth.hexdigest()[:8]})",
        f"{split} nets": f"{len(rows['lineage'].unique()):,} nets, {len(rows):,} snapshots ({nets.hexdigest()[:8]})",
    }


def _comparison(title: str, conditions: Mapping[str, str], records: Sequence[Record], split: str) -> Comparison:
    by_name: dict[str, list[Record]] = {}
    common: dict[str, set[str]] = {}
    for model, *changes in (split_name(record.name) for record in records):
        common[model] = common.get(model, set(changes)) & set(changes)
    for record in sorted(records, key=lambda record: (record.seed, str(record.path))):
        model, *changes = split_name(record.name)
        name = "-".join([model, *(change for change in changes if change not in common[model])])
        by_name.setdefault(name, []).append(record)
    targets = records[0].targets
    entries = []
    for name, runs in by_name.items():
        for one, two in pairwise(runs):
            if one.seed == two.seed:
                raise ValueError(
                    f"{one.path} and {two.path}: two runs of {name} with seed {one.seed} on the same nets. "
                    f"Point runs= at the folder of one of them, or remove the other."
                )
        entries.append(_entry(name, runs, targets, split))
    entries.sort(key=lambda entry: (entry.control, -np.nan_to_num(entry.mean.value, nan=-np.inf), entry.name))
    found = records[0].predictions(targets[0], split)
    return Comparison(title, conditions, targets, tuple(entries), len(np.unique(found.lineage)), len(found.true))


def _entry(name: str, runs: Sequence[Record], targets: Sequence[Target], split: str) -> Entry:
    scores = {}
    for target in targets:
        found: list[Predictions] = [run.predictions(target, split) for run in runs]
        seeds = tuple(metrics.score(target, predictions) for predictions in found)
        scores[target.name] = Score(float(np.mean(seeds)), seeds, metrics.resampled(target, found, resamples=RESAMPLES))
    mean = Score(
        float(np.mean([max(score.value, WORST) for score in scores.values()])),
        tuple(np.maximum([score.seeds for score in scores.values()], WORST).mean(0).tolist()),
        np.maximum([score.resampled for score in scores.values()], WORST).mean(0),
    )
    return Entry(name, tuple(runs), scores, mean)


def _interval(values: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
