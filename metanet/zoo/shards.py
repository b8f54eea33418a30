"""Shards: the weights of one group at one snapshot, in safetensors: [nets, *shape] per tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_KEY = "metanet"  # one metadata entry: safetensors does not keep the order of several, and the bytes should be equal


def pack(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A safetensors file with `about` and the order of the names as JSON in its metadata; equal inputs, equal bytes.

    Raises:
        MemoryError: there is too little memory.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors copies three times, and where memory is short it ends the process; Python raises MemoryError
    bytearray(3 * sum(tensor.nbytes for tensor in on_cpu.values()))
    return safetensors.torch.save(on_cpu, {_KEY: json.dumps({**about, "names": list(tensors)}, sort_keys=True)})


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


def net_hashes(tensors: Mapping[str, Tensor]) -> list[str]:
    """SHA-256 of each net's own bytes, tensor after tensor in the order of their names."""
    rows = len(next(iter(tensors.values())))
    parts = [(_bytes(tensors[name]), tensors[name].nbytes // max(rows, 1)) for name in sorted(tensors)]
    hashes = []
    for row in range(rows):
        whole = hashlib.sha256()
        for part, size in parts:
            whole.update(part[row * size : (row + 1) * size])
        hashes.append(whole.hexdigest())
    return hashes


def tensor_hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each whole tensor [nets, *shape]."""
    return {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in sorted(tensors.items())}


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's memory; no copy where it is contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data
