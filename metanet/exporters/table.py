"""Stacked tensors: stack-K.safetensors with tensors [nets, *shape] of one architecture, `shard_size` bytes at most.

nets.csv has a row per net with its file, its place there (`row`), its hyperparameters and accuracies, and archs.json
the architectures. `scripts/import_zoo.py format=table` makes a zoo of the folder, with the same weights bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from metanet.exporters import Snapshot, check_shard_size, put_labels
from metanet.zoo import disk
from metanet.zoo.store import Zoo


def write(zoo: Zoo, snapshots: Sequence[Snapshot], folder: Path, *, shard_size: int = 1_000_000_000) -> Iterator[None]:
    """The stacks, then the table, in the order of the nets."""
    check_shard_size(shard_size)
    rows: dict[str, dict[str, Any]] = {}
    stacks = 0
    for arch in sorted({snapshot.row["arch"] for snapshot in snapshots}):
        stack: list[tuple[Snapshot, dict[str, Tensor]]] = []
        members = [snapshot for snapshot in snapshots if snapshot.row["arch"] == arch]
        for member in members:
            stack.append((member, member.own_state_dict()))
            size = sum(tensor.nbytes for tensor in stack[0][1].values())
            if member is members[-1] or (len(stack) + 1) * size > shard_size:
                path = folder / f"stack-{stacks}.safetensors"
                _put(path, [state_dict for _, state_dict in stack])
                rows |= {one.name: one.labels(path.name) | {"row": row} for row, (one, _) in enumerate(stack)}
                stack, stacks = [], stacks + 1
            yield
    put_labels(folder / "nets.csv", [rows[snapshot.name] for snapshot in snapshots], snapshots)


def _put(path: Path, state_dicts: Sequence[dict[str, Tensor]]) -> None:
    stacked = {name: torch.stack([one[name] for one in state_dicts]) for name in state_dicts[0]}
    disk.write_atomically(path, safetensors.torch.save(stacked))
