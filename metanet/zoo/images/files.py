"""Files of image sets: found below the root, decompressed, checked by hash."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

from metanet.zoo.images.image_set import Layout


def root_folder(root: Path | None = None) -> Path:
    """The folder of all image sets: the argument, else $METANET_DATA, else `data` in the working directory."""
    return Path(root or os.environ.get("METANET_DATA") or "data")


def place(layout: Layout, file: str, root: Path | None = None) -> Path | None:
    """Where a file of a layout lies, plain or with .gz; None if it is not there."""
    plain = root_folder(root) / layout.folder / file
    return next((path for path in (plain, plain.with_name(f"{file}.gz")) if path.is_file()), None)


def checked_bytes(path: Path, file: str, digest: str) -> bytes:
    """The content of `path`, decompressed if it is `file` with .gz; ValueError if its digest is another."""
    content, packed = path.read_bytes(), path.name == f"{file}.gz"
    if packed:
        content = gunzip(content, str(path))
    kind, _, expected = digest.partition(":")
    found = hashlib.new(kind, content).hexdigest() if digest else ""
    if found != expected:
        after = " after decompression" if packed else ""
        raise ValueError(
            f"{path}: damaged image file: its {len(content)} bytes{after} have {kind} {found}, expected {expected}"
        )
    return content


def gunzip(content: bytes, where: str) -> bytes:
    """ValueError if it is no whole gzip archive."""
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{where}: damaged image file: {error}; expected a whole gzip archive") from error
