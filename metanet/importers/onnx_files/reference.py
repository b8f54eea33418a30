"""Reference: onnx's own evaluator, with what it lacks, and how far a result is from its."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from metanet.importers.onnx_files.reading import nodes

PART = 16  # nodes that are evaluated together
TOLERANCE = 1e-3  # of the largest number of a result: the evaluator rounds to float32
LEAST = 1e-4  # for which a largest number is taken at least


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray], names: Collection[str] = ()) -> list[Any]:
    """The values of a model called `names`, or its outputs; others are freed once no node reads them any more.

    The evaluator itself keeps all of them, so it is given a few nodes at a time.
    """
    graph, names = model.graph, list(names) or [one.name for one in model.graph.output]
    parts = [list(graph.node[start : start + PART]) for start in range(0, len(graph.node), PART)]
    read = [{name for node in nodes(onnx.GraphProto(node=part)) for name in node.input} for part in parts]
    last = {name: place for place, own in enumerate(read) for name in own} | dict.fromkeys(names, len(parts))
    stored = {tensor.name: tensor for tensor in graph.initializer}
    values: dict[str, Any] = dict(feed)
    for place, part in enumerate(parts):
        given = {name: value for name, value in values.items() if name in read[place]}
        outputs = [name for node in part for name in node.output if last.get(name, -1) > place]
        own = onnx.helper.make_graph(
            part,
            graph.name or "part",
            [onnx.ValueInfoProto(name=name) for name in given],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [stored[name] for name in read[place] if name in stored],
        )
        piece = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=own)
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(piece, new_ops=[ConvTranspose]).run(outputs, given)  # type: ignore[arg-type]
        values |= dict(zip(outputs, found, strict=True))
        values = {name: value for name, value in values.items() if last.get(name, -1) > place}
    return [values[name] for name in names]


def distance(found: Tensor, reference: Any) -> float:
    """Largest difference by the reference's largest number; infinite for another shape, or where nothing is a number.

    What is no number in one of them must be none in the other.
    """
    wanted = torch.from_numpy(np.asarray(reference).astype(np.float64))
    if found.shape != wanted.shape:
        return float("inf")
    finite = wanted.isfinite()
    if not bool(finite.any()) or not torch.equal(finite, found.isfinite()):
        return float("inf")
    return float((found.double() - wanted)[finite].abs().max() / wanted[finite].abs().max().clamp_min(LEAST))


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
