"""Check: the program and the file compute the same, by onnx's own reference evaluator on random input.

Weights that are not finite are taken for zeros in both, so that a diverged net too is known to be read rightly.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from metanet.importers.onnx_files.call import Active
from metanet.importers.onnx_files.lowering import Lowering
from metanet.importers.onnx_files.reading import File
from metanet.importers.onnx_files.reference import TOLERANCE, distance, run
from metanet.zoo.families.program import Program

HALVES: dict[int, float] = {TensorProto.FLOAT16: 3e-2, TensorProto.BFLOAT16: 2e-1}  # where the reference rounds so


def equal(file: File, lowered: Lowering) -> None:
    """Raises ValueError, which names the first value that differs, if the program is not what the file computes."""
    graph = file.graph
    types = {one.data_type for one in graph.initializer}
    tolerance = max((HALVES.get(one, TOLERANCE) for one in types), default=TOLERANCE)
    names = [one.name for one in graph.output]
    feed = _random_input(file, lowered, -1.0)
    reference = _reference(lowered, feed, names)
    if not any(np.isfinite(np.asarray(one, np.float64)).any() for one in reference.values()):  # as of logarithms
        feed = _random_input(file, lowered, 0.0)
        reference = _reference(lowered, feed, names)
    x = next(iter(feed.values()))
    values = _run(lowered, x, lowered.program["outputs"])
    if all(distance(values[lowered.values[name].name], reference[name]) <= tolerance for name in names):  # type: ignore[union-attr]
        return
    inner = list(dict.fromkeys(name for node in graph.node for name in node.output if name))
    reference, values = _reference(lowered, feed, inner), _run(lowered, x, [step["name"] for step in lowered.steps])
    for name in inner:
        value = lowered.values.get(name)
        if not isinstance(value, Active) or not isinstance(values.get(value.name), Tensor):
            continue
        if (found := distance(values[value.name], reference[name])) > tolerance:
            node = next(one for one in graph.node if name in one.output)
            raise ValueError(
                f"{file.path}: node {node.name or name!r} ({node.op_type}) gives {name!r}, which is off from onnx's "
                f"reference evaluator by {found:.2g} of its largest number: this net is not imported"
            )
    raise ValueError(f"{file.path}: the output differs from onnx's reference evaluator: this net is not imported")


def independent(lowered: Lowering) -> None:
    """Raises ValueError if the program mixes samples, as one may that was guessed from a file for fewer of them."""
    if max(lowered.ways, default=1) == 1:  # nothing was guessed
        return
    one = _random_input(lowered.file, lowered, -1.0)
    ((name, first),) = one.items()
    both = np.concatenate([first, np.random.default_rng(1).permuted(first.reshape(-1)).reshape(first.shape)])
    outputs = lowered.program["outputs"]
    together = _run(lowered, both, outputs)
    apart = [_run(lowered, part, outputs) for part in np.split(both, 2)]
    for output in outputs:
        wanted, found = torch.cat([values[output] for values in apart]), together[output]
        if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise ValueError(f"{lowered.file.path}: made for {len(first)} samples of {name!r}, it mixes those of more")


def _random_input(file: File, lowered: Lowering, low: float) -> dict[str, np.ndarray]:
    """As many samples as the file allows, of noise between low and 1, or of words."""
    names = {one.name for one in file.graph.initializer}
    (info,) = (one for one in file.graph.input if one.name not in names)
    shape = (lowered.samples[0], *lowered.program["input"]["shape"])
    dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    generator = np.random.default_rng(0)
    if lowered.program["input"]["dtype"] == "int64":
        rows = [
            lowered.program["parameters"].get(step["inputs"][1], [1])[0]
            for step in lowered.steps
            if step["op"] == "embedding"
        ]
        return {info.name: generator.integers(0, min(rows, default=1), shape).astype(dtype)}
    return {info.name: generator.uniform(low, 1, shape).astype(dtype)}


def _reference(lowered: Lowering, feed: dict[str, np.ndarray], names: list[str]) -> dict[str, Any]:
    file, model = lowered.file, onnx.ModelProto()
    model.CopyFrom(file.model)
    _zero_what_is_not_finite(model, lowered)
    try:
        return dict(zip(names, run(model, feed, names), strict=True))
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, NotImplementedError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file.path}: onnx's reference evaluator cannot run it: {why}") from error


def _zero_what_is_not_finite(model: onnx.ModelProto, lowered: Lowering) -> None:
    """Of the weights; minus infinities of a mask are the architecture's."""
    constants = {
        node.output[0]: one for node in model.graph.node if node.op_type == "Constant" for one in node.attribute
    }
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored |= {name: one.t for name, one in constants.items() if one.HasField("t")}
    for name, array in lowered.floats.items():
        if lowered.read.get(name) == "tensor" and name in stored and not np.isfinite(array).all():
            kind = onnx.helper.tensor_dtype_to_np_dtype(stored[name].data_type)
            stored[name].CopyFrom(
                onnx.numpy_helper.from_array(np.nan_to_num(array, posinf=0, neginf=0).astype(kind), name)
            )


def _run(lowered: Lowering, x: np.ndarray, kept: Collection[str]) -> dict[str, Any]:
    """The results of the steps that are `kept`, in double precision; others are freed once nothing reads them."""
    program = Program(lowered.program).double().eval()
    program.load_state_dict({name: tensor.double().nan_to_num(0, 0, 0) for name, tensor in lowered.tensors.items()})
    values: dict[str, Any] = dict(program.named_parameters()) | dict(program.named_buffers())
    values["input"] = torch.from_numpy(x.astype(np.int64 if x.dtype.kind == "i" else np.float64))
    last = {name: place for place, step in enumerate(program.steps) for name in step.inputs if name is not None}
    with torch.no_grad():
        for place, step in enumerate(program.steps):
            values[step.name] = step(values)
            for name in {*step.inputs, step.name} - {None}:
                if name not in kept and last.get(name, place) == place:
                    values.pop(name, None)
    return values
