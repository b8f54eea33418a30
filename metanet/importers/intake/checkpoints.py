"""Checkpoints: files of torch.save as arrays and plain values, read without torch.

A stream is read once by Python's unpickler, which finds for every name it may find (pickles.ALLOWED) an inert
stand-in: nothing is imported and nothing is called. `build` then makes of the stand-ins what they mean. Torch's own
reader, `torch.load(weights_only=True)`, gives the same and takes five times as long; tests compare the two.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from metanet.errors import RefusedError
from metanet.importers.intake import arrays, pickles

STORAGES = {  # torch's name -> that of the numbers in safetensors
    name: arrays.TORCH[dtype]
    for name, dtype in (
        *(("Float", "float32"), ("Double", "float64"), ("Half", "float16"), ("BFloat16", "bfloat16")),
        *(("Long", "int64"), ("Int", "int32"), ("Short", "int16"), ("Char", "int8"), ("Byte", "uint8")),
        *(("Bool", "bool"), ("ComplexFloat", "complex64")),
    )
}
MOST_SHARING = 4  # a file's tensors may be so many times as large as the file, where they share storages


class _Named:
    """Stands for what a name in a stream means; called, it keeps what it was called with."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *arguments: Any) -> _Made:
        return _Made(self.name, arguments)


class _Made(dict[Any, Any]):
    """What a stream makes by calling a name: with arguments, items and a state."""

    def __init__(self, name: str, arguments: tuple[Any, ...]):
        super().__init__()
        self.name, self.arguments, self.state = name, arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.sizes: dict[str, int] = {}  # storage -> bytes of each of its numbers

    def find_class(self, module_name: str, global_name: str) -> _Named:
        name = f"{module_name}.{global_name}"
        if name not in pickles.ALLOWED:
            raise RefusedError(f"refused: it names {name}")
        return _Named(name)

    def persistent_load(self, pid: Any) -> _Made:
        _, kind, key, *_ = pid
        dtype = STORAGES[kind.name.removeprefix("torch.").removesuffix("Storage")]
        self.sizes[key] = arrays.SIZES[dtype]
        return _Made("storage", (dtype, key))


def zipped(entries: Mapping[str, memoryview], stream: str) -> Any:
    """What the entries of a zip of torch.save hold, its pickle in the entry `stream`.

    Raises:
        RefusedError: a name that is not allowed, or numbers of another byte order.
        Exception: whatever a damaged stream provokes.
    """
    folder = stream.rpartition("/")[0]
    if bytes(entries.get(f"{folder}/byteorder", b"little")) != b"little":
        raise RefusedError("refused: its numbers are big-endian")
    content = bytes(entries[stream])
    file = io.BytesIO(content)
    found = _Unpickler(file).load()
    if file.tell() != len(content):
        raise ValueError("bytes follow the end of its pickle")
    return _Builder(lambda key: entries[f"{folder}/data/{key}"], len(content)).build(found)


def legacy(data: bytes) -> Any:
    """What a file of torch's format before 1.6 holds: five streams, then every storage with its length before it.

    Raises:
        RefusedError, Exception: see `zipped`.
    """
    file = io.BytesIO(data)
    readers = [_Unpickler(file) for _ in range(pickles.LEGACY_STREAMS)]
    _, _, about, found, keys = (reader.load() for reader in readers)
    if about["little_endian"] is not True:
        raise RefusedError("refused: its numbers are big-endian")
    storages, place = {}, file.tell()
    for key in keys:
        length = int.from_bytes(data[place : place + 8], "little") * readers[3].sizes[key]
        storages[key] = memoryview(data)[place + 8 : place + 8 + length]
        place += 8 + length
    if place != len(data):
        raise ValueError(f"found {len(data):,} bytes, its storages claim {place:,}: truncated")
    return _Builder(storages.__getitem__, len(data)).build(found)


class _Builder:
    """Makes plain values and arrays of stand-ins, with a bound for values that refer to others many times."""

    def __init__(self, storage: Callable[[str], memoryview], size: int):
        self._storage, self._left = storage, MOST_SHARING * size

    def build(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise RefusedError(f"refused: refers to its own values more than {MOST_SHARING} times a byte")
        if isinstance(value, _Made):
            return self._made(value, *value.arguments)
        if isinstance(value, _Named):
            return f"<{value.name}>"
        if isinstance(value, dict):
            return {key: self.build(inner) for key, inner in value.items()}
        if isinstance(value, set):
            value = sorted(value, key=repr)  # whose order is by chance
        if isinstance(value, list | tuple):
            return [self.build(inner) for inner in value]
        return value

    def _made(self, value: _Made, *arguments: Any) -> Any:
        kind = value.name.rpartition(".")[2]
        if kind == "_rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            dtype, key = storage.arguments
            return arrays.strided(dtype, self._storage(key), offset, _whole(shape), _whole(strides))
        if kind in ("_rebuild_parameter", "Size"):
            return self.build(arguments[0])
        if kind == "OrderedDict":
            return {key: self.build(inner) for key, inner in [*(arguments[0] if arguments else ()), *value.items()]}
        if kind == "Counter":
            return self.build(dict(*arguments))
        if kind == "set":
            return self.build(set(*arguments))
        if kind == "device":
            return ":".join(map(str, arguments))
        if kind == "encode":
            return arguments[0].encode("latin1")
        if kind == "scalar":
            return self._scalar(*arguments)
        return f"<{value.name}>"

    def _scalar(self, dtype: _Made, raw: Any) -> Any:
        """A number of NumPy."""
        name, order = dtype.arguments[0], dtype.state[1] if dtype.state else "|"
        if name[0] not in "biuf":
            raise ValueError(f"found a scalar of the kind {name!r}, expected a number")
        return np.frombuffer(self.build(raw), np.dtype(name).newbyteorder(order))[0].item()


def _whole(sizes: Any) -> tuple[int, ...]:
    return tuple(sizes.arguments[0] if isinstance(sizes, _Made) else sizes)
