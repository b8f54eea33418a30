"""Arrays: numbers as a file holds them, and safetensors of many nets. Torch, which takes 200 MB, is not imported."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "C64": 8}
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
TORCH = dict(  # torch's name -> safetensors'
    zip(
        ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"],
        ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "C64"],
        strict=True,
    )
)
MOST_AXES, MOST_NUMBERS = 32, 1 << 48  # torch counts the places of an empty tensor too, by its other sizes


@dataclass(frozen=True, slots=True)
class Array:
    """Little-endian numbers in C order."""

    dtype: str  # a key of SIZES
    shape: tuple[int, ...]
    data: bytes | memoryview


def is_array(value: Any) -> bool:
    """Whether it is an array, or a tensor of torch."""
    return isinstance(value, Array) or hasattr(value, "untyped_storage")


def of(found: Array | Tensor) -> Array:
    """The numbers of a tensor.

    Raises:
        ValueError: numbers of a kind that safetensors does not have, or a shape that no tensor can have.
    """
    if len(found.shape) > MOST_AXES or math.prod(max(size, 1) for size in found.shape) > MOST_NUMBERS:
        shape = str(tuple(found.shape))[:80]
        raise ValueError(f"found a tensor of {shape}, expected at most {MOST_AXES} axes and {MOST_NUMBERS:,} numbers")
    if isinstance(found, Array):
        return found
    dtype = TORCH.get(str(found.dtype).removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"found numbers of {found.dtype}, expected one of {', '.join(TORCH)}")
    import torch  # which has made the tensor

    raw = found.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return Array(dtype, tuple(found.shape), raw.data)


def strided(dtype: str, storage: memoryview, offset: int, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """The array in a storage that torch describes so.

    Raises:
        ValueError: it claims more than the storage holds, as overlapping entries do.
    """
    size, shape, strides = SIZES[dtype], tuple(shape), tuple(strides)
    count, numbers = math.prod(shape), len(storage) // size
    if len(shape) != len(strides) or not all(type(value) is int and value >= 0 for value in (offset, *shape, *strides)):
        raise ValueError(f"found the shape {shape} with strides {strides} from {offset} on")
    reach = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    if count and (count > numbers or reach >= numbers):
        raise ValueError(f"a tensor of {shape} with strides {strides} from {offset} on, in a storage of {numbers:,}")
    expected = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if all(step == wanted or length == 1 for step, wanted, length in zip(strides, expected, shape, strict=True)):
        return Array(dtype, shape, storage[offset * size : (offset + count) * size])
    whole = np.frombuffer(storage, f"V{size}", count=numbers)[offset:]
    view = np.lib.stride_tricks.as_strided(whole, shape, [step * size for step in strides], writeable=False)
    return Array(dtype, shape, view.tobytes())


def save(path: Path, nets: Iterable[Mapping[str, Array]]) -> list[tuple[int, int]]:
    """Writes the nets to a safetensors file, those of equal names, kinds and shapes stacked; each one's stack and row.

    Tensor "2/head.bias" is [nets, *shape] of stack 2.
    """
    stacks: dict[tuple[Any, ...], list[Mapping[str, Array]]] = {}
    places = []
    for net in nets:
        kind = tuple((name, array.dtype, array.shape) for name, array in net.items())
        members = stacks.setdefault(kind, [])
        places.append((list(stacks).index(kind) if len(stacks) > 1 else 0, len(members)))
        members.append(net)
    header, parts, end = {}, [], 0
    for number, (kind, members) in enumerate(stacks.items()):
        for name, dtype, shape in kind:
            start, end = end, end + len(members) * math.prod(shape) * SIZES[dtype]
            header[f"{number}/{name}"] = {
                "dtype": dtype,
                "shape": [len(members), *shape],
                "data_offsets": [start, end],
            }
            parts += [net[name].data for net in members]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(parts)
    return places
