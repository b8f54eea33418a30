"""A disk that can lose power: what was synced is left, and of the rest as little, as much or as mixed as POSIX allows.

The bytes of a file outlive a power failure after fsync of the file, and its name after fsync of its folder. Method:
SQLite's crash tests (https://www.sqlite.org/testing.html), and Pillai et al. (2014), All File Systems Are Not Created
Equal, OSDI.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate", "os.chmod")


class Disk:
    """What is below the folder `root`, as the system shows it and as it would be after a power failure.

    Files and folders are numbers: one may have several names, and be known under others after the failure.
    """

    def __init__(self, root: Path, syncs_files: bool = True, syncs_folders: bool = True):
        """An empty disk. One that syncs no files or no folders is the negative control."""
        assert not list(root.iterdir())
        self.root, self.syncs_files, self.syncs_folders = root, syncs_files, syncs_folders
        self.operations: list[tuple[str, Path]] = []
        self.shown: dict[Path, int] = {}
        self.durable: dict[Path, int] = {}
        self.synced: dict[int, bytes] = {}  # what a file held at its last fsync
        self.folders: set[int] = set()
        self.count = 0

    def watch(self, end: int | None, at_end: Callable[[], None]) -> None:
        """From now on this process changes `root` through this disk alone: any other way ends it.

        `at_end` is called in the place of operation number `end`; before that, a write puts half of its bytes.
        """
        calls = Calls(self, end, at_end)
        for act in (calls.open, calls.close, calls.write, calls.pwrite, calls.fsync, calls.fchmod):
            setattr(os, act.__name__, calls.watched(act))
        for act in (calls.truncate, calls.replace, calls.link, calls.unlink, calls.mkdir, calls.rmdir):
            setattr(os, act.__name__, calls.watched(act))
        sys.addaudithook(calls.refuse)

    def name(self, path: Path) -> int:
        self.count += 1
        self.shown[path] = self.count
        return self.count

    def sync(self, path: Path) -> None:
        if not path.is_dir():
            if self.syncs_files:
                self.synced[self.shown[path]] = path.read_bytes()
        elif self.syncs_folders:
            for name, number in self.shown.items():  # a folder that was renamed takes along what is in it
                old = [known for known, one in self.durable.items() if one == number and number in self.folders]
                if name.parent == path and old and old != [name]:
                    self.durable = _moved(self.durable, old[0], name)
            self.durable = {name: number for name, number in self.durable.items() if name.parent != path}
            self.durable |= {name: number for name, number in self.shown.items() if name.parent == path}

    def after_power_failure(self, folder: Path, left: str) -> None:
        """Puts into `folder` what is left: of what was not synced "nothing", the "names", or "some" names and bytes."""
        draw = random.Random(len(self.operations))
        names = {"nothing": self.durable, "names": self.shown}.get(left)
        if names is None:
            picks = {path: draw.choice([self.durable, self.shown]).get(path) for path in self.durable | self.shown}
            names = {path: number for path, number in picks.items() if number is not None}
        shown = {number: path for path, number in self.shown.items()}
        folder.mkdir()
        for path, number in sorted(names.items()):
            target = folder / path.relative_to(self.root)
            if not target.parent.is_dir():  # it has been lost itself
                continue
            if number in self.folders:
                target.mkdir()
                continue
            data = self.synced.get(number, b"")
            if left == "some" and number in shown and shown[number].read_bytes() != data:
                now = shown[number].read_bytes()
                data = now[: draw.randint(0, len(now))]
            target.write_bytes(data)


class Calls:
    """The calls of `os` that a disk watches, each under its own name."""

    def __init__(self, disk: Disk, end: int | None, at_end: Callable[[], None]):
        self.disk, self.end, self.at_end = disk, end, at_end
        self.real = {**vars(os)}
        self.opened: dict[int, Path] = {}
        self.inside = 0

    def watched(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """`act` for paths and descriptors below the root, the real call for all others."""

        def call(first: Any, *others: Any, **options: Any) -> Any:
            path = self.opened.get(first) if isinstance(first, int) else Path(first)
            if path is None or self.disk.root not in (path, *path.parents):
                return self.real[act.__name__](first, *others, **options)
            self.inside += 1
            try:
                return act(first, *others, **options)
            finally:
                self.inside -= 1

        return call

    def refuse(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook: ends the process where something changes the disk by another way."""
        if event not in CHANGES or self.inside or (event == "open" and not (arguments[2] or 0) & WRITES):
            return
        for path in arguments:
            if isinstance(path, str | Path) and self.disk.root in Path(path).parents:
                print(f"{event} {arguments} went past the watched calls", file=sys.stderr, flush=True)
                os._exit(1)

    def _operation(self, name: str, path: Path) -> None:
        if len(self.disk.operations) == self.end:
            self.at_end()
        self.disk.operations.append((name, path.relative_to(self.disk.root)))

    def open(self, path: Any, flags: int, *mode: int) -> int:
        new = bool(flags & os.O_CREAT) and not Path(path).exists()
        if new:
            self._operation("open", Path(path))
        descriptor = self.real["open"](path, flags, *mode)
        self.opened[descriptor] = Path(path)
        if new:
            self.disk.name(Path(path))
        return descriptor

    def close(self, descriptor: int) -> None:
        del self.opened[descriptor]
        self.real["close"](descriptor)

    def write(self, descriptor: int, data: Any) -> int:
        if len(self.disk.operations) == self.end:
            self.real["write"](descriptor, data[: len(data) // 2])
        self._operation("write", self.opened[descriptor])
        return self.real["write"](descriptor, data)

    def pwrite(self, descriptor: int, data: Any, place: int) -> int:
        if len(self.disk.operations) == self.end:
            self.real["pwrite"](descriptor, data[: len(data) // 2], place)
        self._operation("pwrite", self.opened[descriptor])
        return self.real["pwrite"](descriptor, data, place)

    def fsync(self, descriptor: int) -> None:
        self._operation("fsync", self.opened[descriptor])
        self.disk.sync(self.opened[descriptor])

    def fchmod(self, descriptor: int, mode: int) -> None:
        self._operation("fchmod", self.opened[descriptor])
        self.real["fchmod"](descriptor, mode)

    def truncate(self, descriptor: int, length: int) -> None:
        self._operation("truncate", self.opened[descriptor])
        self.real["truncate"](descriptor, length)

    def replace(self, source: Any, target: Any) -> None:
        self._operation("replace", Path(target))
        self.real["replace"](source, target)
        self.disk.shown = _moved(self.disk.shown, Path(source), Path(target))

    def link(self, source: Any, target: Any) -> None:
        self._operation("link", Path(target))
        self.real["link"](source, target)
        self.disk.shown[Path(target)] = self.disk.shown[Path(source)]

    def unlink(self, path: Any) -> None:
        self._operation("unlink", Path(path))
        self.real["unlink"](path)
        del self.disk.shown[Path(path)]

    def mkdir(self, path: Any, *mode: int) -> None:
        self._operation("mkdir", Path(path))
        self.real["mkdir"](path, *mode)
        self.disk.folders.add(self.disk.name(Path(path)))

    def rmdir(self, path: Any) -> None:
        self._operation("rmdir", Path(path))
        self.real["rmdir"](path)
        del self.disk.shown[Path(path)]


def _moved(names: dict[Path, int], source: Path, target: Path) -> dict[Path, int]:
    """The names after `source`, a file or a folder, has become `target`."""
    kept = {name: number for name, number in names.items() if source not in (name, *name.parents)}
    moved = {name: number for name, number in names.items() if source in (name, *name.parents)}
    return kept | {target / name.relative_to(source): number for name, number in moved.items()}
