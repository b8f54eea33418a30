"""Plain checkpoints: a folder of .pt, .pth, .ckpt, .bin, .pth.tar and .safetensors files, a net in each; or one.

The state_dict may lie bare or in an entry of any name (state_dict, model, params, ...) beside an optimizer's state and
the like, with the prefixes of DataParallel (module.) and torch.compile (_orig_mod.), or with the name of the attribute
that a LightningModule has the net under; what stands beside it is kept in source.file. Where a file has weights of
several nets, as those that were trained and their moving average, it is left out unless `weights=ema` names the entry.

`module=package:factory input=[1,channels,height,width]` says what the nets are: a function without arguments that
gives the module. Its zoo asks for METANET_FACTORIES=package:factory when it is opened later. Nets of several
architectures, or of a family of metanet, have a column `arch` in their labels and an archs.json, as in format `table`.

`labels=FILE` (metadata.csv, metadata.parquet or metadata.json in the folder, if one is there) is a table with the
columns of format `table`, where `path` is a file's name in the folder. Files that the table does not name are imported
without labels.
"""

from __future__ import annotations

from metanet.importers.intake import labels as tables
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Source

PATTERNS = ("**/*.pt", "**/*.pth", "**/*.ckpt", "**/*.bin", "**/*.pth.tar", "**/*.safetensors")
LABELS = ("metadata.csv", "metadata.parquet", "metadata.json")


def read(
    folder: Folder,
    parser: Parser,
    *,
    module: str | None = None,
    input: list[int] | None = None,
    labels: str | None = None,
    weights: str | None = None,
) -> Source:
    """Every checkpoint of the folder, with the labels that the table has of it."""
    found = labels or next((name for name in LABELS if folder.has(name)), None)
    rows = [] if found is None else tables.table(folder, parser, found)
    named = {row["path"] for row in rows}
    rows += [{"path": name} for name in folder.names(*PATTERNS) if name not in named]
    return tables.source(folder, parser, rows, tables.architectures(folder, module, input), weights)
