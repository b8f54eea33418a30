"""What each part of the graph metanetwork is worth: trains `gnn` with one part switched off at a time.

    python scripts/ablate_features.py zoo=zoos/digits_mini seeds=3 out=ablation.html

Every variant is trained with the same split, targets and budget by metanet.train, as many times as there are seeds.
Finished runs are reused and interrupted ones resumed, so the same command goes on after a kill. Writes a page, the same
tables in Markdown beside it, and a picture (.png) where matplotlib is installed.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from metanet import commandline, runs, train
from metanet.reporting import figures, findings, page, record
from metanet.reporting.comparison import Comparison, Entry, compare, difference
from metanet.reporting.tables import Cell, Column, Table, to_html, to_markdown
from metanet.zoo import disk

MODEL = "gnn"
FULL = "full model"
VARIANTS: dict[str, tuple[str, ...]] = {  # what the figures call it -> what metanet.train is told
    FULL: (),
    # features of the graph
    "raw weights, no log-magnitude": ("model.log_magnitude=false",),
    "forward edges only": ("model.reverse_edges=false",),
    # layers
    "edges not updated": ("model.edge_updates=false",),
    "no message passing": ("model.depth=0",),
    "one layer of message passing": ("model.depth=1",),
    # readout
    "pooled by the mean only": ("model.statistics=[mean]",),
    "pooled by mean and deviation": ("model.statistics=[mean,std]",),
    "no statistics of tensors": ("model.distribution=false",),
    "no attention over layers": ("model.mixing=0",),
}


@dataclass
class Options:
    zoo: str = field(default="???", metadata={"help": "the zoo to train on"})
    seeds: int = field(default=3, metadata={"help": "trainings of each variant"})
    out: str = field(default="ablation.html", metadata={"help": "the page; tables and picture go beside it"})
    runs: str = field(default="runs/ablation", metadata={"help": "where the runs are kept"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    also: list[str] = field(default_factory=list, metadata={"help": "for every run, e.g. [training.epochs=20]"})


def main(options: Options) -> Comparison:
    """Trains what is not trained yet, and writes the page, the tables and the picture.

    Raises:
        ValueError, OSError: what metanet.train raises at a wrong zoo or option.
    """
    if options.seeds < 1 or not options.out.endswith(".html"):
        raise ValueError(f"seeds={options.seeds} out={options.out}: expected at least 1, and a name ending in .html")
    variants: dict[Path, str] = {}
    for number, (variant, words) in enumerate(VARIANTS.items()):
        for seed in range(options.seeds):
            print(f"{variant}, seed {seed} (variant {number + 1} of {len(VARIANTS)})", file=sys.stderr)
            variants[trained([*words, *options.also], seed, options)] = variant
    (found,) = compare(map(record.read, variants))  # same zoo, split and targets, so there is one comparison
    entries = {variants[entry.runs[0].path]: entry for entry in found.entries}
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    disk.write_atomically(out, html(found, entries).encode())
    disk.write_atomically(out.with_suffix(".md"), markdown(found, entries).encode())
    written = [out, out.with_suffix(".md"), *picture(found, entries, out)]
    print(f"wrote {', '.join(map(str, written))}", file=sys.stderr)
    return found


def trained(words: Sequence[str], seed: int, options: Options) -> Path:
    """The folder of a finished run of the variant, trained now unless it is there."""
    config = configured(
        [*words, f"seed={seed}", f"zoo={options.zoo}", f"runs={options.runs}", f"device={options.device}"]
    )
    name = runs.model_name(MODEL, words)
    train.train(config, name)
    return runs.folder_of(config, name)


def configured(words: Sequence[str]) -> DictConfig:
    """What `python -m metanet.train model=gnn WORDS` runs with."""
    with initialize_config_dir(str(train.CONFIGS), version_base="1.3"):
        return compose("train", [f"model={MODEL}", *words])


def summary(entries: Mapping[str, Entry]) -> Table:
    """A row per variant: mean over targets, what switching the part off costs, parameters, seconds."""
    columns = [*map(Column, ("variant", findings.MEAN, "minus the full model", "parameters", "seconds a run"))]
    rows = []
    for variant in VARIANTS:
        entry = entries[variant]
        mean = entry.mean
        low, high = mean.interval
        loss = difference(entry, entries[FULL])
        rows.append(
            [
                Cell(variant),
                Cell(findings.number(mean.value), (f"{findings.number(low)} to {findings.number(high)}",)),
                Cell("–") if variant == FULL else findings.difference_cell(loss),
                *(Cell(findings.span([run.of_result(key) for run in entry.runs])) for key in ("parameters", "seconds")),
            ]
        )
    return Table(columns, rows, frozenset({0}))


def by_target(found: Comparison, entries: Mapping[str, Entry]) -> Table:
    """A row per variant, a column per target: score minus that of the full model."""
    columns = [Column("variant"), *(Column(target.name) for target in found.targets)]
    rows = []
    for variant in list(VARIANTS)[1:]:
        losses = (difference(entries[variant], entries[FULL], target.name) for target in found.targets)
        rows.append([Cell(variant), *map(findings.difference_cell, losses)])
    return Table(columns, rows)


def said(found: Comparison, entries: Mapping[str, Entry]) -> Iterator[tuple[str, str, Table]]:
    """(heading, note, table)"""
    seeds = len(entries[FULL].runs)
    note = (
        f"{MODEL} on {found.title}: {found.num_lineages:,} test nets, seeds: {seeds}. Small: 95% interval, "
        f"bootstrap over lineages and seeds; differences are paired, on the same resampled nets."
    )
    yield "What each part is worth", note, summary(entries)
    yield (
        "Target by target",
        "Score minus that of the full model: negative where the part helps.",
        by_target(found, entries),
    )


def commands(entries: Mapping[str, Entry]) -> str:
    return "\n".join(findings.command(entries[variant]) for variant in VARIANTS)


def markdown(found: Comparison, entries: Mapping[str, Entry]) -> str:
    parts = [f"## {heading}\n\n{note}\n\n{to_markdown(table)}" for heading, note, table in said(found, entries)]
    return "# Ablation\n\n" + "\n".join(parts) + f"\n## Commands\n\n```\n{commands(entries)}\n```\n"


def losses(entries: Mapping[str, Entry], target: str | None) -> list[figures.Row]:
    """A row of the figure per variant but the full one."""
    found = {variant: difference(entries[variant], entries[FULL], target) for variant in list(VARIANTS)[1:]}
    return [(variant, each.value, each.low, each.high, ()) for variant, each in found.items()]


def html(found: Comparison, entries: Mapping[str, Entry]) -> str:
    drawn = page.Figures()
    palette = dict.fromkeys(VARIANTS, figures.MODEL_COLOURS[0])
    panels = [
        drawn.panel(
            target or findings.MEAN, "minus the full model", figures.differences(losses(entries, target), palette)
        )
        for target in (None, *(target.name for target in found.targets))
    ]
    body = ["<h1>Ablation</h1>"]
    for place, (heading, note, table) in enumerate(said(found, entries)):
        body.append(f'<h3>{escape(heading)}</h3><p class="note">{escape(note)}</p>{to_html(table)}')
        kind, shown = ("panels one", panels[:1]) if place == 0 else ("panels", panels[1:])
        body.append(f'<div class="{kind}">{"".join(shown)}</div>')
    body += ["<h3>Commands</h3>", page.definitions([("train", commands(entries))])]
    return page.page("metanet: ablation", body, drawn)


def picture(found: Comparison, entries: Mapping[str, Entry], out: Path) -> list[Path]:
    """The file of the picture, the losses of the mean over targets; none without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: matplotlib is not installed (pip install 'metanet[draw]')", file=sys.stderr)
        return []
    rows = losses(entries, None)[::-1]
    figure = Figure(figsize=(7, 0.8 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names, values, lows, highs, _ = zip(*rows, strict=True)
    ends = [[v - low for v, low in zip(values, lows, strict=True)], [h - v for v, h in zip(values, highs, strict=True)]]
    axes.axvline(0, color=figures.MUTED, linewidth=1)
    axes.errorbar(values, range(len(rows)), xerr=ends, fmt="o", color=figures.MODEL_COLOURS[0], linewidth=2)
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel(f"{findings.MEAN}, minus the full model ({found.title}, 95% interval)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=160)
    disk.write_atomically(out.with_suffix(".png"), drawn.getvalue())
    return [out.with_suffix(".png")]


if __name__ == "__main__":
    commandline.run(main, Options)
