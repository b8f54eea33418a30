"""Every operator of ONNX that is read: the net computes what onnx's evaluator computes, and becomes a graph."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import nn

import metanet
from metanet.importers import onnx_files
from metanet.importers.onnx_files import rules
from metanet.zoo import nets
from tests.importers.onnx_graphs import Node, graph, weights

IMAGE, SEQUENCE = ["n", 3, 6, 6], ["n", 5, 4]
DENSE: Node = ("MatMul", "x w -> h", {})
CONV: Node = ("Conv", "x w -> h", {})
AFTER_CONV, AFTER_DENSE = {"w": [4, 3, 1, 1]}, {"w": [4, 4]}
Case = tuple[list[Node], dict[str, list[int]], dict[str, np.ndarray], list[Any], int]


def image(operator: str, reads: str, /, *, opset: int = 20, fixed: Any = None, **more: Any) -> Case:
    """An operator behind a convolution; keyword arguments W_name are the shapes of weights, the others attributes."""
    shapes = {name[2:]: value for name, value in more.items() if name.startswith("W_")}
    attributes = {name: value for name, value in more.items() if not name.startswith("W_")}
    return [CONV, (operator, reads, attributes)], {**AFTER_CONV, **shapes}, fixed or {}, IMAGE, opset


def sequence(operator: str, reads: str, /, *, opset: int = 20, fixed: Any = None, **more: Any) -> Case:
    """The same behind a dense layer on five places."""
    nodes, shapes, fixed, _, _ = image(operator, reads, fixed=fixed, **more)
    return [DENSE, *nodes[1:]], {**shapes, **AFTER_DENSE}, fixed, SEQUENCE, opset


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def one(number: float) -> np.ndarray:
    return np.array(number, np.float32)


PLAIN = ("Relu", "Sigmoid", "Tanh", "Softsign", "Softplus", "HardSwish", "Mish", "Exp", "Abs", "Neg", "Sign", "Erf")
PLAIN += ("Sin", "Cos", "Atan", "Sinh", "Cosh", "Asinh", "Identity", "Selu", "Elu", "Celu", "LeakyRelu", "HardSigmoid")
PLAIN += (
    "ThresholdedRelu",
    "Gelu",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Flatten",
    "Dropout",
    "Softmax",
    "LogSoftmax",
)
CASES: dict[str, Case] = {
    **{name: image(name, "h -> y") for name in PLAIN},
    **{f"positive {name}": ([CONV, ("Exp", "h -> e", {}), (name, "e -> y", {})], AFTER_CONV, {}, IMAGE, 20)
       for name in ("Log", "Sqrt", "Reciprocal")},
    "LeakyRelu 0.3": image("LeakyRelu", "h -> y", alpha=0.3),
    "HardSigmoid of torch": image("HardSigmoid", "h -> y", alpha=1 / 6, beta=0.5),
    "Gelu by tanh": image("Gelu", "h -> y", approximate="tanh"),
    "Shrink hard": image("Shrink", "h -> y", lambd=0.1),
    "Shrink soft": image("Shrink", "h -> y", lambd=0.1, bias=0.1),
    "PRelu": image("PRelu", "h s -> y", W_s=[4, 1, 1]),
    "PRelu one": image("PRelu", "h s -> y", W_s=[1]),
    "Clip": image("Clip", "h low high -> y", fixed={"low": one(-0.2), "high": one(0.3)}),
    "Clip 6": image("Clip", "h -> y", opset=6 + 1, min=-0.2, max=0.3),
    "Cast": image("Cast", "h -> y", to=TensorProto.FLOAT),
    **{name: image(name, "h p -> y", W_p=[4, 1, 1]) for name in ("Add", "Sub", "Mul", "Div")},
    **{f"{name} turned": image(name, "p h -> y", W_p=[1, 4, 6, 6]) for name in ("Sub", "Add")},
    "Div turned": ([CONV, ("Exp", "h -> e", {}), ("Div", "p e -> y", {})], {**AFTER_CONV, "p": [4, 1, 1]}, {}, IMAGE,
                   20),
    "Pow": image("Pow", "h two -> y", fixed={"two": one(2)}),
    "Pow 3": image("Pow", "h three -> y", fixed={"three": one(3)}),
    "Max": image("Max", "h low -> y", fixed={"low": one(0.1)}),
    "Min": image("Min", "high h -> y", fixed={"high": one(0.1)}),
    **{f"{name} of two": image(name, "h p -> y", W_p=[4, 1, 1]) for name in ("Max", "Min")},
    **{f"{name} {other}": ([CONV, (name, f"h {other} -> a", {}), ("Tanh", "h -> t", {}), ("Where", "a h t -> y", {})],
              {**AFTER_CONV, **own}, {} if own else {"low": one(0.1)}, IMAGE, 20)
       for name in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
       for other, own in (("p", {"p": [4, 1, 1]}), ("low", {}))},
    "And, Or, Not": ([CONV, ("Greater", "h low -> a", {}), ("Less", "p h -> b", {}), ("And", "a b -> c", {}),
                      ("Not", "a -> d", {}), ("Or", "c d -> e", {}), ("Cast", "e -> f", {"to": 1}),
                      ("Mul", "f h -> y", {})], {**AFTER_CONV, "p": [4, 1, 1]}, {"low": one(0.1)}, IMAGE, 20),
    "Sum": image("Sum", "h h p -> y", W_p=[4, 1, 1]),
    "Mean": image("Mean", "h p -> y", W_p=[4, 1, 1]),
    "Gemm": ([("Gemm", "x w b -> y", {})], {"w": [6, 4], "b": [4]}, {}, ["n", 6], 20),
    "Gemm turned": ([("Gemm", "x w b -> y", {"transB": 1})], {"w": [4, 6], "b": [4]}, {}, ["n", 6], 20),
    "Gemm scaled": ([("Gemm", "x w b -> y", {"transB": 1, "alpha": 0.5, "beta": 2.0})], {"w": [4, 6], "b": [1, 4]}, {},
                    ["n", 6], 20),
    "Gemm without bias": ([("Gemm", "x w -> y", {})], {"w": [6, 4]}, {}, ["n", 6], 20),
    "MatMul + Add": ([("MatMul", "x w -> h", {}), ("Add", "b h -> y", {})], {"w": [6, 4], "b": [4]}, {}, ["n", 6], 20),
    "Einsum": sequence("Einsum", "h v -> y", equation="bti, io -> bto", W_v=[4, 3]),
    "Conv": image("Conv", "h k b -> y", group=2, dilations=[2, 1], pads=[2, 1, 2, 1], W_k=[6, 2, 3, 3], W_b=[6]),
    "Conv uneven": image("Conv", "h k -> y", pads=[1, 0, 0, 2], strides=[2, 1], W_k=[2, 4, 3, 2]),
    "Conv same": image("Conv", "h k -> y", auto_pad="SAME_UPPER", strides=[2, 2], W_k=[2, 4, 3, 3]),
    "Conv same lower": image("Conv", "h k -> y", auto_pad="SAME_LOWER", W_k=[2, 4, 2, 2]),
    "Conv valid": image("Conv", "h k -> y", auto_pad="VALID", W_k=[2, 4, 2, 2]),
    "Conv 1d": ([("Conv", "x w -> y", {"strides": [2]})], {"w": [4, 3, 3]}, {}, ["n", 3, 8], 20),
    "Conv 3d": ([("Conv", "x w -> y", {})], {"w": [2, 3, 2, 2, 2]}, {}, ["n", 3, 3, 3, 3], 20),
    "ConvTranspose": image("ConvTranspose", "h k b -> y", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1],
                           group=2, W_k=[4, 3, 3, 3], W_b=[6]),
    "ConvTranspose uneven": image("ConvTranspose", "h k -> y", strides=[2, 1], pads=[0, 1, 1, 0], W_k=[4, 2, 3, 3]),
    "ConvTranspose shape": image("ConvTranspose", "h k -> y", strides=[2, 2], output_shape=[12, 12], W_k=[4, 2, 3, 3]),
    "BatchNormalization": image("BatchNormalization", "h s b mean var -> y", epsilon=1e-3, W_s=[4], W_b=[4], W_mean=[4],
                                W_var=[4]),
    "InstanceNormalization": image("InstanceNormalization", "h s b -> y", W_s=[4], W_b=[4]),
    "LayerNormalization": sequence("LayerNormalization", "h s b -> y", W_s=[4], W_b=[4]),
    "LayerNormalization alone": sequence("LayerNormalization", "h s -> y", axis=-1, W_s=[4]),
    "LayerNormalization broadcast": sequence("LayerNormalization", "h s -> y", axis=-1, W_s=[1, 4]),
    "GroupNormalization": image("GroupNormalization", "h s b -> y", opset=21, num_groups=2, W_s=[4], W_b=[4]),
    "GroupNormalization 18": image("GroupNormalization", "h s b -> y", num_groups=2, W_s=[2], W_b=[2]),
    "RMSNormalization": sequence("RMSNormalization", "h s -> y", opset=23, W_s=[4]),
    "Swish": image("Swish", "h -> y", opset=24),
    "LpNormalization": image("LpNormalization", "h -> y", axis=1),
    "MaxPool": image("MaxPool", "h -> y", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0], dilations=[1, 2]),
    "MaxPool ceil": image("MaxPool", "h -> y", kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1),
    "MaxPool same": image("MaxPool", "h -> y", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    "AveragePool": image("AveragePool", "h -> y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "AveragePool pads": image("AveragePool", "h -> y", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "AveragePool uneven": image("AveragePool", "h -> y", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1),
    "ReduceMean": image("ReduceMean", "h axes -> y", fixed={"axes": whole(2, -1)}),
    "ReduceMean 13": image("ReduceMean", "h -> y", opset=13, axes=[2, 3], keepdims=0),
    "ReduceSum": image("ReduceSum", "h axes -> y", keepdims=0, fixed={"axes": whole(3)}),
    "ReduceMax": image("ReduceMax", "h axes -> y", fixed={"axes": whole(1)}),
    "ReduceMin": image("ReduceMin", "h axes -> y", fixed={"axes": whole(2)}),
    "ReduceL2": image("ReduceL2", "h axes -> y", fixed={"axes": whole(1)}),
    "ReduceL1": image("ReduceL1", "h axes -> y", fixed={"axes": whole(2)}),
    "ReduceSumSquare": image("ReduceSumSquare", "h axes -> y", fixed={"axes": whole(2)}),
    "Softmax 11": ([DENSE, ("Softmax", "h -> y", {"axis": 2})], AFTER_DENSE, {}, SEQUENCE, 11),
    "Reshape": image("Reshape", "h to -> y", fixed={"to": whole(0, 2, -1)}),
    "Reshape flat": image("Reshape", "h to -> y", fixed={"to": whole(-1, 144)}),
    "Flatten 2": image("Flatten", "h -> y", axis=-3),
    "Transpose": image("Transpose", "h -> y", perm=[0, 2, 3, 1]),
    "Squeeze": ([CONV, ("GlobalAveragePool", "h -> p", {}), ("Squeeze", "p axes -> y", {})], AFTER_CONV,
                {"axes": whole(2, 3)}, IMAGE, 20),
    "Unsqueeze": image("Unsqueeze", "h axes -> y", fixed={"axes": whole(-1, 1)}),
    "Concat": image("Concat", "h h -> y", axis=1),
    "Split": ([CONV, ("Split", "h parts -> a b", {"axis": 1}), ("Concat", "b a -> y", {"axis": 1})], AFTER_CONV,
              {"parts": whole(1, 3)}, IMAGE, 20),
    "Split evenly": ([CONV, ("Split", "h -> a b", {"axis": 1, "num_outputs": 2}), ("Mul", "a b -> y", {})],
                     AFTER_CONV, {}, IMAGE, 20),
    "Split the heads": ([DENSE, ("Reshape", "h to -> r", {}), ("Transpose", "r -> t", {"perm": [2, 0, 1, 3]}),
                         ("Split", "t -> a b", {"axis": 0, "num_outputs": 2}), ("Mul", "a b -> m", {}),
                         ("Squeeze", "m first -> y", {})], AFTER_DENSE,
                        {"to": whole(0, 5, 2, 2), "first": whole(0)}, SEQUENCE, 20),
    "Add a causal mask": ([DENSE, ("Transpose", "x -> t", {"perm": [0, 2, 1]}), ("MatMul", "h t -> s", {}),
                           ("Add", "mask s -> m", {}), ("Softmax", "m -> y", {})], AFTER_DENSE,
                          {"mask": np.triu(np.full((5, 5), -np.inf, np.float32), 1)}, SEQUENCE, 20),
    "Slice": image("Slice", "h from to axes steps -> y",
                   fixed={"from": whole(1, 0), "to": whole(9, -1), "axes": whole(1, 3), "steps": whole(2, 1)}),
    "Slice back": image("Slice", "h from to axes steps -> y",
                        fixed={"from": whole(-1), "to": whole(-(2**62)), "axes": whole(2), "steps": whole(-1)}),
    "Slice 9": image("Slice", "h -> y", opset=9, starts=[1], ends=[3], axes=[1]),
    "Gather": image("Gather", "h places -> y", axis=2, fixed={"places": whole(3, -1, 0)}),
    "Gather one": image("Gather", "h place -> y", axis=3, fixed={"place": np.array(-2)}),
    "Gather grid": image("Gather", "h places -> y", axis=2, fixed={"places": np.array([[0, 1], [2, 3]])}),
    "Tile": image("Tile", "h times -> y", fixed={"times": whole(1, 1, 2, 1)}),
    "Expand": image("Expand", "p to -> e", W_p=[1, 6], fixed={"to": whole(4, 6, 6)}),
    "Pad": image("Pad", "h sides value -> y", fixed={"sides": whole(0, 0, 1, 0, 0, 0, 0, 2), "value": one(0.5)}),
    "Pad reflect": image("Pad", "h sides -> y", mode="reflect", fixed={"sides": whole(0, 0, 1, 1, 0, 0, 1, 2)}),
    "Pad edge": image("Pad", "h sides -> y", mode="edge", fixed={"sides": whole(0, 0, 1, 1, 0, 0, 1, 2)}),
    "DepthToSpace": image("DepthToSpace", "h -> y", blocksize=2),
    "DepthToSpace CRD": image("DepthToSpace", "h -> y", blocksize=2, mode="CRD"),
    "SpaceToDepth": image("SpaceToDepth", "h -> y", blocksize=2),
    "Resize nearest": image("Resize", "h _ s -> y", mode="nearest", coordinate_transformation_mode="asymmetric",
                            nearest_mode="floor", fixed={"s": np.array([1, 1, 2, 2], np.float32)}),
    **{f"Resize linear {way}": (
        [CONV, ("Shape", "h -> n", {"end": 2}), ("Concat", "n grid -> to", {"axis": 0}),
         ("Resize", "h _ _ to -> y", {"mode": "linear", "coordinate_transformation_mode": way})],
        AFTER_CONV, {"grid": whole(9, 11)}, IMAGE, 20) for way in ("half_pixel", "align_corners")},
    "Upsample": image("Upsample", "h s -> y", opset=9, fixed={"s": np.array([1, 1, 2, 2], np.float32)}),
    "LSTM": sequence("LSTM", "h u r b -> y", W_u=[1, 12, 4], W_r=[1, 12, 3], W_b=[1, 24]),
    "LSTM both ways": sequence("LSTM", "h u r b -> y hn c", direction="bidirectional", W_u=[2, 12, 4], W_r=[2, 12, 3],
                               W_b=[2, 24]),
    "GRU": sequence("GRU", "h u r b -> y", linear_before_reset=1, W_u=[1, 9, 4], W_r=[1, 9, 3], W_b=[1, 18]),
    "RNN": sequence("RNN", "h u r b -> y", W_u=[1, 3, 4], W_r=[1, 3, 3], W_b=[1, 6]),
}  # fmt: skip
TIME_FIRST = ("LSTM", "GRU", "RNN")


def read(path: Path, model: onnx.ModelProto) -> tuple[nn.Sequential, dict[str, torch.Tensor], dict[str, Any]]:
    """The net in a file with the model, its tensors, and what the file says."""
    path.write_bytes(model.SerializeToString())
    tensors, about = onnx_files.parse(path)
    net = nets.build(about["arch"]).eval()
    net.load_state_dict({f"net.{name}": tensor for name, tensor in tensors.items()})
    return net, tensors, about


def floats(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(one.dims)) for one in model.graph.initializer if one.data_type in (1, 10, 11, 16))


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnx_computes_and_traces(tmp_path: Path, name: str):
    nodes, shapes, fixed, shape, opset = CASES[name]
    last = nodes[-1]
    if last[1].endswith("-> e"):
        nodes = [*nodes, ("Add", "h e -> y", {})]
    if last[0] in TIME_FIRST:
        before, behind = ("Transpose", "h -> t", {"perm": [1, 0, 2]}), ("Transpose", "o -> y", {"perm": [2, 0, 1, 3]})
        nodes = [nodes[0], before, (last[0], f"t{last[1][1:]}".replace("-> y", "-> o"), last[2]), behind]
    model = graph(nodes, {**weights(shapes), **fixed}, shape, opset=opset)
    net, tensors, about = read(tmp_path / "net.onnx", model)
    x = np.random.default_rng(1).uniform(-1, 1, (4, *shape[1:])).astype(np.float32)
    if not (last[0] == "ConvTranspose" and {"group", "output_shape"} & set(last[2])):  # which onnx's own cannot do
        (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
        found = net(torch.from_numpy(x))
        torch.testing.assert_close(found, torch.from_numpy(np.array(wanted)), rtol=1e-4, atol=1e-5)
    assert about["floats"]["all"] == floats(model) == about["floats"]["in_tensors"] + about["floats"]["in_architecture"]
    template = metanet.trace(net, torch.zeros(2, *shape[1:]))
    assert set(template.shapes) == {f"net.{name}" for name in tensors}


def test_every_rule_has_a_case():
    there = {operator for nodes, *_ in CASES.values() for operator, _, _ in nodes}
    assert set(rules.RULES) <= there
