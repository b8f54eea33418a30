"""Check: the program and the file compute the same, by onnx's own reference evaluator on random input."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from metanet.importers.onnx_files.call import Active
from metanet.importers.onnx_files.lowering import Lowering
from metanet.importers.onnx_files.reading import File
from metanet.zoo.families.program import Program

# Of the largest number of an output; the reference rounds as the file's numbers do, the program does not.
TOLERANCE: dict[int, float] = {TensorProto.FLOAT16: 3e-2, TensorProto.BFLOAT16: 2e-1}
USUAL_TOLERANCE = 1e-3
LEAST = 1e-4  # below which a largest number is taken for rounding


class ConvTranspose(OpRun):
    """By its definition, x [n, in, *grid] and w [in, out / group, *kernel]: onnx's own knows no groups and few pads."""

    op_domain = ""

    def _run(  # type: ignore[override]
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None = None,
        auto_pad: str | None = None,
        dilations: list[int] | None = None,
        group: int | None = None,
        kernel_shape: list[int] | None = None,
        output_padding: list[int] | None = None,
        output_shape: list[int] | None = None,
        pads: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> tuple[np.ndarray]:
        rank, groups = x.ndim - 2, group or 1
        stride, gap = np.array(strides or [1] * rank), np.array(dilations or [1] * rank)
        grid, extra = np.array(x.shape[2:]), np.array(output_padding or [0] * rank)
        full = stride * (grid - 1) + extra + (np.array(w.shape[2:]) - 1) * gap + 1
        begin, end = np.split(np.array(pads or [0] * 2 * rank), 2)
        same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if output_shape is not None or same:
            whole = full - (np.array(output_shape)[-rank:] if output_shape is not None else grid * stride)
            begin = whole // 2 if auto_pad == "SAME_UPPER" else whole - whole // 2
            end = whole - begin
        parts = x.reshape(len(x), groups, -1, *x.shape[2:]), w.reshape(groups, -1, *w.shape[1:])
        y = np.zeros((len(x), groups * w.shape[1], *full), x.dtype)
        for tap in np.ndindex(*w.shape[2:]):
            product = np.einsum("ngi...,gio->ngo...", parts[0], parts[1][(..., *tap)])
            starts = np.array(tap) * gap
            places = (slice(k, k + s * (n - 1) + 1, s) for k, s, n in zip(starts, stride, grid, strict=True))
            y[(slice(None), slice(None), *places)] += product.reshape(len(x), -1, *x.shape[2:])
        y = y[(..., *(slice(one, size - other) for one, other, size in zip(begin, end, full, strict=True)))]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


def equal(file: File, lowered: Lowering) -> None:
    """Raises ValueError, which names the first value that differs, if the program is not what the file computes."""
    graph = file.graph
    types = {one.data_type for one in graph.initializer}
    tolerance = max((TOLERANCE.get(one, USUAL_TOLERANCE) for one in types), default=USUAL_TOLERANCE)
    feed = _random_input(file, lowered)
    names = [one.name for one in graph.output]
    reference = _reference(file, feed, names)
    values = _run(lowered, next(iter(feed.values())))
    if all(_distance(values[lowered.values[name].name], reference[name]) <= tolerance for name in names):  # type: ignore[union-attr]
        return
    inner = list(dict.fromkeys(name for node in graph.node for name in node.output if name))
    reference = _reference(file, feed, inner)
    for name in inner:
        value = lowered.values.get(name)
        if not isinstance(value, Active) or not isinstance(values.get(value.name), Tensor):
            continue
        if (found := _distance(values[value.name], reference[name])) > tolerance:
            node = next(one for one in graph.node if name in one.output)
            raise ValueError(
                f"{file.path}: node {node.name or name!r} ({node.op_type}) gives {name!r}, which is off from onnx's "
                f"reference evaluator by {found:.2g} of its largest number: this net is not imported"
            )
    raise ValueError(f"{file.path}: the output differs from onnx's reference evaluator: this net is not imported")


def _random_input(file: File, lowered: Lowering) -> dict[str, np.ndarray]:
    """As many samples as the file allows."""
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
    return {info.name: generator.uniform(-1, 1, shape).astype(dtype)}


def _reference(file: File, feed: dict[str, np.ndarray], names: list[str]) -> dict[str, Any]:
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        evaluator = ReferenceEvaluator(model, new_ops=[ConvTranspose])
        return dict(zip(names, evaluator.run(None, feed), strict=True))  # type: ignore[arg-type]
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, NotImplementedError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file.path}: onnx's reference evaluator cannot run it: {why}") from error


def _run(lowered: Lowering, x: np.ndarray) -> dict[str, Any]:
    """The results of all steps, in double precision."""
    program = Program(lowered.program).double().eval()
    program.load_state_dict({name: tensor.double() for name, tensor in lowered.tensors.items()})
    values: dict[str, Any] = dict(program.named_parameters()) | dict(program.named_buffers())
    values["input"] = torch.from_numpy(x.astype(np.int64 if x.dtype.kind == "i" else np.float64))
    with torch.no_grad():
        for step in program.steps:
            values[step.name] = step(values)
    return values


def _distance(found: Tensor, reference: Any) -> float:
    """Largest difference by the reference's largest number, at least LEAST; infinite for another shape or no number."""
    wanted = torch.from_numpy(np.asarray(reference).astype(np.float64))
    if found.shape != wanted.shape or not bool(found.isfinite().all()) or not bool(wanted.isfinite().all()):
        return float("inf")
    return float((found.double() - wanted).abs().max() / wanted.abs().max().clamp_min(LEAST)) if wanted.numel() else 0.0
