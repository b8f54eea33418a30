"""A zoo of your own: a table with a row per net (nets.csv, nets.parquet or nets.json), and checkpoints.

The columns of the table:

    path              the checkpoint: .safetensors, .pt or .pth, below the folder
    row               where a file holds stacked tensors [nets, *shape]: the net's place in them
    run               the training run, if several rows are of one: they stay on one side of every split
    net               where a run has several nets at the same step
    step, epoch       of the snapshot; step is 0 where it is missing
    snapshot_fraction of the training that was done, in [0, 1]
    arch              a name in archs.json: {name: {"family": ..., "image_shape": ..., "num_classes": ..., ...}}
    activation        relu, tanh, ...: needed for families of metanet
    image_set         what the net was trained on
    train_accuracy, valid_accuracy, test_accuracy, train_loss, valid_loss, test_loss, psnr    measured on the snapshot
    label             what the image of an implicit representation shows: text, though it may be a digit
    source.NAME       of a zoo that was imported before: kept, and no target
    seed              kept as source.seed, and no target
    everything else   a hyperparameter, hence a target: optimizer, learning_rate, your own

In place of `arch`, `module=package:factory input=[1,channels,height,width]` says what all nets are. Checkpoints are
read as in format state_dicts, with its option `weights`.
"""

from __future__ import annotations

from metanet.importers.intake import labels as tables
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Source

TABLES = ("nets.csv", "nets.csv.gz", "nets.parquet", "nets.json")


def read(
    folder: Folder,
    parser: Parser,
    *,
    module: str | None = None,
    input: list[int] | None = None,
    labels: str | None = None,
    weights: str | None = None,
) -> Source:
    """The nets that the table names; `labels` is its name, if it is none of the usual ones."""
    found = labels or next((name for name in TABLES if folder.has(name)), None)
    if found is None:
        raise ValueError(f"{folder.path}: found no table, expected {', '.join(TABLES)} or labels=FILE")
    rows = tables.table(folder, parser, found)
    return tables.source(folder, parser, rows, tables.architectures(folder, module, input), weights)
