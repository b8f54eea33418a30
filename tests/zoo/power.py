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
        real, opened, inside = {**vars(os)}, dict[int, Path](), 0

        def operation(name: str, path: Path) -> None:
            if len(self.operations) == end:
                at_end()
            self.operations.append((name, path.relative_to(self.root)))

        def watched(act: Callable[..., Any]) -> Callable[..., Any]:
            def call(first: Any, *others: Any, **options: Any) -> Any:
                nonlocal inside
                path = opened.get(first) if isinstance(first, int) else Path(first)
                if path is None or self.root not in (path, *path.parents):
                    return real[act.__name__](first, *others, **options)
                inside += 1
                try:
                    return act(first, *others, **options)
                finally:
                    inside -= 1

            return call

        def open(path: Any, flags: int, *mode: int) -> int:
            new = bool(flags & os.O_CREAT) and not Path(path).exists()
            if new:
                operation("open", Path(path))
            descriptor = real["open"](path, flags, *mode)
            opened[descriptor] = Path(path)
            if new:
                self._name(Path(path))
            return descriptor

        def close(descriptor: int) -> None:
            del opened[descriptor]
            real["close"](descriptor)

        def write(descriptor: int, data: Any) -> int:
            if len(self.operations) == end:
                real["write"](descriptor, data[: len(data) // 2])
            operation("write", opened[descriptor])
            return real["write"](descriptor, data)

        def fsync(descriptor: int) -> None:
            operation("fsync", opened[descriptor])
            self._sync(opened[descriptor])

        def fchmod(descriptor: int, mode: int) -> None:
            operation("fchmod", opened[descriptor])
            real["fchmod"](descriptor, mode)

        def truncate(descriptor: int, length: int) -> None:
            operation("truncate", opened[descriptor])
            real["truncate"](descriptor, length)

        def replace(source: Any, target: Any) -> None:
            operation("replace", Path(target))
            real["replace"](source, target)
            self.shown[Path(target)] = self.shown.pop(Path(source))

        def link(source: Any, target: Any) -> None:
            operation("link", Path(target))
            real["link"](source, target)
            self.shown[Path(target)] = self.shown[Path(source)]

        def unlink(path: Any) -> None:
            operation("unlink", Path(path))
            real["unlink"](path)
            del self.shown[Path(path)]

        def mkdir(path: Any, *mode: int) -> None:
            operation("mkdir", Path(path))
            real["mkdir"](path, *mode)
            self.folders.add(self._name(Path(path)))

        def refuse(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in CHANGES or inside or (event == "open" and not (arguments[2] or 0) & WRITES):
                return
            for path in arguments:
                if isinstance(path, str | Path) and self.root in Path(path).parents:
                    print(f"{event} {arguments} went past the watched calls", file=sys.stderr, flush=True)
                    os._exit(1)

        for act in (open, close, write, fsync, fchmod, truncate, replace, link, unlink, mkdir):
            setattr(os, act.__name__, watched(act))
        sys.addaudithook(refuse)

    def _name(self, path: Path) -> int:
        self.count += 1
        self.shown[path] = self.count
        return self.count

    def _sync(self, path: Path) -> None:
        if not path.is_dir():
            if self.syncs_files:
                self.synced[self.shown[path]] = path.read_bytes()
        elif self.syncs_folders:
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
