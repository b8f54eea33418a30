"""One safetensors file per net, with its state_dict, and in the metadata, as JSON under "metanet", the architecture and
the net's row of the manifest. `python -m metanet.predict` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from metanet.exporters import Snapshot
from metanet.zoo import disk, shards
from metanet.zoo.store import Zoo


def write(zoo: Zoo, snapshots: Sequence[Snapshot], folder: Path) -> Iterator[None]:
    """net-N-step-S.safetensors."""
    for snapshot in snapshots:
        about = {**snapshot.row, "arch": snapshot.arch, "arch_name": snapshot.row["arch"]}
        disk.write_atomically(folder / f"{snapshot.name}.safetensors", shards.pack(snapshot.state_dict(), about))
        yield
