"""A comparison in words and tables: the same for the terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metanet.reporting.comparison import LEVEL, RESAMPLES, Comparison, Difference, Entry, difference, score_of
from metanet.reporting.record import Record, split_name
from metanet.reporting.tables import Cell, Column, Table
from metanet.targets import Target

MEAN = "mean over targets"
HOW_TO_READ = (
    (
        "a score",
        "Accuracy for a target with classes, R² for a number (on log10 where the table says so). 1 is perfect. "
        "The majority model shows what accuracy costs nothing; an R² of 0 is what the mean of the test nets would get.",
    ),
    (
        "small print",
        "The 95% interval over nets and seeds, and the standard deviation between seeds. A narrow spread "
        "between seeds says that training is stable, not that the score would hold on other nets: the interval does.",
    ),
    (
        "bold",
        "The highest score of the row. Overlapping intervals do not mean that two models are equal: both are "
        "tested on the same nets, so the paired differences tell more.",
    ),
    (
        "paired differences",
        "Green or red where the interval leaves out 0. No correction for the number of comparisons: "
        "of twenty, one is expected to stand out by chance.",
    ),
    (
        "controls",
        "What needs no reading of weights as a graph: the most frequent class, the architecture alone, simple "
        "statistics of each layer. A model that does not pass them has not learned from structure.",
    ),
    (
        "the mean",
        "Over targets, with accuracy and R² side by side and an R² below −1 counted as −1. It ranks models on "
        "one set of targets and means nothing beside a mean over others.",
    ),
)


def summary(each: Comparison, split: str) -> str:
    """What was compared, and who won, in two sentences."""
    best = each.best()
    low, high = best.mean.interval
    snapshots = "" if each.num_rows == each.num_lineages else f" ({each.num_rows:,} snapshots)"
    controls = sum(entry.control for entry in each.entries)
    return (
        f"Models: {len(each.entries) - controls}, controls: {controls}, targets: {len(each.targets)}. Scored on "
        f"{each.num_lineages:,} {split} nets{snapshots} that none of them was trained on. Best mean over targets: "
        f"{best.name} with {number(best.mean.value)} ({number(low)} to {number(high)})."
    )


def warnings(comparisons: Sequence[Comparison], unfinished: Sequence[Record]) -> list[str]:
    """Runs that are left out, and why runs could not be put into one table."""
    lines = []
    if unfinished:
        names = ", ".join(str(record.path) for record in unfinished)
        lines.append(
            f"{len(unfinished)} unfinished, not in any table: {names}. The command that began a run goes on with it."
        )
    if len(comparisons) > 1:
        lines.append(
            f"These runs cannot be put into one table, because they did not see the same nets, targets and split. "
            f"There are {len(comparisons)} comparisons, which must not be read across. They differ in:"
        )
        for key in dict.fromkeys(key for each in comparisons for key in each.conditions):
            values = [each.conditions.get(key, "none") for each in comparisons]
            if len(set(values)) > 1:
                lines.append(f"{key}: " + "; ".join(f"({n}) {value}" for n, value in enumerate(values, 1)))
    for each in comparisons:
        seeds = {tuple(run.seed for run in entry.runs) for entry in each.entries}
        if len(seeds) > 1:
            found = ", ".join(f"{entry.name} {len(entry.runs)}" for entry in each.entries)
            lines.append(f"{each.title}: models were trained with different numbers of seeds or other seeds ({found}).")
    return lines


def measured(each: Comparison, split: str) -> list[tuple[str, str]]:
    """How the numbers came about: (subject, sentence) pairs."""
    return [
        ("zoo", f"{each.conditions['zoo']}, snapshots: {each.conditions['snapshots']}"),
        (
            "split",
            f"By lineage, {each.conditions['split']}: all snapshots of one training run are on the same side. "
            f"The {split} part: {each.conditions[split + ' nets']}, the same for every model here.",
        ),
        (
            "fairness",
            "Normalisers are fitted on training nets. Epochs are chosen on the validation part, never on test.",
        ),
        (
            "intervals",
            f"Percentile bootstrap, {LEVEL:.0%}, {RESAMPLES:,} resamples of whole lineages (equally for every model) "
            f"and of seeds. Differences are taken resample by resample.",
        ),
        ("commands", "\n".join(map(command, each.entries))),
    ]


def command(entry: Entry) -> str:
    """What trains all seeds of an entry again."""
    run = entry.runs[0]
    if run.changes is None:
        return "\n".join(f"# {run.path}: see its config.yaml" for run in entry.runs)
    seeds = ",".join(str(run.seed) for run in entry.runs)
    words = [
        "python -m metanet.train",
        "-m" if len(entry.runs) > 1 else "",
        f"model={run.model} zoo={run.config['zoo']}",
    ]
    return " ".join(filter(None, [*words, run.changes, f"seed={seeds}"]))


def scores(each: Comparison) -> Table:
    """Targets by models: score, interval, spread over seeds; who is best, and whose interval reaches the best one's."""
    columns = [Column("target")]
    columns += [Column(entry.name, "controls" if entry.control else "models") for entry in each.entries]
    columns.append(Column("best", " ", prose=True))
    rows = []
    for target in (None, *each.targets):
        name = None if target is None else target.name
        best = each.best(name)
        shared = [entry for entry in each.entries if score_of(entry, name).value == score_of(best, name).value]
        row = [Cell(MEAN if target is None else target.name, (kind(target),))]
        for entry in each.entries:
            score = score_of(entry, name)
            small = [f"{number(score.interval[0])} to {number(score.interval[1])}"]
            if len(score.seeds) > 1:
                small.append(f"seeds ±{number(score.spread)}")
            strength = max(0.0, float(np.nan_to_num(score.value)))
            row.append(Cell(number(score.value), tuple(small), "best" if entry in shared else "", strength))
        near = [e.name for e in each.entries if e not in shared and score_of(e, name).overlaps(score_of(best, name))]
        alone = "equal" if len(shared) == len(each.entries) > 1 else "clear of all others"
        overlaps = f"overlaps {', '.join(near)}" if near else alone
        row.append(Cell(", ".join(entry.name for entry in shared) or "–", (overlaps,) if shared else ()))
        rows.append(row)
    return Table(columns, rows, frozenset({0}))


def differences(each: Comparison) -> Table:
    """The reference model minus every other: the mean over targets and every target, by the paired bootstrap."""
    reference = each.reference
    others = [entry for entry in each.entries if entry is not reference]
    columns = [Column("target")]
    columns += [Column(f"− {entry.name}", "controls" if entry.control else "models") for entry in others]
    rows = []
    for target in (None, *each.targets):
        name = None if target is None else target.name
        row = [Cell(MEAN if target is None else target.name)]
        row += [difference_cell(difference(reference, entry, name)) for entry in others]
        rows.append(row)
    return Table(columns, rows, frozenset({0}))


def difference_cell(found: Difference) -> Cell:
    meaning = "" if found.verdict == "unclear" else found.verdict
    return Cell(signed(found.value), (f"{signed(found.low)} to {signed(found.high)}",), meaning)


def costs(each: Comparison) -> Table:
    """What every model took: parameters, epochs, seconds, seeds, and what was changed, on which machine and commit."""
    names = ("parameters", "epochs", "best epoch", "seconds a run", "seeds")
    columns = [Column("model"), *map(Column, names)]
    columns += [Column(name, prose=True) for name in ("changed", "machine", "commit")]
    rows = []
    for entry in each.entries:
        runs = entry.runs
        rows.append(
            [
                Cell(entry.name),
                Cell(span([run.of_result("parameters") for run in runs])),
                Cell(span([run.of_result("epochs") for run in runs])),
                Cell(span([run.of_result("best_epoch") for run in runs])),
                Cell(span([run.of_result("seconds") for run in runs])),
                Cell(f"{len(runs)} ({', '.join(str(run.seed) for run in runs)})"),
                Cell(", ".join(split_name(runs[0].name)[1:]) or "–"),
                Cell("; ".join(dict.fromkeys(str(run.of_result("machine") or "unknown") for run in runs))),
                Cell(", ".join(dict.fromkeys(str(run.of_result("commit") or "unknown") for run in runs))),
            ]
        )
    return Table(columns, rows)


def kind(target: Target | None) -> str:
    if target is None:
        return "accuracies and R²"
    if target.kind == "classification":
        return f"accuracy, {target.width} classes"
    return "R² on log10" if target.log else "R²"


def number(value: float) -> str:
    """Three decimals; no minus before what rounds to zero."""
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "−") if np.isfinite(value) else "n/a"


def signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "−") if np.isfinite(value) else "n/a"


def span(values: Sequence[int | float | None]) -> str:
    """One number, or the lowest and the highest."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    texts = dict.fromkeys(
        f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}" for value in (min(known), max(known))
    )
    return " to ".join(texts)
