"""Reading: the bytes of an ONNX file and its tensors. A claimed size is compared with the bytes before it is used."""

from __future__ import annotations

import math
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from metanet.errors import RefusedError
from metanet.importers.intake.containers import check_size
from metanet.importers.intake.path_names import path_problem

MOST_NODES = 20_000
LEAST_OPSET = 7  # older ones broadcast in another way
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8)
COPIES = 8  # of data beside the file that fit into memory


@dataclass
class File:
    """A file's model, whose data are checked where they are read."""

    path: Path
    model: onnx.ModelProto
    opset: int
    external: dict[str, Path] = field(default_factory=dict)  # files beside it that were read, by their names

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph


def read(path: Path) -> File:
    """The model in a file.

    Raises:
        ValueError: damaged, too many nodes, or of an opset or a kind that is not read.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path}: no readable ONNX file ({error})") from error
    if not model.graph.node:
        raise ValueError(f"{path}: no ONNX model: found a graph without nodes")
    if _num_nodes(model, path) > MOST_NODES:
        raise ValueError(f"{path}: found more than {MOST_NODES:,} nodes")
    names = [tensor.name for tensor in model.graph.initializer]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: found two initialisers called {twice!r}")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    if not LEAST_OPSET <= opset <= onnx.defs.onnx_opset_version():
        most = onnx.defs.onnx_opset_version()
        raise ValueError(
            f"{path}: found opset {opset}, expected {LEAST_OPSET} to {most}, which onnx {onnx.__version__} knows"
        )
    return File(path, model, opset)


def nodes(whole: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """All nodes, with those of graphs inside them; protobuf itself bounds how deep these lie."""
    for node in whole.node:
        yield node
        for one in node.attribute:
            for inside in [*([one.g] if one.HasField("g") else []), *one.graphs]:
                yield from nodes(inside)


def _num_nodes(model: onnx.ModelProto, path: Path) -> int:
    """With those of functions, as often as they are called.

    Raises:
        ValueError: a function calls itself.
    """
    functions = {(one.domain, one.name): list(nodes(one)) for one in model.functions}
    outside = list(nodes(model.graph))
    if len(outside) + sum(map(len, functions.values())) > MOST_NODES:
        return MOST_NODES + 1
    sizes = dict.fromkeys(functions, 1)
    for _ in range(len(functions) + 2):  # a function is counted whole after those that it calls
        before = dict(sizes)
        for key, own in functions.items():
            inside = sum(before.get((one.domain, one.op_type), 1) for one in own)
            sizes[key] = min(1 + inside, MOST_NODES + 1)
        if sizes == before:
            return sum(sizes.get((one.domain, one.op_type), 1) for one in outside)
    told = ", ".join(name for _, name in list(functions)[:6])
    raise ValueError(f"{path}: found functions that call themselves, among {told}")


def about(file: File) -> dict[str, Any]:
    """What the file says of itself."""
    model = file.model
    return {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": file.opset,
        "graph": model.graph.name,
        "metadata_props": {one.key: one.value for one in model.metadata_props},
        "external": sorted(file.external),
    }


def array(file: File, tensor: TensorProto, what: str) -> np.ndarray:
    """The numbers of a tensor; floats of 16 bits as float32.

    Raises:
        RefusedError: they lie outside the file's folder.
        ValueError: of a type that is not read, or not as many as the shape says.
    """
    where = f"{file.path}: {what} {tensor.name!r}"
    kind, dims = tensor.data_type, list(tensor.dims)
    if kind not in (*FLOATS, *INTEGERS):
        raise ValueError(
            f"{where}: found the type {_name(kind)}, expected float16, bfloat16, float32, float64 or integers"
        )
    if min(dims, default=1) < 0:
        raise ValueError(f"{where}: found the shape {dims}")
    dtype = np.dtype(np.uint16) if kind == TensorProto.BFLOAT16 else helper.tensor_dtype_to_np_dtype(kind)
    expected = math.prod(dims) * dtype.itemsize
    if tensor.data_location == TensorProto.EXTERNAL:
        data = _external(file, tensor, expected, where)
        tensor.raw_data, tensor.data_location = data, TensorProto.DEFAULT
        del tensor.external_data[:]
    elif tensor.HasField("raw_data"):
        if tensor.float_data or tensor.double_data or tensor.int32_data or tensor.int64_data:
            raise ValueError(f"{where}: has its numbers twice, and readers differ in which they take")
        data = tensor.raw_data
    else:
        return _typed(tensor, dims, where)
    if len(data) != expected:
        raise ValueError(f"{where}: its shape {dims} of {_name(kind)} takes {expected:,} bytes; found {len(data):,}")
    numbers = np.frombuffer(data, dtype.newbyteorder("<"))
    return _plain(numbers, kind).reshape(dims)


def _typed(tensor: TensorProto, dims: list[int], where: str) -> np.ndarray:
    """Numbers that stand in the field of their type."""
    found = max(len(tensor.float_data), len(tensor.double_data), len(tensor.int32_data), len(tensor.int64_data))
    if found != math.prod(dims):
        raise ValueError(f"{where}: its shape {dims} takes {math.prod(dims):,} numbers; found {found:,}")
    try:
        numbers = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    return numbers.astype(np.float32) if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) else numbers


def _plain(numbers: np.ndarray, kind: int) -> np.ndarray:
    if kind == TensorProto.BFLOAT16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return (
        numbers.astype(np.float32) if kind == TensorProto.FLOAT16 else numbers.astype(numbers.dtype.newbyteorder("="))
    )


def _external(file: File, tensor: TensorProto, expected: int, where: str) -> bytes:
    """The bytes of a tensor in another file of the same folder."""
    told = {one.key: one.value for one in tensor.external_data}
    name = told.get("location", "")
    if problem := path_problem(name):
        raise RefusedError(f"{where}: refused to open {name!r}: {problem}")
    folder = file.path.parent.resolve()
    path = folder / name
    if path.resolve() != path:
        raise RefusedError(f"{where}: refused to open {name!r}: a link in the path")
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise ValueError(f"{where}: its data in {name!r} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise RefusedError(
            f"{where}: refused to open {name!r}: no ordinary file, or one with several names (hard links)"
        )
    check_size(path)
    try:
        offset, length = int(told.get("offset", 0)), int(told.get("length", expected))
    except ValueError as error:
        raise ValueError(f"{where}: found the offset or length {told}, expected whole numbers") from error
    if offset < 0 or length != expected or offset + length > status.st_size:
        raise ValueError(
            f"{where}: claims {length:,} bytes at {offset:,} of {name!r}, for a shape that takes {expected:,}; found "
            f"a file of {status.st_size:,}"
        )
    if name not in file.external:
        file.external[name] = path
        _make_room(status.st_size)
    with open(path, "rb") as data:
        data.seek(offset)
        return data.read(length)


def _make_room(size: int) -> None:
    """Raises the limits of this process for data beside the file that it was started for."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        soft, hard = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(kind, (soft + COPIES * size, hard))


def _name(kind: int) -> str:
    known = TensorProto.DataType.DESCRIPTOR.values_by_number
    return known[kind].name.lower() if kind in known else f"number {kind}"
