"""Format onnx: graphs inside nodes. A branch that is always taken is read; nothing in one hides from the counts."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from metanet.importers import onnx_files
from metanet.importers.onnx_files import reading
from tests.importers.onnx_graphs import graph, weights
from tests.importers.test_onnx_operators import read

OPSET = helper.make_opsetid("", 20)


def branch(nodes: list[onnx.NodeProto], output: str, tensors: dict[str, np.ndarray] | None = None) -> onnx.GraphProto:
    initialisers = [numpy_helper.from_array(one, name) for name, one in (tensors or {}).items()]
    return helper.make_graph(
        nodes, "branch", [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], initialisers
    )


def model(condition: list[tuple[str, str, dict[str, int]]], width: int = 1) -> onnx.ModelProto:
    """x [n, width, 4] through w, then squeezed if `condition`, which gives c, holds; else through v."""
    squeezed = branch([helper.make_node("Squeeze", ["h", "first"], ["s"])], "s")
    inside = {"v": weights({"v": [4, 4]})["v"]}
    other = branch([helper.make_node("MatMul", ["h", "v"], ["m"])], "m", inside)
    tensors = weights({"w": [4, 4]}) | {"first": np.array([1]), "one": np.array(1), "zero": np.array(0)}
    made = graph([("MatMul", "x w -> h", {}), *condition], tensors, ["n", width, 4])
    made.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=squeezed, else_branch=other))
    return made


ASKS = [("Shape", "h -> s1", {}), ("Gather", "s1 one -> size", {}), ("Equal", "size one -> c", {})]


@pytest.mark.parametrize("width", [1, 2])
def test_the_branch_that_shapes_choose_is_read(tmp_path: Path, width: int):
    """As torch's exporter writes x.squeeze(1) where it does not know the sizes."""
    net, tensors, about = read(tmp_path / "net.onnx", model(ASKS, width))
    x = torch.rand(3, width, 4)
    h = x @ tensors["w"]
    torch.testing.assert_close(net(x), h.squeeze(1) if width == 1 else h @ tensors["v"], rtol=1e-5, atol=1e-6)
    assert about["floats"]["in_tensors"] == (16 if width == 1 else 32)


def test_a_branch_that_the_input_chooses_is_refused(tmp_path: Path):
    asks = [("Cast", "one -> one1", {"to": 1}), ("Less", "h one1 -> c", {})]
    (tmp_path / "net.onnx").write_bytes(model(asks).SerializeToString())
    with pytest.raises(ValueError, match=r"node 3 'y' \(If\): its condition depends on the input"):
        onnx_files.parse(tmp_path / "net.onnx")


def test_functions_that_branches_call_are_counted_before_they_are_written_out(tmp_path: Path):
    """30 functions that each call the one before in both branches would become a billion nodes."""
    functions = [helper.make_function("f", "f0", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [OPSET])]
    for number in range(1, 31):
        inner = [helper.make_node(f"f{number - 1}", ["a"], [f"b{side}"], domain="f") for side in range(2)]
        nodes = [
            helper.make_node("Constant", [], ["c"], value_int=1),
            helper.make_node("Cast", ["c"], ["d"], to=TensorProto.BOOL),
            helper.make_node(
                "If", ["d"], ["b"], then_branch=branch(inner[:1], "b0"), else_branch=branch(inner[1:], "b1")
            ),
        ]
        functions.append(helper.make_function("f", f"f{number}", ["a"], ["b"], nodes, [OPSET]))
    made = graph([("MatMul", "x w -> h", {})], weights({"w": [4, 4]}), ["n", 4])
    made.graph.node.append(helper.make_node("f30", ["h"], ["y"], domain="f"))
    made.functions.extend(functions)
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="found more than 20,000 nodes"):
        reading.read(tmp_path / "net.onnx")
