"""What the tests of making a zoo share."""

import hashlib
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metanet import commandline
from metanet.zoo import layout

NO_AUTOGRAD = 79  # exit code; none of ours
SCRIPT = Path("scripts/make_zoo.py").resolve()


class Killed(BaseException):
    """Stands for the end of the process: no handler of ours may catch it."""


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file whose bytes must not depend on when, where or in how many attempts a zoo was made."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (layout.LOG, ".lock")
    }


def command(*words: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, words)]


def run_script(monkeypatch, *words: str) -> None:
    """The script without the seconds that a new process needs to import torch."""
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    commandline.run(script["main"], script["Options"])


def worker_processes(parent: int) -> list[int]:
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except FileNotFoundError:  # it has ended
        return []
    return [int(child) for child in children if b"spawn_main" in command_line(int(child))]


def command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def exit_code(act: Callable[[], None]) -> int:
    """That of a process that does only this."""
    try:
        act()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


def in_child(act: Callable[[], None]) -> int:
    """The exit code of a process that does `act` and ends, without any of the handlers and fixtures of this one.

    The test is skipped where a build of torch for CUDA has traced a network in this process and then trained: autograd
    has threads then, which do not survive a fork.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the threads that libraries have started: they are idle
        child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == NO_AUTOGRAD:
            pytest.skip("this torch cannot train in a fork of this process; run the file by itself")
        return code
    code = 70
    try:
        signal.alarm(300)
        torch.set_num_threads(1)
        code = exit_code(act)
    except BaseException as error:
        traceback.print_exc()
        if torch.version.cuda and "Autograd-and-Fork" in str(error):
            code = NO_AUTOGRAD
    finally:
        sys.stderr.flush()
        os._exit(code)
