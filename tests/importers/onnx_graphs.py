"""Small ONNX graphs, written by onnx's own helper, for the tests of everything that reads or writes such files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.importers import foreign

Node = tuple[str, str, Mapping[str, Any]]  # operator, "input input -> output output", attributes
OPSET = 20


def weights(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """A distinct number in (-1, 1) for every weight, exact in float32; variances are positive."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    numbers = np.split(foreign.integers(sum(sizes), seed).astype(np.float32), np.cumsum(sizes)[:-1])
    found = {name: one.reshape(shape) for (name, shape), one in zip(shapes.items(), numbers, strict=True)}
    return {name: one + 2 if name.startswith("var") else one for name, one in found.items()}


def graph(
    nodes: Sequence[Node],
    tensors: Mapping[str, np.ndarray | TensorProto],
    shape: Sequence[int | str],
    *,
    opset: int = OPSET,
    kind: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """A model with the input x of that shape, samples and all."""
    made = []
    for operator, ends, attributes in nodes:
        read, gives = (side.split() for side in ends.split("->"))
        made.append(helper.make_node(operator, ["" if name == "_" else name for name in read], gives, **attributes))
    initialisers = [
        one if isinstance(one, TensorProto) else numpy_helper.from_array(np.asarray(one), name)
        for name, one in tensors.items()
    ]
    inside = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        initialisers,
    )
    return helper.make_model(inside, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def put(path: Path, *arguments: Any, **more: Any) -> Path:
    """A file with the graph."""
    path.write_bytes(graph(*arguments, **more).SerializeToString())
    return path


def small(seed: int = 0) -> onnx.ModelProto:
    """A convolution, a norm and a dense layer: 64 floats."""
    shapes = {"conv.weight": [2, 1, 3, 3], "conv.bias": [2], "scale": [2], "shift": [2], "mean": [2], "var": [2]}
    tensors = weights({**shapes, "head.weight": [4, 8], "head.bias": [4]}, seed)
    nodes: list[Node] = [
        ("Conv", "x conv.weight conv.bias -> a", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("BatchNormalization", "a scale shift mean var -> b", {}),
        ("Relu", "b -> c", {}),
        ("Flatten", "c -> d", {}),
        ("Gemm", "d head.weight head.bias -> y", {"transB": 1}),
    ]
    return graph(nodes, tensors, ["samples", 1, 4, 4])
