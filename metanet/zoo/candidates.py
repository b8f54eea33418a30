"""Candidates: the files of a group whose nets stop early, while it is trained; in the end one shard has its snapshots.

    shards/GROUP/candidate-STEP.safetensors   the nets that may have a snapshot after STEP steps, as they were then
    shards/GROUP/resume-STEP.safetensors      what training goes on from

After every epoch the candidates are written, then the resume file, and only then goes what it no longer needs. So
whenever the process ends, there is a resume file with all the candidates that it counts on, and what is lost is less
than an epoch. Every file has its own SHA-256 in its header, since no fragment speaks of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from metanet.zoo import disk, layout, shards
from metanet.zoo.fit_stopping import Candidate, StoppingFit
from metanet.zoo.plan import Group


class Candidates:
    """Of one group."""

    def __init__(self, zoo: Path, group: Group):
        self.folder = layout.resume_path(zoo, group.name, 0).parent
        self._step = group.steps_per_epoch
        self._resume = functools.partial(layout.resume_path, zoo, group.name)
        self._candidate = functools.partial(layout.candidate_path, zoo, group.name)

    def save(self, fit: StoppingFit) -> None:
        """Makes durable what a training is after an epoch.

        Raises:
            OSError: disk full, no permission, ...
        """
        step, needed = fit.epoch * self._step, [epoch * self._step for epoch in sorted(fit.needed())]
        if fit.candidate is not None:
            about = {"step": step, "nets": fit.candidate.nets}
            disk.write_atomically(self._candidate(step), *shards.sealed(fit.candidate.state_dict, about))
        about = {"step": step, "needed": needed}
        disk.write_atomically(self._resume(step), *shards.sealed(fit.state(), about))
        for epoch in range(fit.epoch + 1):  # another worker may be further
            if epoch < fit.epoch:
                disk.remove(self._resume(epoch * self._step))
            if epoch * self._step not in needed:
                disk.remove(self._candidate(epoch * self._step))

    def resume(self) -> dict[str, Tensor] | None:
        """The latest state that was saved; None if there is none, or a candidate is missing that it needs.

        Raises:
            ValueError: a damaged file.
        """
        steps = [int(path.stem.removeprefix("resume-")) for path in self.folder.glob("resume-*.safetensors")]
        if not steps:
            return None
        with self._told():
            state, about = shards.load_sealed(self._resume(max(steps)))
        return state if all(self._candidate(step).is_file() for step in about["needed"]) else None

    def read(self, epoch: int) -> Candidate:
        """The candidates of an epoch.

        Raises:
            ValueError, FileNotFoundError: a damaged or missing file.
        """
        with self._told():
            state_dict, about = shards.load_sealed(self._candidate(epoch * self._step))
        return Candidate(about["nets"], state_dict)

    def clear(self) -> None:
        """Before a training from the start: on a GPU it may be another than the one that the files are of."""
        for path in sorted(self.folder.glob("*.safetensors")):
            disk.remove(path)

    def remove(self) -> None:
        """When the group is done."""
        if self.folder.is_dir():
            self.clear()
            disk.remove_folder(self.folder)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(
                f"{error} Remove that file and give the same command again: the group is trained anew."
            ) from error
