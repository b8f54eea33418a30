"""Folder: the root of a foreign source. Nothing outside it is read, and everything that is read is in its SHA-256."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import mmap
import os
import stat
import threading
import tokenize
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from metanet.errors import RefusedError
from metanet.importers.intake import csv_tables
from metanet.importers.intake.containers import MOST_BYTES
from metanet.importers.intake.json_text import parse_json
from metanet.importers.intake.path_names import path_problem

MOST_TEXT_BYTES = 1 << 28  # of a JSON or CSV file, unpacked, and of raw numbers

AROUND_BYTES = 1 << 16  # of a mapped file that reading a byte brings into memory, before it and after it


class Folder:
    """A folder with foreign files, or a single file, whose folder is the root then.

    Raises:
        FileNotFoundError: nothing is there.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        self.path = path
        self.root = (path if path.is_dir() else path.parent).resolve()
        self._read: dict[str, Path] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}  # what `_state` was when a file was asked for
        self._hashes: dict[Path, str] = {}  # of files that were read whole
        self._mapped: list[Path] = []
        self._hashing: list[Future[None]] = []

    def file(self, name: str, most: int | None = MOST_BYTES) -> Path:
        """The file called `name` below the root, of at most `most` bytes, with "/" between folders; it counts as read.

        Raises:
            RefusedError: the name or a link leads outside the root, or to what is no ordinary file or has hard links.
            FileNotFoundError: no such file.
            ValueError: too large, as a file may claim to be that has nothing in it.
            OSError: the user may not read it.
        """
        problem = path_problem(name)
        if problem:
            raise RefusedError(f"{self.root}: refused to open {name!r}: {problem}")
        path = os.path.join(self.root, name)
        resolved = path if _has_no_links(str(self.root), name) else os.path.realpath(path)
        if os.path.commonpath([resolved, self.root]) != str(self.root):
            raise RefusedError(f"{self.root}: refused to open {name!r}: a link leads outside the folder")
        try:
            about = os.stat(resolved)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file") from None
        if not stat.S_ISREG(about.st_mode):
            raise RefusedError(f"{self.root}: refused to open {name!r}: no ordinary file")
        if about.st_nlink > 1:
            raise RefusedError(
                f"{self.root}: refused to open {name!r}: a file with {about.st_nlink} names (hard links), one of which "
                f"may lie outside the folder. Copy the folder with cp -r and give the copy, which has files of its own."
            )
        if most is not None and about.st_size > most:
            raise ValueError(f"{path}: found {about.st_size:,} bytes, more than the {most:,} that are read")
        if not os.access(resolved, os.R_OK):
            raise OSError(f"{path}: cannot be read: permission denied. chmod +r gives the right to, to its owner")
        self._read[name], self._seen[name] = Path(resolved), _state(about)
        return self._read[name]

    def check_unchanged(self) -> None:
        """Raises OSError if a file that was read is another one now."""
        for name, path in self._read.items():
            now = _state(path.stat()) if path.exists() else None
            if now != self._seen[name]:
                told = "is gone" if now is None else "has changed"
                raise OSError(
                    f"{self.root / name}: {told} since it was read; no zoo was written. Import again when nothing "
                    f"writes there, or give a copy of the folder."
                )

    def has(self, name: str) -> bool:
        """Whether there is an ordinary file of that name inside the root."""
        path = (self.root / name).resolve()
        return path_problem(name) is None and path.is_relative_to(self.root) and path.is_file()

    def names(self, *patterns: str) -> list[str]:
        """The names of the files that fit one of the patterns (`Path.glob`), sorted; hidden ones are left out."""
        if self.path.is_file():
            return [self.path.name]
        found = {path.relative_to(self.root) for pattern in patterns for path in self.root.glob(pattern)}
        visible = [name for name in found if not any(part.startswith(".") for part in name.parts)]
        return sorted(name.as_posix() for name in visible if not (self.root / name).is_dir())

    def listing(self) -> str:
        """A SHA-256 of names, sizes and times of all visible files below the root: another if one has changed.

        Raises:
            OSError: a folder that the user may not read, whose nets would be missing.
        """
        whole = hashlib.sha256()
        for folder, folders, files in os.walk(self.root, onerror=_unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in files if not name.startswith(".")):
                about = os.stat(os.path.join(folder, name), follow_symlinks=False)
                place = os.path.relpath(folder, self.root)
                whole.update(f"{place}/{name} {about.st_size} {about.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()

    def sha256(self, known: Mapping[Path, str] = MappingProxyType({})) -> str:
        """Of the names and contents of all files that were read, in the order of their names.

        `known` has the SHA-256 of files that need not be read once more.
        """
        for hashing in self._hashing:
            hashing.result()
        whole = hashlib.sha256()
        for name in sorted(self._read):
            path = self._read[name]
            own = self._hashes.get(path) or known.get(path) or _sha256(path)
            whole.update(f"{own}  {name}\n".encode())
        return whole.hexdigest()

    @contextlib.contextmanager
    def hashing(self, threads: Executor | None) -> Iterator[None]:
        """Hashes the files that are mapped into memory beside what the caller does; `sha256` is told inside of it."""
        ended = threading.Event()

        def hashed(path: Path) -> None:
            whole, piece = hashlib.sha256(), bytearray(1 << 18)  # stays in the processor's cache
            with open(path, "rb") as file:
                while (count := file.readinto(piece)) and not ended.is_set():
                    whole.update(memoryview(piece)[:count])
            if not ended.is_set():
                self._hashes[path] = whole.hexdigest()

        self._hashing = [threads.submit(hashed, path) for path in self._mapped] if threads else []
        try:
            yield
        finally:
            ended.set()

    def text(self, name: str) -> str:
        """A UTF-8 file, unpacked if its name ends in .gz.

        Raises:
            ValueError: too large, truncated, or not UTF-8.
        """
        path = self.file(name)
        try:
            with gzip.open(path) if name.endswith(".gz") else open(path, "rb") as file:
                data = file.read(MOST_TEXT_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, gzip.zlib.error) as error:  # type: ignore[attr-defined]
            raise ValueError(f"{path}: damaged: {error}") from error
        if len(data) > MOST_TEXT_BYTES:
            raise ValueError(f"{path}: found more than {MOST_TEXT_BYTES:,} bytes of text")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text: {error}") from error

    def json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            ValueError: no JSON, too large, or nested too deeply.
        """
        return parse_json(self.text(name), str(self.root / name))

    def rows(self, name: str, needed: tuple[str, ...] = ()) -> list[dict[str, str]]:
        """The rows of a CSV file with a header; every value is text as it stands there.

        Raises:
            ValueError: no header, a row of another length, or a column of `needed` is missing.
        """
        return self.table(name, needed).to_pylist()

    def table(self, name: str, needed: tuple[str, ...] = ()) -> pa.Table:
        """What `rows` gives, as columns of text, each different text once: many times as fast and small.

        Raises:
            ValueError: see `rows`.
        """
        return csv_tables.read(self.text(name), str(self.root / name), needed)

    def doubles(self, name: str) -> np.ndarray:
        """A file of raw little-endian float64 numbers.

        Raises:
            ValueError: its size is no multiple of 8 bytes, or too large.
        """
        path = self.file(name)
        if path.stat().st_size > MOST_TEXT_BYTES:
            raise ValueError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {MOST_TEXT_BYTES:,}")
        if path.stat().st_size % 8:
            raise ValueError(f"{path}: found {path.stat().st_size:,} bytes, expected a multiple of 8: truncated")
        data = path.read_bytes()
        self._hashes[path] = hashlib.sha256(data).hexdigest()
        return np.frombuffer(data, "<f8", len(data) // 8)

    def array(self, name: str) -> np.ndarray:
        """A .npy file of numbers, mapped into memory: read where it is used, and never written.

        Raises:
            RefusedError: it holds pickled objects.
            ValueError: no .npy file, or its size is not what its header claims.
        """
        path = self.file(name, most=None)
        with open(path, "rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
                shape, _, dtype = read(file)
            except (ValueError, KeyError, EOFError, RecursionError, MemoryError, tokenize.TokenError) as error:
                raise ValueError(f"{path}: no .npy file of numbers ({error})") from error
            offset = file.tell()
        if dtype.hasobject:
            raise RefusedError(f"{path}: refused: its values are pickled Python objects, which run code when read")
        found = path.stat().st_size - offset
        expected = dtype.itemsize
        for size in shape:
            expected *= size
        if min(shape, default=1) < 0 or expected != found:
            raise ValueError(f"{path}: its header claims {shape} of {dtype}, {expected:,} bytes; found {found:,}")
        self._mapped.append(path)
        return np.load(path, mmap_mode="c", allow_pickle=False) if found else np.zeros(shape, dtype)


def _state(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_ino, about.st_size, about.st_mtime_ns


def _unreadable(error: OSError) -> None:
    raise OSError(f"{error.filename}: cannot be read: {error.strerror}. chmod +rx gives the right to, to its owner")


def _has_no_links(root: str, name: str) -> bool:
    """Whether every part of the path below the root is there and no link; far cheaper to ask than where one leads."""
    place = root
    try:
        for part in name.split("/"):
            place = f"{place}/{part}"
            if stat.S_ISLNK(os.lstat(place).st_mode):
                return False
    except OSError:
        return False
    return True


def release(array: np.ndarray, first: int, end: int) -> None:
    """Lets go of the memory that reading some rows of a mapped array has filled; they are read anew where used.

    An array that is not mapped is left alone.
    """
    mapped = array.base
    if isinstance(array, np.memmap) and isinstance(mapped, mmap.mmap):
        row = array.nbytes // len(array)
        offset = array.offset % mmap.ALLOCATIONGRANULARITY
        start = max(offset + first * row - AROUND_BYTES, 0) // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, offset + end * row - start)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
