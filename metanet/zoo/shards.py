"""Shards: the weights of one group in safetensors, [nets, *shape] per tensor."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_KEY = "metanet"  # one metadata entry: safetensors does not keep the order of several, and the bytes should be equal
_DTYPES = dict(  # torch's -> safetensors', in the order in which its own writer puts tensors
    zip(
        [
            *(torch.uint64, torch.int64, torch.float64, torch.complex64, torch.float32, torch.uint32, torch.int32),
            *(torch.bfloat16, torch.float16, torch.uint16, torch.int16, torch.int8, torch.uint8, torch.bool),
        ],
        ["U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL"],
        strict=True,
    )
)
_SMALL_BYTES = 1 << 18  # of a net; and of those that are hashed together, which stay in the processor's cache


def pack(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A safetensors file with `about` and the order of the names as JSON in its metadata; equal inputs, equal bytes.

    Raises:
        MemoryError: there is too little memory.
    """
    return b"".join(parts(tensors, about))


def parts(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> list[bytes | memoryview]:
    """What `pack` gives, in pieces: the header, and then the memory of the tensors, which is not copied.

    The bytes are those that safetensors itself writes, whose writer copies three times, and ends the process where
    memory is short.
    """
    first, starts = header({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}, about)
    return [first, *(memory(tensors[name]) for name in starts)]


def header(
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], about: Mapping[str, Any]
) -> tuple[bytes, dict[str, int]]:
    """What stands before tensors of such dtypes and shapes, and where in the file each begins, in that order."""
    order = list(_DTYPES)
    names = sorted(kinds, key=lambda name: (order.index(kinds[name][0]), name))
    note = json.dumps({**about, "names": list(kinds)}, sort_keys=True)
    told: dict[str, Any] = {"__metadata__": {_KEY: note}}
    starts, end = {}, 0
    for name in names:
        dtype, shape = kinds[name]
        starts[name], end = end, end + dtype.itemsize * math.prod(shape)
        told[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, {name: 8 + len(text) + start for name, start in starts.items()}


def sealed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> list[bytes | memoryview]:
    """What `parts` gives, with the SHA-256 of all of it in its own metadata: for files that nothing else speaks of."""
    return parts(tensors, {**about, "sha256": _seal(tensors, about)})


def load_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `load` gives of a sealed file. Cost: every byte is read and hashed once.

    Raises:
        FileNotFoundError, ValueError: see `load`; any changed byte is damage.
    """
    tensors, about = load(path)
    header = hashlib.sha256(parts(tensors, about)[0]).hexdigest()
    seal = about.pop("sha256", None)
    if header != header_hash(path) or seal != _seal(tensors, about):
        raise ValueError(f"{path}: damaged: its SHA-256 is not the one that it was written with.")
    return tensors, about


def _seal(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    sha256 = hashlib.sha256()
    for part in parts(tensors, about):
        sha256.update(part)
    return sha256.hexdigest()


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, mapped into memory (read when used), and what `pack` was told about them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, longer than its header says, or no safetensors file.
    """
    check_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[_KEY])
            return {name: file.get_tensor(name) for name in about["names"]}, about
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or not written by metanet ({error}).") from error


def check_size(path: Path) -> None:
    """Compares the file's size with its header: touching a mapped file beyond its end would kill the process.

    Raises:
        FileNotFoundError, ValueError: see `load`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path}: found {size:,} bytes, too few for its header: truncated or damaged.")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"{path}: damaged: its header is not that of a safetensors file.") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        state = "truncated" if size < expected else "damaged"
        raise ValueError(f"{path}: {state}: found {size:,} bytes, expected {expected:,} by its header.")


def header_hash(path: Path) -> str:
    """SHA-256 of a safetensors file up to its tensors.

    Raises:
        FileNotFoundError, ValueError: see `load`.
    """
    check_size(path)
    with open(path, "rb") as file:
        length = file.read(8)
        return hashlib.sha256(length + file.read(int.from_bytes(length, "little"))).hexdigest()


def net_hashes(tensors: Mapping[str, Tensor]) -> list[str]:
    """SHA-256 of each net's own bytes, tensor after tensor in the order of their names."""
    count = len(next(iter(tensors.values())))
    whole = [np.asarray(memory(tensors[name])).reshape(count, -1) for name in sorted(tensors)] if count else []
    some = max(_SMALL_BYTES // max(sum(part.shape[1] for part in whole), 1), 1)
    hashes: list[str] = []
    for start in range(0, count, some):  # side by side: a call for each tensor takes longer than to hash a small one
        together = np.concatenate([part[start : start + some] for part in whole], axis=1)
        hashes += [hashlib.sha256(net).hexdigest() for net in together]
    return hashes


def tensor_sums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sum of each whole tensor's 32-bit words, modulo 2^32: a hundred times as fast as a SHA-256, which nets have.

    They tell which tensor of a net has changed, not whether one has.
    """
    words = {name: np.asarray(memory(tensors[name])).view("<u4") for name in sorted(tensors)}
    return {name: int(own.sum(dtype=np.uint32)) for name, own in words.items()}


def tensor_hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each whole tensor [nets, *shape]."""
    return {name: hashlib.sha256(memory(tensor)).hexdigest() for name, tensor in sorted(tensors.items())}


def memory(tensor: Tensor) -> memoryview:
    """The tensor's memory; no copy where it is contiguous on the CPU."""
    own = tensor.detach().cpu().contiguous()
    return own.as_strided((own.numel(),), (1,)).view(torch.uint8).numpy().data
