"""A finished run's predictions and scores again: on its own zoo, or on another one.

    python -m metanet.evaluate run=runs/digits_mini/gnn-seed0 [zoo=zoos/other] [device=cuda]

On its own zoo it uses the run's split, and says whether the stored predictions are still what the model predicts. On
another zoo every net is a test net. There the targets that both have are scored; a class that the run never saw counts
as a mistake. The predictions on another zoo go to predictions-<its name>.parquet in the run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rich.console
import torch
from omegaconf import OmegaConf
from rich.table import Column, Table
from torch import Tensor

import metanet
from metanet import calibrate, commandline, machine, metrics, runs
from metanet.dataset import Batch, Dataset, Nets
from metanet.progress import progress
from metanet.targets import Target

METADATA = b"metanet.targets"  # of a predictions file: the names of the targets' classes, as JSON


@dataclass
class Options:
    run: str = field(default="???", metadata={"help": "the folder of a finished run"})
    zoo: str | None = field(default=None, metadata={"help": "another zoo; its own if left out"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})


def main(options: Options) -> dict[str, dict[str, float]]:
    """Prints the scores on the test nets, and returns them by target."""
    machine.check_device(options.device)
    run = runs.load_run(options.run, options.device)
    own = options.zoo is None or Path(options.zoo).resolve() == Path(run.config.zoo).resolve()
    zoo = metanet.open_zoo(run.config.zoo if options.zoo is None else options.zoo)
    split: Any = OmegaConf.to_container(run.config.split) if own else None
    dataset = Dataset(zoo, split=split, snapshots=run.config.snapshots, device=options.device, schema=run.schema)
    for target, reason in dataset.left_out.items():
        print(f"target {target} is left out: {reason}")
    with progress("evaluate", dataset.count("test")) as advance:
        settings = run.config.training
        outputs, nets = outputs_on(run.model, dataset, "test", settings.batch_nets, settings.batch_elements, advance)
    table = predictions(dataset, "test", calibrate.apply(run.result["calibration"], outputs), nets)
    if own:
        print(agreement(run.predictions, table))
    else:
        path = run.path / f"predictions-{zoo.name}.parquet"
        runs.write_predictions(path, table)
        print(f"wrote {path}")
    summary = metrics.summary(table, dataset.targets)
    show(dataset.targets, summary, f"{run.path.name} on {dataset.count('test'):,} nets of {zoo.path}")
    return summary


@torch.no_grad()
def outputs_on(
    model: Callable[[Batch], Mapping[str, Tensor]],
    dataset: Dataset,
    part: str,
    batch_nets: int,
    batch_elements: int,
    advance: Callable[[float], None] = lambda count: None,
) -> tuple[dict[str, Tensor], list[Nets]]:
    """The model's outputs on a part of the split, and its nets in the same order; it is left in evaluation mode."""
    if isinstance(model, torch.nn.Module):
        model.eval()
    found: list[Mapping[str, Tensor]] = []
    nets: list[Nets] = []
    for batch in dataset.batches(part, batch_nets, batch_elements):
        found.append(model(batch))
        nets += [Nets(each.arch, each.template, {}, each.rows, each.targets) for each in batch]  # without the weights
        advance(sum(map(len, batch)))
    return {t.name: torch.cat([outputs[t.name] for outputs in found]) for t in dataset.targets}, nets


def predictions(dataset: Dataset, part: str, outputs: Mapping[str, Tensor], nets: Sequence[Nets]) -> pa.Table:
    """A row per net, snapshot and target: split, net, lineage, step, row, target, true, predicted, probabilities.

    `true` and `predicted` are places in the target's classes (true -1: none of them), or values in its own units;
    `probabilities` is null for a value.
    """
    rows = torch.cat([each.rows for each in nets]).cpu().numpy()
    about = dataset.zoo.manifest.select(["net", "lineage", "step"]).take(rows)
    tables = []
    for target in dataset.targets:
        predicted, probabilities = target.read(outputs[target.name])
        columns = {
            "split": pa.array([part] * len(rows)),
            **{name: about[name] for name in about.column_names},
            "row": pa.array(rows),
            "target": pa.array([target.name] * len(rows)),
            "true": pa.array(dataset.encoded[target.name][rows]),
            "predicted": pa.array(predicted),
            "probabilities": _lists(probabilities, len(rows)),
        }
        tables.append(pa.table(columns))
    classes = {target.name: target.classes for target in dataset.targets}
    return pa.concat_tables(tables).replace_schema_metadata({METADATA: json.dumps(classes)})


def _lists(values: np.ndarray | None, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, pa.list_(pa.float32()))
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel().astype(np.float32)))


def agreement(stored: pa.Table, again: pa.Table) -> str:
    """In words, how many of the stored test predictions the model repeats (values to 1e-3 of themselves)."""
    keys = ["split", "row", "target"]
    both = stored.select([*keys, "predicted"]).join(again.select([*keys, "predicted"]), keys, right_suffix="_again")
    both = both.filter(pc.field("split") == "test")
    same = np.isclose(both["predicted"].to_numpy(), both["predicted_again"].to_numpy(), rtol=1e-3, atol=1e-6)
    return f"{same.sum():,} of {len(same):,} stored predictions are repeated"


def show(targets: Sequence[Target], summary: Mapping[str, Mapping[str, float]], title: str) -> None:
    table = Table(Column("target", no_wrap=True), "metric", "score", "95% interval", title=title)
    for target in targets:
        values = summary[target.name]
        table.add_row(
            target.name,
            metrics.main_metric(target),
            f"{values['score']:.3f}",
            f"{values['low']:.3f} to {values['high']:.3f}",
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    commandline.run(main, Options)
