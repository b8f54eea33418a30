"""Containers: the bytes of a checkpoint -> tensors and plain metadata. Runs in the child process of parser.py.

Every claimed size is compared with the bytes that are there before anything is allocated, and zips are checked by their
CRC, so that a damaged file is an error and never another net. No path here runs code from a file.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metanet.commandline import RefusedError
from metanet.importers.intake import pickles
from metanet.zoo import disk

MOST_BYTES = 8 << 30  # of a file
MOST_HEADER_BYTES = 1 << 24  # of a safetensors file
MOST_NAMES = 100_000  # tensors of a net, and entries of a zip
MOST_SHARING = 4  # a file's tensors may be so many times as large as the file, where they share storages
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights")
PREFIXES = ("module.", "_orig_mod.")
ZIP, TAR = b"PK\x03\x04", b"ustar"


def parse(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of one net, and what the file says beside them as plain JSON values; of a parquet file its "rows".

    Raises:
        RefusedError: reading would run code, or the container is of a kind that is not read.
        ValueError: damaged, sizes that do not fit, or no tensors.
    """
    check_size(path)
    if path.suffix == ".parquet":
        return {}, {"rows": json.loads(json.dumps(disk.read_parquet(path).to_pylist(), default=_plain))}
    data = path.read_bytes()
    where = str(path)
    found = _safetensors(data, where) if path.suffix == ".safetensors" else _torch(data, where)
    tensors, metadata = unwrap(found[0], where)
    return tensors, found[1] | metadata


def check_size(path: Path) -> None:
    """Raises ValueError for a file that is too large to be read."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path}: found {size:,} bytes, more than the {MOST_BYTES:,} that are read")


def unwrap(found: Any, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state_dict inside a checkpoint's wrappers, without the prefixes of DataParallel and torch.compile.

    Raises:
        ValueError: none is there, or it is nested or named as none is.
    """
    metadata: dict[str, Any] = {}
    while isinstance(found, Mapping):
        inner = next((name for name in WRAPPERS if isinstance(found.get(name), Mapping)), None)
        if inner is None:
            break
        metadata |= {str(name): value for name, value in found.items() if name != inner}
        found = found[inner]
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{where}: no state_dict: found {_kinds(found)}, expected tensors by name")
    wrong = [name for name, value in found.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if wrong or len(found) > MOST_NAMES:
        raise ValueError(
            f"{where}: no state_dict: {wrong[0]!r} is no tensor, found {_kinds(found)}" if wrong else where
        )
    tensors = dict(found)
    for prefix in (*PREFIXES, *PREFIXES):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    for name in tensors:
        if not name or len(name) > 512 or not name.isprintable():
            raise ValueError(f"{where}: found a tensor named {name[:80]!r}, expected a printable name")
    return tensors, json.loads(json.dumps(metadata, default=_plain))


def _torch(data: bytes, where: str) -> tuple[Any, dict[str, Any]]:
    """What `torch.load` gives for a file of torch.save, after its pickles have been read without being run."""
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[:6] == b"\x93NUMPY" or data[257:262] == TAR:
        raise RefusedError(f"{where}: refused: neither a file of torch.save nor safetensors")
    if data.startswith(ZIP):
        check_zip(data, where)
    else:
        pickles.check_legacy(data, where)
    try:
        with torch.serialization.safe_globals(_numpy_names()):
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged file provokes; none of it passes
        raise ValueError(f"{where}: torch.load(weights_only=True) does not read it: {_first_line(error)}") from error
    _check_storages(found, len(data), where)
    return found, {}


def check_zip(
    data: bytes, where: str, allowed: Callable[[str], bool] = pickles.ALLOWED.__contains__, most: int = MOST_NAMES
) -> str:
    """Passes a zip as torch.save writes it: stored entries, sound by their CRC, one pickle of allowed names, its name.

    Raises:
        RefusedError: it is none, or its pickle has another name.
        ValueError: damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            names = [entry.filename for entry in entries]
            if len(names) > most or len(set(names)) < len(names):
                raise RefusedError(f"{where}: refused: {len(names):,} entries, or several of one name")
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data) or entry.flag_bits & 1:
                    raise RefusedError(
                        f"{where}: refused: {entry.filename!r} is packed or encrypted, or claims {entry.file_size:,} "
                        f"bytes in a file of {len(data):,}; torch.save stores its entries as they are"
                    )
            if sum(entry.file_size for entry in entries) > len(data):
                raise RefusedError(f"{where}: refused: its entries overlap")
            streams = [name for name in names if name.rsplit("/", 1)[-1].endswith(".pkl")]
            if len(streams) != 1 or not streams[0].endswith("data.pkl") or any("constants.pkl" in n for n in names):
                raise RefusedError(
                    f"{where}: refused: no file of torch.save (found {names[:4]}, a TorchScript or a zip)"
                )
            bad = file.testzip()
            if bad is not None:
                raise ValueError(f"{where}: damaged: the CRC of {bad!r} does not fit")
            pickles.check(file.read(streams[0]), where, allowed)
            return streams[0]
    except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, OSError) as error:
        raise ValueError(f"{where}: damaged: {error}") from error


def _check_storages(found: Any, size: int, where: str) -> None:
    """Refuses tensors that claim more numbers than the file has, as overlapping strides do."""
    total, left = 0, [found]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized:
                raise RefusedError(f"{where}: refused: a tensor that is sparse or quantized")
            total += value.numel() * value.element_size()
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise RefusedError(
                    f"{where}: refused: a tensor of {tuple(value.shape)} whose entries overlap in memory"
                )
        elif isinstance(value, Mapping):
            left += list(value.values())
        elif isinstance(value, list | tuple):
            left += list(value)
    if total > MOST_SHARING * size:
        raise RefusedError(f"{where}: refused: tensors of {total:,} bytes in a file of {size:,}")


def _safetensors(data: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the `__metadata__` of a safetensors file, whose header is checked first."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MOST_HEADER_BYTES):
        raise ValueError(f"{where}: no safetensors file: its header claims {length:,} of {len(data):,} bytes")
    try:
        header = json.loads(data[8 : 8 + length])
        about = header.pop("__metadata__", {})
        if len(header) > MOST_NAMES:
            raise RefusedError(f"{where}: refused: a header of {len(header):,} tensors")
        end = 0
        for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
            begin, end_now = entry["data_offsets"]
            if begin != end or end_now < begin or math.prod(entry["shape"]) > len(data):
                raise ValueError(f"{where}: damaged: its tensors overlap, leave gaps or claim too much")
            end = end_now
        if 8 + length + end != len(data):
            raise ValueError(f"{where}: found {len(data):,} bytes, its header claims {8 + length + end:,}: truncated")
        return safetensors.torch.load(data), {str(name): str(value) for name, value in about.items()}
    except (SafetensorError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{where}: damaged: no safetensors file ({_first_line(error)})") from error


def _numpy_names() -> list[Any]:
    """numpy's scalars, which checkpoints keep accuracies in, by the names of both its generations."""
    scalar = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = [type(np.dtype(name)) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")]
    return [(scalar, f"numpy.{home}.multiarray.scalar") for home in ("core", "_core")] + [np.dtype, *kinds]


def _plain(value: Any) -> Any:
    """A metadata value as JSON can hold it: numbers of numpy and tensors of one number; of others only the kind."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        return value.item()
    return f"<{type(value).__name__}>"


def _kinds(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    return (
        "{" + ", ".join(f"{str(name)[:40]!r}: {type(value).__name__}" for name, value in list(found.items())[:6]) + "}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
