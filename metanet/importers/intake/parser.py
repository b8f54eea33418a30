"""Parser: containers are read by child processes with limits (child.py), and come back as safetensors."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

import metanet
from metanet.errors import RefusedError
from metanet.zoo import shards

JOB_FILES, JOB_BYTES = 128, 1 << 23  # in one job at most, unless a single file is larger
AHEAD = 2  # jobs that wait in front of a child
SECONDS = 120  # of waiting for the answer to a job


@dataclass(frozen=True)
class Parsed:
    """One file: the state_dict inside it, and what stands beside it there."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


@dataclass
class _Job:
    number: int
    paths: list[Path]
    reader: str
    options: dict[str, str]
    child: _Child


class Parser:
    """`workers` child processes; a context manager. They are started when needed, and anew if a file has killed one.

    `sha256` has the digest of every file that was read.
    """

    def __init__(self, workers: int = 1):
        self.workers, self.sha256 = workers, dict[Path, str]()

    def __enter__(self) -> Parser:
        self._temporary = tempfile.TemporaryDirectory(prefix="metanet-import-")
        self._children: list[_Child] = []
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._temporary.cleanup()

    def parse(self, paths: Iterable[Path], reader: str = "containers", **options: str) -> Iterator[Parsed | ValueError]:
        """For each file its content, or why there is none: RefusedError, or ValueError for damage. In their order.

        `reader` names one of child.READERS; the options are those of its function.
        """
        waiting: deque[_Job] = deque()
        try:
            for job in _jobs(paths):
                if len(waiting) == AHEAD * self.workers:
                    yield from self._answer(waiting.popleft(), waiting)
                waiting.append(self._send(job, reader, options))
            while waiting:
                yield from self._answer(waiting.popleft(), waiting)
        finally:
            if waiting:  # nobody will ask for their answers
                self._end()

    def _send(self, paths: list[Path], reader: str, options: dict[str, str], child: _Child | None = None) -> _Job:
        """Gives a job to a child, to one after the other if none is named."""
        self._children = [one for one in self._children if not one.ended]
        self._count += 1
        if child is None and len(self._children) < self.workers:
            self._children.append(_Child(Path(self._temporary.name)))
        child = child or self._children[self._count % len(self._children)]
        job = _Job(self._count, paths, reader, options, child)
        job.child.send(job)
        return job

    def _answer(self, job: _Job, waiting: deque[_Job], alone: bool = False) -> Iterator[Parsed | ValueError]:
        ended = job.child.wait(job.number)
        if ended is not None:
            if alone:
                self.sha256.pop(job.paths[0], None)
                yield RefusedError(f"{job.paths[0]}: refused: the process that was reading it {ended}")
            for path in () if alone else job.paths:  # one has ended the process; alone each can only spoil itself
                child = _Child(Path(self._temporary.name))
                try:
                    yield from self._answer(self._send([path], job.reader, job.options, child), deque(), alone=True)
                finally:
                    child.end()
            for number, other in enumerate(waiting):  # the process has not begun with them
                if other.child is job.child:
                    waiting[number] = self._send(other.paths, other.reader, other.options)
            return
        file = Path(self._temporary.name) / f"{job.number}.safetensors"
        shards.check_size(file)
        answers = json.loads(file.with_suffix(".json").read_text())
        stacks: dict[int, dict[str, tuple[Tensor, ...]]] = {}
        for name, stacked in safetensors.torch.load(file.read_bytes()).items():
            number, _, own = name.partition("/")
            stacks.setdefault(int(number), {})[own] = stacked.unbind()
        file.unlink()
        file.with_suffix(".json").unlink()
        for path, answer in zip(job.paths, answers, strict=True):
            if answer["sha256"]:
                self.sha256[path] = answer["sha256"]
            if "error" in answer:
                kind = RefusedError if answer.get("refused") else ValueError
                yield kind(str(answer["error"]))
            else:
                stack, row = answer["place"]
                yield Parsed({name: stacks[stack][name][row] for name in answer["names"]}, answer["metadata"])

    def _end(self) -> None:
        for child in self._children:
            child.end()
        self._children = []


class _Child:
    """One process of child.py."""

    def __init__(self, folder: Path):
        home = str(Path(metanet.__file__).parents[1])
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join([home, *filter(None, sys.path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.ended = False
        self._answered: set[bytes] = set()  # numbers of jobs
        self._begun = b""  # of the next line
        self._process = subprocess.Popen(
            [sys.executable, "-m", "metanet.importers.intake.child", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
            start_new_session=True,  # Ctrl-C is for the importer, which ends the child
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def send(self, job: _Job) -> None:
        paths = [str(path) for path in job.paths]
        line = {"job": job.number, "reader": job.reader, "options": job.options, "paths": paths}
        with contextlib.suppress(BrokenPipeError):  # `wait` tells
            self._stdin.write(json.dumps(line).encode() + b"\n")
            self._stdin.flush()

    def wait(self, number: int) -> str | None:
        """None when the job is done; how the process ended instead, in words."""
        while str(number).encode() not in self._answered:
            if self.ended:
                return "had ended"
            if not select.select([self._stdout], [], [], SECONDS)[0]:
                self.end()
                return f"took more than {SECONDS} seconds"
            more = os.read(self._stdout.fileno(), 4096)
            if not more:
                return self.end()
            *lines, self._begun = (self._begun + more).split(b"\n")
            self._answered |= set(lines)
        return None

    def end(self) -> str:
        """Ends the process; how it ended, in words."""
        if self.ended:
            return "had ended"
        self.ended = True
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            code = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._stdout.close()
        if code == 77:
            return "asked for another process, a connection or a file to write"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _jobs(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """The paths in lists of at most JOB_FILES files and JOB_BYTES bytes."""
    job: list[Path] = []
    total = 0
    for path in paths:
        size = path.stat().st_size
        if len(job) == JOB_FILES or (job and total + size > JOB_BYTES):
            yield job
            job, total = [], 0
        job.append(path)
        total += size
    if job:
        yield job
