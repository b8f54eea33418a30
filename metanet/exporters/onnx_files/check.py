"""Check: a file computes what the net computes, by onnx's own reference evaluator on random input."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from metanet.exporters.onnx_files.graph import INPUT
from metanet.importers.onnx_files.reference import TOLERANCE, distance, run

SAMPLES = 4  # another number than the graph was exported for


def equal(model: onnx.ModelProto, net: nn.Module, name: str) -> None:
    """Raises ValueError if the model gives something else than the net."""
    shape = [one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    whole_numbers = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    generator = np.random.default_rng(0)
    x = generator.integers(0, 2, (SAMPLES, *shape)) if whole_numbers else generator.uniform(0, 1, (SAMPLES, *shape))
    x = x.astype(np.int64 if whole_numbers else np.float32)
    with torch.no_grad():
        outputs = net.double()(torch.from_numpy(x if whole_numbers else x.astype(np.float64)))
    try:
        found = run(model, {INPUT: x})
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, NotImplementedError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name}: onnx's reference evaluator cannot run what would be written: {why}") from error
    for wanted, one in zip([outputs] if isinstance(outputs, Tensor) else outputs, found, strict=True):
        off = distance(wanted, one)
        if off > TOLERANCE:
            raise ValueError(
                f"{name}: onnx's reference evaluator gives an output that is off by {off:.2g} of its largest number: "
                f"it is not exported"
            )
