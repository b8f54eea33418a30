"""Work: the training of one group, from what the disk holds of it to all its snapshots.

The order of writing is the protocol: the shard, then what training resumes from, then the fragment (which acknowledges
the snapshot); only then the previous snapshot's resume file goes. So whenever the process ends, every acknowledged
snapshot is whole, and training goes on from the last one. Shards and fragments are put where nothing is: of two workers
with one group, the second finds what the first has written, and it must be the same.

Nets that stop early have all snapshots of their group in one shard, which is put when the last of them has ended; what
is kept until then is in candidates.py.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metanet import machine
from metanet.zoo import convolutions, disk, images, layout, manifest, shards
from metanet.zoo.candidates import Candidates
from metanet.zoo.fit import Snapshot, fit
from metanet.zoo.fit_stopping import StoppingFit
from metanet.zoo.images import Images
from metanet.zoo.plan import Group
from metanet.zoo.spec import Spec
from metanet.zoo.way import Way


class TooLarge(Exception):  # noqa: N818 (the name says what the executor meets)
    """A group needs more memory than there is; the executor asks for what to train in its place."""


@dataclass(frozen=True)
class Work:
    """What a worker needs beside the group: small, since ids and paths travel, not tensors."""

    spec: Spec
    zoo: Path
    device: str
    way: Way = field(default_factory=Way)

    def images(self) -> dict[str, Images]:
        """The image sets of the spec, on the device."""
        channels, height, width = self.spec.image_shape
        shape = (channels, height, width)
        return {name: images.load(name, shape=shape).to(self.device) for name in self.spec.images}

    def is_done(self, group: Group) -> bool:
        """Whether every snapshot is acknowledged, and what training resumed from is gone."""
        if group.stops_early:
            return not self._missing(group) and not Candidates(self.zoo, group).folder.exists()
        left = [step for step in group.snapshot_steps if layout.resume_path(self.zoo, group.name, step).exists()]
        return not self._missing(group) and not left

    def acknowledged(self, group: Group) -> list[int | None]:
        """The steps of the shards that have their fragment."""
        return [step for step in group.shards if layout.fragment_path(self.zoo, group.name, step).is_file()]

    def train(self, group: Group, loaded: Mapping[str, Images], report: Callable[[float], None]) -> None:
        """Trains what the disk does not hold yet; `report` is told the fraction of the group that is done, up to 1.

        Raises:
            As `steps`.
        """
        with self.way.on(self.device):
            for _ in self.steps(group, loaded, report):
                pass

    def steps(self, group: Group, loaded: Mapping[str, Images], report: Callable[[float], None]) -> Iterator[int]:
        """The same, a step for every iteration, which tells how many nets it trained; `way.on(device)` is the caller's.

        Raises:
            TooLarge: there is too little memory.
            ValueError: a damaged resume file, or a snapshot that is there with other bytes.
            OSError: disk full, no permission, ...
        """
        try:
            yield from self._steps(group, loaded, report)
            return
        except (MemoryError, RuntimeError) as error:
            if not machine.is_out_of_memory(error):
                raise
        if self.device != "cpu":
            torch.cuda.empty_cache()
        raise TooLarge(group.name)  # out here, where the error no longer holds what the training held

    def _steps(self, group: Group, loaded: Mapping[str, Images], report: Callable[[float], None]) -> Iterator[int]:
        if self._missing(group):
            disk.make_folder(self.zoo / "shards" / group.name)
            train = self._train_to_own_ends if group.stops_early else self._train_to_one_end
            yield from train(group, loaded, report)
            if chosen := convolutions.FASTEST.news():
                layout.log(self.zoo, "convolutions", host=platform.node(), chosen=chosen)
        if group.stops_early:
            Candidates(self.zoo, group).remove()
        else:
            self._remove_resume_files(group)
        report(1.0)

    def _train_to_one_end(
        self, group: Group, loaded: Mapping[str, Images], report: Callable[[float], None]
    ) -> Iterator[int]:
        missing, last = self._missing(group), group.snapshot_steps[-1]

        def keep(snapshot: Snapshot) -> None:
            assert snapshot.step is not None
            self._write(group, snapshot, acknowledge=snapshot.step in missing)
            if snapshot.step < last:
                report(snapshot.step / last)

        resume = self._resume_state(group, before=min(step for step in missing if step is not None))
        yield from fit(group, loaded, self.spec.seed, self.device, resume, keep, way=self.way)

    def _train_to_own_ends(
        self, group: Group, loaded: Mapping[str, Images], report: Callable[[float], None]
    ) -> Iterator[int]:
        files = Candidates(self.zoo, group)
        fit = StoppingFit(group, loaded, self.spec.seed, self.device, way=self.way)
        try:
            resume = files.resume()
            if resume is None:
                files.clear()
                fit.begin()
                files.save(fit)
            else:
                fit.load(resume)
            while not fit.over:
                yield from fit.advance()
                files.save(fit)
                report(fit.epoch / (group.epochs + 1))
            self._write(group, fit.snapshots(files.read), acknowledge=True)
        except FileNotFoundError:
            if self._missing(group):
                raise  # else a worker that was taken for dead has finished the group, and removed the files

    def _missing(self, group: Group) -> list[int | None]:
        """The steps of the shards that are not acknowledged, or are lost."""
        there = self.acknowledged(group)
        return [
            step
            for step in group.shards
            if step not in there or not layout.shard_path(self.zoo, group.name, step).is_file()
        ]

    def _resume_state(self, group: Group, before: int) -> dict[str, Tensor] | None:
        """The latest one of a snapshot before `before`; None if there is none."""
        for step in reversed([step for step in group.snapshot_steps if step < before]):
            path = layout.resume_path(self.zoo, group.name, step)
            if path.is_file():
                fragment = layout.fragment_path(self.zoo, group.name, step)
                _, hashes = manifest.read(fragment.read_bytes(), fragment)
                if disk.sha256(path.read_bytes()) != hashes["resume"]:
                    raise ValueError(
                        f"{path}: damaged: its SHA-256 is not the one in {fragment}. Remove {path.name} and give the "
                        f"same command again: the group is trained anew, and only what is missing is written."
                    )
                return shards.load(path)[0]
        return None

    def _write(self, group: Group, snapshot: Snapshot, acknowledge: bool) -> None:
        step, state_dict = snapshot.step, snapshot.state_dict
        about = {"arch": dict(group.arch), "group": group.name} | ({} if step is None else {"step": step})
        shard = shards.parts(state_dict, about)
        hashes: dict[str, Any] = {"shard": disk.sha256(*shard), "tensors": shards.tensor_hashes(state_dict)}
        resume: list[bytes | memoryview] = []
        if step is not None and step < group.snapshot_steps[-1]:
            resume = shards.parts(snapshot.resume_state, {"group": group.name, "step": step})
            hashes["resume"] = disk.sha256(*resume)
        rows = manifest.fragment(manifest.columns(self.spec), group, snapshot, shards.net_hashes(state_dict), hashes)
        fragment_path = layout.fragment_path(self.zoo, group.name, step)
        if acknowledge:
            disk.holds(fragment_path, rows)  # a shard must not be put beside the fragment of another
            disk.put_if_absent(layout.shard_path(self.zoo, group.name, step), *shard)
        if step is not None and resume:
            disk.write_atomically(layout.resume_path(self.zoo, group.name, step), *resume)
        if acknowledge:
            disk.put_if_absent(fragment_path, rows)
        if step is not None:
            self._remove_resume_files(group, before=step)

    def _remove_resume_files(self, group: Group, before: int | None = None) -> None:
        for step in group.snapshot_steps:
            if before is None or step < before:
                disk.remove(layout.resume_path(self.zoo, group.name, step))
