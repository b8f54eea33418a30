"""Work: the training of one group, from what the disk holds of it to all its snapshots.

The order of writing is the protocol: the shard, then what training resumes from, then the fragment (which acknowledges
the snapshot); only then the previous snapshot's resume file goes. So whenever the process ends, every acknowledged
snapshot is whole, and training goes on from the last one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from metanet.zoo import disk, images, layout, manifest, shards
from metanet.zoo.fit import Snapshot, fit
from metanet.zoo.images import Images
from metanet.zoo.plan import Group
from metanet.zoo.spec import Spec


@dataclass(frozen=True)
class Work:
    """What a worker needs beside the group: small, since ids and paths travel, not tensors."""

    spec: Spec
    zoo: Path
    device: str

    def images(self) -> dict[str, Images]:
        """The image sets of the spec, on the device."""
        channels, height, width = self.spec.image_shape
        shape = (channels, height, width)
        return {name: images.load(name, shape=shape).to(self.device) for name in self.spec.images}

    def is_done(self, group: Group) -> bool:
        """Whether every snapshot is acknowledged, and what training resumed from is gone."""
        left = [step for step in group.snapshot_steps if layout.resume_path(self.zoo, group.name, step).exists()]
        return not self._missing(group) and not left

    def train(self, group: Group, loaded: Mapping[str, Images], report: Callable[[float], None]) -> None:
        """Trains what the disk does not hold yet; `report` is told the fraction of the group that is done, up to 1."""
        missing = self._missing(group)
        if missing:
            last = group.snapshot_steps[-1]

            def keep(snapshot: Snapshot) -> None:
                self._write(group, snapshot, acknowledge=snapshot.step in missing)
                if snapshot.step < last:
                    report(snapshot.step / last)

            disk.make_folder(self.zoo / "shards" / group.name)
            fit(group, loaded, self.spec.seed, self.device, self._resume_state(group, before=missing[0]), keep)
        self._remove_resume_files(group)
        report(1.0)

    def _missing(self, group: Group) -> list[int]:
        """The steps of the snapshots that are not acknowledged, or have lost their shard."""
        return [
            step
            for step in group.snapshot_steps
            if not layout.fragment_path(self.zoo, group.name, step).is_file()
            or not layout.shard_path(self.zoo, group.name, step).is_file()
        ]

    def _resume_state(self, group: Group, before: int) -> dict[str, Tensor] | None:
        """The latest one of a snapshot before `before`; None if there is none."""
        for step in reversed([step for step in group.snapshot_steps if step < before]):
            path = layout.resume_path(self.zoo, group.name, step)
            if path.is_file():
                return shards.load(path)[0]
        return None

    def _write(self, group: Group, snapshot: Snapshot, acknowledge: bool) -> None:
        step, state_dict = snapshot.step, snapshot.state_dict
        shard = shards.pack(state_dict, {"arch": dict(group.arch), "group": group.name, "step": step})
        if acknowledge:
            disk.write_atomically(layout.shard_path(self.zoo, group.name, step), shard)
        if step < group.snapshot_steps[-1]:
            resume = shards.pack(snapshot.resume_state, {"group": group.name, "step": step})
            disk.write_atomically(layout.resume_path(self.zoo, group.name, step), resume)
        if acknowledge:
            hashes = {"shard": hashlib.sha256(shard).hexdigest(), "tensors": shards.tensor_hashes(state_dict)}
            rows = manifest.fragment(
                manifest.columns(self.spec),
                group,
                step,
                snapshot.diverged,
                snapshot.metrics,
                shards.net_hashes(state_dict),
                hashes,
            )
            disk.write_atomically(layout.fragment_path(self.zoo, group.name, step), rows)
        self._remove_resume_files(group, before=step)

    def _remove_resume_files(self, group: Group, before: int | None = None) -> None:
        for step in group.snapshot_steps:
            if before is None or step < before:
                disk.remove(layout.resume_path(self.zoo, group.name, step))
