"""Parser: containers are read by a child process with limits (child.py), and come back as safetensors."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

import metanet
from metanet.commandline import RefusedError
from metanet.zoo import shards

JOB_FILES, JOB_BYTES = 64, 1 << 26  # in one job at most, unless a single file is larger
SECONDS = 120  # of waiting for the answer to a job


@dataclass(frozen=True)
class Parsed:
    """One file: the state_dict inside it, and what stands beside it there."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


class Parser:
    """The child process; a context manager. It is started with the first file, and again if a file has killed it."""

    def __enter__(self) -> Parser:
        self._folder = tempfile.TemporaryDirectory(prefix="metanet-import-")
        self._child: subprocess.Popen[str] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def parse(self, paths: Iterable[Path], reader: str = "containers") -> Iterator[Parsed | ValueError]:
        """For each file its content, or why there is none: RefusedError, or ValueError for damage.

        `reader` names one of child.READERS.
        """
        job: list[Path] = []
        for path in paths:
            if len(job) == JOB_FILES or (job and sum(map(_size, job)) + _size(path) > JOB_BYTES):
                yield from self._job(job, reader)
                job = []
            job.append(path)
        if job:
            yield from self._job(job, reader)

    def _job(self, paths: list[Path], reader: str) -> Iterator[Parsed | ValueError]:
        answers = self._ask(paths, reader)
        if isinstance(answers, str):
            if len(paths) > 1:  # one of them has ended the process; alone each can only spoil itself
                for path in paths:
                    yield from self._job([path], reader)
            else:
                yield RefusedError(f"{paths[0]}: refused: the process that was reading it {answers}")
            return
        file = Path(self._folder.name) / "tensors.safetensors"
        shards.check_size(file)
        tensors = safetensors.torch.load(file.read_bytes())
        file.unlink()
        for number, answer in enumerate(answers):
            if "error" in answer:
                kind = RefusedError if answer.get("refused") else ValueError
                yield kind(str(answer["error"]))
            else:
                own = {name: tensors[f"{number}/{name}"] for name in answer["tensors"]}
                yield Parsed(own, answer["metadata"])

    def _ask(self, paths: list[Path], reader: str) -> list[dict[str, Any]] | str:
        """The answers, or in words how the child ended instead."""
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            print(json.dumps({"reader": reader, "paths": [str(path) for path in paths]}), file=child.stdin, flush=True)
        except BrokenPipeError:
            return self._end()
        if not select.select([child.stdout], [], [], SECONDS)[0]:
            self._end()
            return f"took more than {SECONDS} seconds"
        line = child.stdout.readline()
        return json.loads(line) if line.endswith("\n") else self._end()

    def _start(self) -> subprocess.Popen[str]:
        home = str(Path(metanet.__file__).parents[1])
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join([home, *filter(None, sys.path)]),
        }
        words = [sys.executable, "-m", "metanet.importers.intake.child", self._folder.name]
        self._child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,  # Ctrl-C is for the importer, which ends the child
        )
        return self._child

    def _end(self) -> str:
        """Ends the child; how it ended, in words."""
        child, self._child = self._child, None
        if child is None:
            return "had ended"
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        try:
            code = child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        child.stdout.close()
        if code == 77:
            return "asked for another process, a connection or a file to write"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _size(path: Path) -> int:
    return path.stat().st_size
