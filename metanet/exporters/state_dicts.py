"""Plain checkpoints: net-N-step-S.pt with one state_dict each, for `torch.load(path, weights_only=True)`.

metadata.csv has a row per file with the net's hyperparameters and accuracies, and archs.json the architectures.
`scripts/import_zoo.py format=state_dicts` makes a zoo of the folder, with the same weights bit for bit.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from metanet.exporters import Snapshot, put_labels
from metanet.zoo import disk
from metanet.zoo.store import Zoo


def write(zoo: Zoo, snapshots: Sequence[Snapshot], folder: Path) -> Iterator[None]:
    """The checkpoints, then the table."""
    for snapshot in snapshots:
        buffer = io.BytesIO()
        torch.save(snapshot.own_state_dict(), buffer)
        disk.write_atomically(folder / f"{snapshot.name}.pt", buffer.getvalue())
        yield
    put_labels(folder / "metadata.csv", [one.labels(f"{one.name}.pt") for one in snapshots], snapshots)
