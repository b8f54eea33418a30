"""Runs -> tables, figures, one HTML file, and the same tables in Markdown and in the terminal.

    python -m metanet.report runs=runs/digits_mini out=report.html

Every number is computed from the runs' stored predictions. Runs that did not see the same nets, targets and split are
never put into one table: they get a comparison each, with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import rich.console

from metanet import commandline, metrics
from metanet.reporting import figures, findings, page, record
from metanet.reporting.comparison import Comparison, compare, score_of
from metanet.reporting.record import Record
from metanet.reporting.tables import Table, print_to, to_html, to_markdown
from metanet.targets import Target
from metanet.zoo import disk

LOG_WIDTH = 180  # columns of the tables where standard output is a file


@dataclass
class Options:
    runs: str = field(default="???", metadata={"help": "a folder of run folders, at any depth"})
    out: str = field(default="report.html", metadata={"help": "the HTML file; the Markdown goes beside it as .md"})
    split: str = field(default="test", metadata={"help": "which predictions are scored: test or valid"})


def main(options: Options) -> list[Comparison]:
    """Writes the report, prints its tables, and returns what was compared.

    Raises:
        FileNotFoundError: no runs there, or a run lacks a file.
        ValueError: a file cannot be read, no run is finished, or two runs are the same model and seed.
    """
    out = Path(options.out)
    if out.suffix != ".html":
        raise ValueError(f"out={options.out}: expected a name that ends in .html; the Markdown file is put beside it")
    records = record.find(Path(options.runs))
    unfinished = [each for each in records if each.result is None]
    comparisons = compare(records, options.split)
    if not comparisons:
        raise ValueError(
            f"{options.runs}: none of its {len(unfinished)} runs has finished. Give the training command again: "
            f"it goes on where it stopped."
        )
    disk.make_folder(out.parent)
    disk.write_atomically(out, html(comparisons, unfinished, options.split).encode())
    disk.write_atomically(out.with_suffix(".md"), markdown(comparisons, unfinished, options.split).encode())
    show(comparisons, unfinished, options.split)
    print(f"wrote {out} and {out.with_suffix('.md')}", file=sys.stderr)
    return comparisons


def tables(each: Comparison) -> Iterator[tuple[str, str, Table]]:
    """(heading, note, table) in the order of every form of the report."""
    yield (
        "Scores",
        "Bold: the highest of its row. Small: 95% interval over nets and seeds; spread of seeds.",
        findings.scores(each),
    )
    if len(each.entries) > 1:
        note = "Both on the same resampled nets, so the interval is of the difference itself."
        yield f"{each.reference.name} minus the others", note, findings.differences(each)
    yield (
        "Cost",
        "Seconds of training or fitting, validation included. What is fitted counts the numbers that it keeps.",
        findings.costs(each),
    )


def show(comparisons: Sequence[Comparison], unfinished: Sequence[Record], split: str) -> None:
    """The tables in the terminal."""
    console = rich.console.Console()
    if not console.is_terminal:
        console = rich.console.Console(width=LOG_WIDTH)
    for line in findings.warnings(comparisons, unfinished):
        console.print(f"warning: {line}", style="yellow", highlight=False, markup=False)
    for each in comparisons:
        console.print(f"\n{each.title}. {findings.summary(each, split)}\n", highlight=False, markup=False)
        for heading, _, table in tables(each):
            print_to(console, table, heading)


def markdown(comparisons: Sequence[Comparison], unfinished: Sequence[Record], split: str) -> str:
    lines = ["# metanet report", ""]
    lines += [f"> **Warning:** {line}\n" for line in findings.warnings(comparisons, unfinished)]
    for each in comparisons:
        lines += [f"## {each.title}", "", findings.summary(each, split), ""]
        for heading, note, table in tables(each):
            lines += [f"### {heading}", "", note, "", to_markdown(table)]
        lines += ["### How this was measured", ""]
        lines += [
            f"- **{subject}**: {_code(text) if subject == 'commands' else text}"
            for subject, text in findings.measured(each, split)
        ]
        lines.append("")
    lines += ["## How to read this", "", *(f"- **{subject}**: {text}" for subject, text in findings.HOW_TO_READ)]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"\n\n```\n{text}\n```"


def html(comparisons: Sequence[Comparison], unfinished: Sequence[Record], split: str) -> str:
    """The whole page."""
    drawn = page.Figures()
    body = [
        "<h1>metanet report</h1>",
        "<p>How well can a model tell, from a net's weights alone, how the net was trained?</p>",
    ]
    found = findings.warnings(comparisons, unfinished)
    if found:
        items = "".join(f"<li>{escape(line)}</li>" for line in found)
        body.append(f'<div class="warning"><b>Please note</b><ul>{items}</ul></div>')
    for place, each in enumerate(comparisons):
        body += _section(each, f"comparison{place}", drawn, split)
    body += ["<h2>How to read this</h2>", page.definitions(findings.HOW_TO_READ)]
    return page.page(f"metanet: {', '.join(each.title for each in comparisons)}", body, drawn)


def _section(each: Comparison, name: str, drawn: page.Figures, split: str) -> Iterator[str]:
    palette = figures.colours(
        [entry.name for entry in each.entries if not entry.control],
        [entry.name for entry in each.entries if entry.control],
    )
    yield f"<h2>{escape(each.title)}</h2><p>{escape(findings.summary(each, split))}</p>"
    for place, (heading, note, table) in enumerate(tables(each)):
        yield f'<h3>{escape(heading)}</h3><p class="note">{escape(note)}</p>{to_html(table)}'
        if place == 0:
            yield f'<div class="panels">{"".join(_intervals(each, palette, drawn))}</div>'
    yield "<h3>Predictions, target by target</h3>"
    yield '<p class="note">All seeds together. Numbers of a confusion matrix are percent of each true class.</p>'
    choices = [(target.name, target.name, _predictions(each, target, palette, drawn, split)) for target in each.targets]
    yield page.chooser(name, "Target", choices)
    panels = "".join(_curves(each, palette, drawn))
    if panels:
        yield "<h3>Learning curves</h3>"
        yield '<p class="note">Training dotted grey, validation coloured, a line per seed. 1 is knowing nothing.</p>'
        yield f'<div class="panels">{panels}</div>'
    yield "<h3>How this was measured</h3>"
    yield page.definitions(findings.measured(each, split))


def _intervals(each: Comparison, palette: dict[str, str], drawn: page.Figures) -> Iterator[str]:
    for target in (None, *each.targets):
        name = None if target is None else target.name
        found = [(entry.name, score_of(entry, name)) for entry in each.entries]
        rows = [(entry, score.value, *score.interval, score.seeds) for entry, score in found]
        yield drawn.panel(name or findings.MEAN, findings.kind(target), figures.intervals(rows, palette))


def _predictions(
    each: Comparison, target: Target, palette: dict[str, str], drawn: page.Figures, split: str
) -> Iterator[str]:
    for entry in each.entries:
        runs = [run.predictions(target, split) for run in entry.runs]
        if target.kind == "classification":
            counts = np.sum([metrics.confusion(target, predictions) for predictions in runs], axis=0)
            figure = figures.confusion(counts, target.classes)
        else:
            true, predicted = (np.concatenate([getattr(run, side) for run in runs]) for side in ("true", "predicted"))
            figure = figures.scatter(true, predicted, target.log, palette[entry.name])
        yield drawn.panel(entry.name, findings.number(entry.scores[target.name].value), figure)


def _curves(each: Comparison, palette: dict[str, str], drawn: page.Figures) -> Iterator[str]:
    logs = {entry.name: {run.seed: run.losses for run in entry.runs if run.losses} for entry in each.entries}
    losses = [
        loss for log in logs.values() for rows in log.values() for row in rows for loss in row[1:] if loss is not None
    ]
    ends = (
        (min(losses), float(np.quantile(losses, 0.995))) if losses else (0.0, 1.0)
    )  # one bad first epoch hides the rest
    for entry, log in logs.items():
        if log:
            yield drawn.panel(entry, "", figures.curves(log, palette[entry], ends))


if __name__ == "__main__":
    commandline.run(main, Options)
