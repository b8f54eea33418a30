"""Containers: the bytes of a checkpoint -> tensors and plain metadata. Runs in the child process of parser.py.

Every claimed size is compared with the bytes that are there before anything is allocated, and zips are checked by their
CRC, so that a damaged file is an error and never another net. No path here runs code from a file, and none needs torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import RefusedError
from metanet.importers.intake import arrays, checkpoints, pickles, zips
from metanet.importers.intake.arrays import Array
from metanet.importers.intake.json_text import distinct
from metanet.importers.intake.wrappers import MOST_NAMES, unwrap

MOST_BYTES = 8 << 30  # of a file
MOST_HEADER_BYTES = 1 << 24  # of a safetensors file
ZIP, TAR = b"PK\x03\x04", b"ustar"


def parse(path: Path, weights: str | None = None) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors of one net, and what the file says beside them as plain JSON values; of a parquet file its "rows".

    `weights` names the entry with the net, where a checkpoint has several.

    Raises:
        RefusedError: reading would run code, or the container is of a kind that is not read.
        ValueError: damaged, sizes that do not fit, or no tensors.
    """
    check_size(path)
    if path.suffix == ".parquet":
        from metanet.zoo import disk  # which imports pyarrow, and that takes 50 MB

        return {}, {"rows": json.loads(json.dumps(disk.read_parquet(path).to_pylist(), default=plain))}
    data = path.read_bytes()
    where = str(path)
    is_safetensors = path.suffix == ".safetensors" or (not path.suffix and data[8:9] == b"{")  # a blob, in a cache
    found = _safetensors(data, where) if is_safetensors else (_torch(data, where), {})
    tensors, metadata = unwrap(found[0], where, plain, weights)
    return tensors, found[1] | metadata


def check_size(path: Path) -> None:
    """Raises ValueError for a file that is too large to be read."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path}: found {size:,} bytes, more than the {MOST_BYTES:,} that are read")


def _torch(data: bytes, where: str) -> Any:
    """What is in a file of torch.save. Where it cannot be read, its pickle's names are looked at one by one."""
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[:6] == b"\x93NUMPY" or data[257:262] == TAR:
        raise RefusedError(f"{where}: refused: neither a file of torch.save nor safetensors")
    try:
        if data.startswith(ZIP):
            entries, stream = _zip(data, where)
            found = checkpoints.zipped(entries, stream)
        else:
            if pickles.LEGACY_MAGIC not in data[:64]:
                pickles.check_legacy(data, where)
            found = checkpoints.legacy(data)
    except Exception as error:  # a damaged stream provokes anything; none of it passes
        if where in str(error):
            raise
        if data.startswith(ZIP):
            pickles.check(bytes(entries[stream]), where)
        else:
            pickles.check_legacy(data, where)
        kind = RefusedError if isinstance(error, RefusedError) else ValueError
        what = "" if isinstance(error, ValueError) else f"damaged: {type(error).__name__}: "
        raise kind(f"{where}: {what}{_first_line(error)}") from error
    _check_sharing(found, len(data), where)
    return found


def check_zip(
    data: bytes, where: str, allowed: Callable[[str], bool] = pickles.ALLOWED.__contains__, most: int = MOST_NAMES
) -> str:
    """Passes a zip as torch.save writes it: stored entries, sound by their CRC, one pickle of allowed names, its name.

    Raises:
        RefusedError: it is none, or its pickle has another name.
        ValueError: damaged.
    """
    entries, stream = _zip(data, where, most)
    pickles.check(bytes(entries[stream]), where, allowed)
    return stream


def _zip(data: bytes, where: str, most: int = MOST_NAMES) -> tuple[dict[str, memoryview], str]:
    """The entries of a zip as torch.save writes it, and the name of its one pickle."""
    entries = zips.stored(data, where, most)
    streams = [name for name in entries if name.endswith(".pkl")]
    if len(streams) != 1 or not streams[0].endswith("data.pkl") or any("constants.pkl" in name for name in entries):
        raise RefusedError(
            f"{where}: refused: no file of torch.save (found {list(entries)[:4]}, a TorchScript or a zip)"
        )
    return entries, streams[0]


def _check_sharing(found: Any, size: int, where: str) -> None:
    """Refuses tensors that share storages so often that they claim many times the bytes of the file."""
    total, left = 0, [found]
    while left:
        value = left.pop()
        if isinstance(value, Array):
            total += len(value.data)
        elif isinstance(value, Mapping):
            left += list(value.values())
        elif isinstance(value, list):
            left += value
    if total > checkpoints.MOST_SHARING * size:
        raise RefusedError(f"{where}: refused: tensors of {total:,} bytes in a file of {size:,}")


def _safetensors(data: bytes, where: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors and the `__metadata__` of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MOST_HEADER_BYTES):
        raise ValueError(f"{where}: no safetensors file: its header claims {length:,} of {len(data):,} bytes")
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=distinct)
        about = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in about.values()):
            raise TypeError("__metadata__ holds more than texts")
        if len(header) > MOST_NAMES:
            raise RefusedError(f"{where}: refused: a header of {len(header):,} tensors")
        whole, end, found = memoryview(data)[8 + length :], 0, {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            (begin, end_now), shape, dtype = entry["data_offsets"], tuple(entry["shape"]), entry["dtype"]
            if begin != end or any(type(size) is not int or size < 0 for size in shape):
                raise ValueError(f"{where}: damaged: its tensors overlap, leave gaps or claim too much")
            if dtype not in arrays.SIZES:
                known = ", ".join(arrays.SIZES)
                raise ValueError(f"{where}: {name!r}: found numbers of {str(dtype)[:20]!r}, expected one of {known}")
            if end_now - begin != math.prod(shape) * arrays.SIZES[dtype]:
                raise ValueError(f"{where}: damaged: {name!r} of {dtype} {shape} in {end_now - begin:,} bytes")
            found[name] = Array(dtype, shape, whole[begin:end_now])
            end = end_now
        if end != len(whole):
            raise ValueError(f"{where}: found {len(data):,} bytes, its header claims {8 + length + end:,}: truncated")
        return found, about
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: damaged: no safetensors file ({type(error).__name__}: {error})") from error


def plain(value: Any) -> Any:
    """What JSON does not know, as a plain value."""
    if arrays.is_array(value) and math.prod(value.shape) == 1 and (array := arrays.of(value)).dtype in arrays.NUMPY:
        return np.frombuffer(array.data, arrays.NUMPY[array.dtype])[0].item()
    return value.item() if isinstance(value, np.generic) else f"<{type(value).__name__}>"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
