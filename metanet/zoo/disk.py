"""How files reach the disk, whole or not at all and by one writer, and how tables come back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metanet.commandline import LockedError

TEMPORARY = ".tmp"  # suffix; such a file is what a killed writer left, and is never read


def write_atomically(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, durably: after a crash the file is there in full or is what it was before.

    Raises:
        OSError: disk full, no permission, ...; nothing has changed then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write {len(data):,} bytes ({error.strerror})", str(path)) from error
    except BaseException:  # Ctrl-C; not a reason to leave a file behind
        temporary.unlink(missing_ok=True)
        raise


def read_parquet(source: Path | bytes, columns: list[str] | None = None) -> pa.Table:
    """The table in a parquet file, read on this thread: `pq.read_table` starts others, and beside torch they abort half
    of all processes at exit ("terminate called without an active exception"; pyarrow 26 with torch 2.13).

    Raises:
        pyarrow.ArrowInvalid, OSError: damaged, or no file.
    """
    file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
    return file.read(columns=columns, use_threads=False)


def make_folder(path: Path) -> None:
    """Creates `path` and its parents, durably; nothing happens if it exists."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file, durably; nothing happens if there is none."""
    if path.exists():
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes renames and removals in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds `folder`/.lock; the system frees it when the process ends, however it ends.

    Raises:
        LockedError: another process holds it; the message names its host and process id.
    """
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown host and process"
            raise LockedError(
                f"{folder}: another process is writing this zoo ({holder}). Wait until it is done, or stop it."
            ) from error
        file.truncate(0)
        file.write(f"host {platform.node()}, process {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
