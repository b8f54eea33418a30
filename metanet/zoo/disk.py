"""How files reach the disk, whole or not at all and by one writer, and how tables come back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metanet.errors import LockedError

TEMPORARY = ".tmp"  # suffix; such a file is what a killed writer left, and is never read
Put = Callable[[int, "bytes | memoryview"], None]  # of a part of a file at its place
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_atomically(path: Path, *data: bytes | memoryview) -> None:
    """Puts `data` at `path`, durably: after a crash the file is there in full or is what it was before.

    Raises:
        OSError: disk full, no permission, ...; nothing has changed then.
    """
    with written_atomically(path) as put:
        _put_in_turn(put, data)


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Put]:
    """`write_atomically` of parts, each with its place; together they leave no gap. `path` has them when all are put.

    Raises:
        OSError: see `write_atomically`.
    """
    with _written_beside(path, lambda temporary: os.replace(temporary, path)) as put:
        yield put


def put_if_absent(path: Path, *data: bytes | memoryview) -> None:
    """Puts `data` at `path` like `write_atomically`, unless it is there: what two workers have done counts once.

    Raises:
        ValueError: there is something else; it is left as it is.
        OSError: see `write_atomically`.
    """
    if holds(path, *data):
        sync_folder(path.parent)  # who has put it may have been killed before that
        return

    def link(temporary: Path) -> None:
        try:
            os.link(temporary, path)  # unlike a rename it fails where another worker was faster
            os.unlink(temporary)
        except FileExistsError:
            os.unlink(temporary)
            holds(path, *data)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.replace(temporary, path)  # a file system without links (FAT, some FUSE): the writer's lock must do

    with _written_beside(path, link) as put:
        _put_in_turn(put, data)


def holds(path: Path, *data: bytes | memoryview) -> bool:
    """Whether `data`, one after another, is at `path` already; False if nothing is.

    Raises:
        ValueError: something else is there.
    """
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        same = all(file.read(len(part)) == part for part in data) and not file.read(1)
    if not same:
        raise ValueError(
            f"{path}: holds other bytes than its nets gave when they were trained again. Other versions, another "
            f"processor or kind of device wrote it, or it is damaged (scripts/verify_zoo.py tells). Go on where "
            f"it was made, or remove this file and the others of its group and step, and give the same command again."
        )
    return True


def _put_in_turn(put: Put, data: Iterable[bytes | memoryview]) -> None:
    place = 0
    for part in data:
        put(place, part)
        place += len(part)


@contextlib.contextmanager
def _written_beside(path: Path, finish: Callable[[Path], None]) -> Iterator[Put]:
    """Puts parts into a file in the folder of `path`, syncs it, moves it there by `finish`, and syncs the folder."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
    end = 0

    def put(place: int, part: bytes | memoryview) -> None:
        nonlocal end
        end = max(end, place + len(part))
        left = memoryview(part)
        with _named(path, f"write {end:,} bytes"):
            while left:
                written = os.pwrite(descriptor, left, place)
                left, place = left[written:], place + written

    try:
        with _named(path, "write 0 bytes"):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.fchmod(descriptor, 0o644)
            yield put
            with _named(path, f"write {end:,} bytes"):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with _named(path, f"write {end:,} bytes"):
            finish(temporary)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            os.unlink(temporary)
        raise


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file for people; after a crash the last lines may be missing.

    Raises:
        OSError: disk full, no permission, ...
    """
    with _named(path, "write a line"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Says of an error of the system which file and what for."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot {what} ({error.strerror})", str(path)) from error


def sha256(*data: bytes | memoryview) -> str:
    """Of the data, one after another, in hexadecimal digits."""
    whole = hashlib.sha256()
    for part in data:
        whole.update(part)
    return whole.hexdigest()


def read_parquet(source: Path | bytes, columns: list[str] | None = None) -> pa.Table:
    """The table in a parquet file, read on this thread: `pq.read_table` starts others, and beside torch they abort half
    of all processes at exit ("terminate called without an active exception"; pyarrow 26 with torch 2.13).

    Raises:
        pyarrow.ArrowInvalid, OSError: damaged, or no file.
    """
    file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
    return file.read(columns=columns, use_threads=False)


def make_folder(path: Path) -> None:
    """Creates `path` and its parents, durably; nothing happens if it exists.

    Raises:
        OSError: no permission, a file is in the way, ...
    """
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file, durably; nothing happens if there is none."""
    if path.exists():
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder, durably; nothing happens if there is something in it."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes renames and removals in a folder durable.

    Raises:
        OSError: the disk is broken, no permission, ...
    """
    with _named(path, "sync the folder"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folders(path: Path) -> None:
    """Makes durable what a killed writer renamed in `path` and below, and did not come to sync.

    Without it the next writer would count on a file that a power failure can still take away.
    """
    with contextlib.suppress(PermissionError):  # the folder above may belong to somebody else
        sync_folder(path.parent)
    for folder, _, _ in os.walk(path):
        sync_folder(Path(folder))


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds `folder`/.lock; the system frees it when the process ends, however it ends.

    Raises:
        LockedError: another process holds it; the message names its host and process id.
        OSError: disk full, no permission, ...
    """
    lock = folder / ".lock"
    with _named(lock, "lock the folder"):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    with open(descriptor, "r+") as file:
        try:
            with _named(lock, "lock the folder"):  # on some network file systems nobody can
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read().strip() or "unknown host and process"
            raise LockedError(
                f"{folder}: another process is writing in this folder ({holder}). Wait until it is done, or stop it."
            ) from error
        with _named(lock, "lock the folder"):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"host {platform.node()}, process {os.getpid()}\n".encode())
        try:
            yield
        finally:
            os.truncate(descriptor, 0)
