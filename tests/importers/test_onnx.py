"""Format onnx: whole files, what their tensors become, and what is refused."""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from metanet.importers import onnx_files
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.writing import import_zoo
from metanet.importers.onnx_files import rules
from metanet.zoo import nets
from tests.importers.onnx_graphs import Node, graph, put, small, weights
from tests.importers.test_onnx_operators import read
from tests.test_pipeline import ROOT, SMALL, command
from tests.zoo.making import tree

DENSE: list[Node] = [("Gemm", "x w b -> y", {})]
TENSORS = weights({"w": [4, 3], "b": [3]})


def left_out(zoo: Any) -> list[dict[str, str]]:
    return json.loads((zoo.path / "left_out.json").read_text())["left_out"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three nets of one architecture and one of another, and how they were trained."""
    folder = tmp_path / "nets"
    folder.mkdir()
    for number in range(3):
        onnx.save(small(number), folder / f"{number}.onnx")
    put(folder / "dense.onnx", DENSE, TENSORS, ["n", 4])
    lines = [f"{number}.onnx,{('adam', 'sgd')[number % 2]},0.{number + 1}" for number in range(3)]
    (folder / "metadata.csv").write_text("\n".join(["path,optimizer,test_accuracy", *lines]))
    return folder


def test_files_of_one_graph_share_an_architecture_and_keep_their_weights(folder: Path, tmp_path: Path):
    zoo = import_zoo("onnx", folder, tmp_path / "zoo")
    assert zoo.verify() == []
    assert (len(zoo), len(zoo.archs)) == (4, 2)
    rows = {row["source.where"]: row for row in zoo.manifest.to_pylist()}
    for number in range(3):
        row, model = rows[f"{number}.onnx"], small(number)
        found = zoo.state_dict(row["net"], 0)
        for one in model.graph.initializer:
            assert np.array_equal(found[f"net.{one.name}"].numpy(), numpy_helper.to_array(one))
        assert (row["optimizer"], row["arch"]) == (("adam", "sgd")[number % 2], rows["0.onnx"]["arch"])
        told = json.loads(row["source.file"])
        assert told["floats"] == {"all": 64, "in_tensors": 64, "in_architecture": 0, "not_read": []}
    assert rows["dense.onnx"]["optimizer"] is None
    import_zoo("onnx", folder, tmp_path / "again" / "zoo")
    assert tree(tmp_path / "zoo") == tree(tmp_path / "again" / "zoo")


@pytest.mark.parametrize("transposed", [0, 1])
def test_every_weight_lands_where_it_should(tmp_path: Path, transposed: int):
    """Distinct integers; the product by hand is the oracle."""
    w = np.random.default_rng(0).permutation(12).astype(np.float32).reshape(4, 3)
    b = np.array([100, 200, 300], np.float32)
    stored = w.T.copy() if transposed else w
    net, tensors, _ = read(
        tmp_path / "net.onnx", graph([("Gemm", "x w b -> y", {"transB": transposed})], {"w": stored, "b": b}, [1, 4])
    )
    assert np.array_equal(tensors["w"].numpy(), stored)
    assert np.array_equal(net(torch.eye(4)).detach().numpy(), w + b)


def tensor(name: str, array: np.ndarray, kind: int, raw: bool) -> TensorProto:
    numbers = array.astype(helper.tensor_dtype_to_np_dtype(kind))
    if raw:
        return helper.make_tensor(name, kind, array.shape, numbers.tobytes(), raw=True)
    return helper.make_tensor(name, kind, array.shape, numbers.reshape(-1).tolist())


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_floats_of_every_width_are_read_from_both_places(tmp_path: Path, kind: int, raw: bool):
    w = np.arange(-6, 6, dtype=np.float32).reshape(4, 3) / 4  # exact in all of them
    tensors = {"w": tensor("w", w, kind, raw), "b": tensor("b", w[0], kind, raw)}
    model = graph([("MatMul", "x w -> h", {}), ("Add", "h b -> y", {})], tensors, ["n", 4], kind=kind)
    if kind == TensorProto.BFLOAT16:  # numpy has no such numbers to put in
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
        first = helper.make_node("Cast", ["x"], ["x16"], to=kind)
        model.graph.node[0].input[0] = "x16"
        model.graph.node.insert(0, first)
    _, found, _ = read(tmp_path / "net.onnx", model)
    assert np.array_equal(found["w"].numpy(), w)
    assert np.array_equal(found["b"].numpy(), w[0])


def test_weights_in_constants_are_weights_and_single_numbers_the_architecture(tmp_path: Path):
    nodes: list[Node] = [
        ("Constant", "-> w", {"value": numpy_helper.from_array(TENSORS["w"])}),
        ("Constant", "-> half", {"value_float": 0.5}),
        ("Constant", "-> shift", {"value_floats": [1.0, 2.0, 3.0]}),
        ("MatMul", "x w -> h", {}),
        ("Mul", "h half -> i", {}),
        ("Add", "i shift -> y", {}),
    ]
    net, tensors, about = read(tmp_path / "net.onnx", graph(nodes, {"idle": np.ones(7, np.float32)}, ["n", 4]))
    assert set(tensors) == {"w", "shift"}
    assert about["floats"] == {"all": 23, "in_tensors": 15, "in_architecture": 1, "not_read": ["idle"]}
    expected = TENSORS["w"] / 2 + np.array([1, 2, 3], np.float32)
    torch.testing.assert_close(net(torch.eye(4)).detach(), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_shapes_are_computed_for_any_number_of_samples(tmp_path: Path):
    """As torch's exporter writes x.view(x.shape[0], -1), a class token and a causal mask."""
    nodes: list[Node] = [
        ("Shape", "x -> s", {}),
        ("Gather", "s zero -> n", {}),
        ("Unsqueeze", "n start -> n1", {}),
        ("Concat", "n1 rest -> to", {"axis": 0}),
        ("Expand", "token to -> tokens", {}),
        ("Concat", "tokens x -> h", {"axis": 1}),
        ("Transpose", "h -> ht", {"perm": [0, 2, 1]}),
        ("MatMul", "h w -> q", {}),
        ("MatMul", "q ht -> scores", {}),
        ("ConstantOfShape", "square -> ones", {"value": numpy_helper.from_array(np.ones(1, bool), "one")}),
        ("Trilu", "ones -> lower", {"upper": 0}),
        ("Where", "lower scores low -> masked", {}),
        ("Softmax", "masked -> a", {}),
        ("MatMul", "a h -> o", {}),
        ("Concat", "n1 minus -> flat", {"axis": 0}),
        ("Reshape", "o flat -> y", {}),
    ]
    numbers = {"zero": 0, "start": [0], "rest": [1, 4], "square": [3, 3], "minus": [-1]}
    tensors = weights({"token": [1, 1, 4], "w": [4, 4]}) | {"low": np.array(-1e9, np.float32)}
    model = graph(nodes, tensors | {name: np.array(one, np.int64) for name, one in numbers.items()}, ["n", 2, 4])
    net, found, about = read(tmp_path / "net.onnx", model)
    assert set(found) == {"token", "w", "low"}
    for count in (1, 5):
        x = torch.rand(count, 2, 4)
        h = torch.cat([found["token"].expand(count, -1, -1), x], 1)
        scores = (h @ found["w"] @ h.mT).masked_fill(~torch.ones(3, 3, dtype=torch.bool).tril(), -1e9)
        torch.testing.assert_close(net(x).detach(), (scores.softmax(-1) @ h).flatten(1), rtol=1e-5, atol=1e-6)
    assert about["arch"]["image_shape"] == [1, 2, 4]


@pytest.mark.parametrize("count", [1, 2])
def test_a_file_for_a_fixed_number_of_samples_is_read_for_any(tmp_path: Path, count: int):
    """As exporters fold a class token that is repeated for every sample."""
    nodes: list[Node] = [("Concat", "token x -> h", {"axis": 1}), ("Reshape", "h to -> y", {})]
    token = np.repeat(weights({"token": [1, 1, 4]})["token"], count, axis=0)
    model = graph(nodes, {"token": token, "to": np.array([count, 12], np.int64)}, [count, 2, 4])
    net, _, _ = read(tmp_path / "net.onnx", model)
    x = torch.rand(5, 2, 4)
    expected = torch.cat([torch.from_numpy(token[:1]).expand(5, -1, -1), x], 1).flatten(1)
    assert torch.equal(net(x).detach(), expected)


def test_words_are_read_by_an_embedding(tmp_path: Path):
    nodes: list[Node] = [("Gather", "table x -> h", {}), ("ReduceMean", "h -> y", {"axes": [1], "keepdims": 0})]
    tensors = weights({"table": [9, 4]})
    model = graph(nodes, tensors, ["n", 5], kind=TensorProto.INT64, opset=13)
    net, _, _ = read(tmp_path / "net.onnx", model)
    ids = torch.randint(0, 9, (3, 5))
    torch.testing.assert_close(net(ids).detach(), torch.from_numpy(tensors["table"])[ids].mean(1), rtol=1e-6, atol=1e-6)


def model_with(change: Any, nodes: list[Node] = DENSE, **more: Any) -> onnx.ModelProto:
    model = graph(nodes, TENSORS, more.pop("shape", ["n", 4]), **more)
    change(model)
    return model


def claims(dims: list[int], **fields: Any) -> Any:
    """Says that the first weight has that shape."""

    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        del weight.dims[:]
        weight.dims.extend(dims)
        for name, value in fields.items():
            setattr(weight, name, value)

    return change


def node(operator: str, ends: str = "x w b -> y", **attributes: Any) -> Any:
    """The file's only node is another."""

    def change(model: onnx.ModelProto) -> None:
        other = graph([(operator, ends, attributes)], {}, [1, 1]).graph.node[0]
        model.graph.node[0].CopyFrom(other)

    return change


REFUSALS: dict[str, tuple[Any, str]] = {
    "unknown operator": (node("Det"), r"node 0 'y' \(Det\): there is no rule for this operator"),
    "loop": (node("Loop"), r"\(Loop\): there is no rule"),
    "quantised": (node("DequantizeLinear"), "there is no rule for this operator"),
    "two inputs": (lambda m: m.graph.input.append(helper.make_tensor_value_info("z", 1, [1])), "found the inputs x, z"),
    "open axis": (
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[1].Clear(),
        r"input 'x': found the shape \['n', '\?'\]; only the number of samples",
    ),
    "old": (lambda m: setattr(m.opset_import[0], "version", 6), "found opset 6, expected 7 to"),
    "future": (lambda m: setattr(m.opset_import[0], "version", 1000), "found opset 1000"),
    "cycle": (node("Gemm", "y w b -> y"), "reads 'y', which no earlier node gives"),
    "no such tensor": (node("Gemm", "x v b -> y"), "reads 'v', which no earlier node gives"),
    "given twice": (node("Gemm", "x w b -> w"), r"gives a value \['w'\] that is there already"),
    "other domain": (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "an operator of 'com.microsoft'"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "a graph without nodes"),
    "too few numbers": (claims([4, 4]), r"takes 64 bytes; found 48"),
    "negative size": (claims([-4, 3]), "found the shape"),
    "bomb": (claims([1 << 20, 1 << 20]), "takes 4,398,046,511,104 bytes; found 48"),
    "typed bomb": (lambda m: claims([1 << 40])(m) or m.graph.initializer[0].ClearField("raw_data"), "numbers; found 0"),
    "strings": (claims([4, 3], data_type=8), "found the type string"),
    "no type": (claims([4, 3], data_type=77), "found the type number 77"),
    "does not fit": (claims([3, 4]), r"node 0 'y' \(Gemm\): program: step 'matmul_0'"),
    "weight as output": (lambda m: setattr(m.graph.output[0], "name", "w"), "output 'w' is not computed from the inp"),
    "alien attribute": (node("Gemm", alpha="much"), "not as its operator expects"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_read_is_told_with_its_place(tmp_path: Path, name: str):
    change, message = REFUSALS[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(model_with(change).SerializeToString())
    with pytest.raises(ValueError, match=message) as told:
        onnx_files.parse(path)
    assert str(path) in str(told.value)


def test_the_values_of_a_deep_net_need_not_fit_into_memory_together(tmp_path: Path, parser: Parser):
    ends = [f"{name} -> {after}" for name, after in itertools.pairwise(["a", *(f"b{n}" for n in range(80)), "y"])]
    nodes: list[Node] = [("Conv", "x w -> a", {"pads": [1, 1, 1, 1]}), *(("Tanh", one, {}) for one in ends)]
    path = put(tmp_path / "net.onnx", nodes, weights({"w": [16, 1, 3, 3]}), ["samples", 1, 112, 112])
    (answer,) = parser.parse([path], "onnx")  # 81 values of 3.2 MB in double precision; the limit is 192 MB
    assert not isinstance(answer, ValueError), answer


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20]])
def test_a_small_file_that_computes_a_large_array_is_refused_at_once(tmp_path: Path, shape: list[int], parser: Parser):
    nodes: list[Node] = [("ConstantOfShape", "size -> many", {}), ("Add", "x many -> y", {})]
    path = put(tmp_path / "net.onnx", nodes, {"size": np.array(shape, np.int64)}, ["n", 4])
    list(parser.parse([path], "onnx"))  # the process has started
    started = time.perf_counter()
    (answer,) = parser.parse([path], "onnx")
    assert isinstance(answer, ValueError)
    assert re.search("a constant of more than 1,048,576 numbers", str(answer))
    assert time.perf_counter() - started < 2


def test_a_rule_that_is_wrong_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The negative twin of every import: the check is not a formality."""
    monkeypatch.setitem(rules.RULES, "Relu", lambda call: call.step("gelu", call.active(0)))
    path = tmp_path / "net.onnx"
    path.write_bytes(small().SerializeToString())
    with pytest.raises(ValueError, match=r"node 'c' \(Relu\) gives 'c', which is off from onnx's reference ev"):
        onnx_files.parse(path)


def test_without_onnx_the_error_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"format=onnx needs the package onnx.*pip install metanet\[onnx\]"):
        import_zoo("onnx", folder, tmp_path / "zoo")


class Heads(nn.Module):
    """Attention whose heads a fixed number of samples hides: they are merged with the samples and split off again."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.recurrent = nn.LSTM(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(0, 1)
        return self.recurrent(self.attention(x, x, x, need_weights=False)[0])[0][-1]


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of itself
def test_a_file_for_one_sample_becomes_a_net_for_any_number(tmp_path: Path):
    net, path = Heads().eval(), tmp_path / "net.onnx"
    torch.onnx.export(net, (torch.randn(1, 5, 8),), path, dynamo=False)
    tensors, about = onnx_files.parse(path)
    again = nets.build(about["arch"]).eval()
    again.load_state_dict({f"net.{name}": value for name, value in tensors.items()})
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(again(x), net(x), rtol=1e-4, atol=1e-5)
    assert about["floats"]["in_tensors"] == sum(one.numel() for one in net.parameters())


class Columns(nn.Module):
    """Of several samples read as one column, a softmax would mix them."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.reshape(4, 1).transpose(0, 1).softmax(-1).transpose(0, 1).reshape(1, 4))


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of itself
def test_a_file_for_one_sample_that_would_mix_more_of_them_is_refused(tmp_path: Path):
    torch.onnx.export(Columns().eval(), (torch.randn(1, 4),), tmp_path / "net.onnx", dynamo=False)
    with pytest.raises(ValueError, match=r"made for 1 samples of .*, it mixes those of more"):
        onnx_files.parse(tmp_path / "net.onnx")


FAMILIES: list[dict[str, Any]] = [
    {"family": "small_cnn", "conv_depth": 2, "conv_width": 4, "batch_norm": True, "image_shape": [1, 8, 8]},
    {"family": "resnet", "depth": 8, "width": 4, "norm": "batch", "image_shape": [3, 8, 8]},
    {"family": "vit", "depth": 1, "width": 8, "heads": 2, "patch": 4, "readout": "class", "image_shape": [1, 8, 8]},
]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("arch", FAMILIES, ids=lambda arch: arch["family"])
@pytest.mark.filterwarnings("ignore")  # torch's exporters warn of themselves
def test_what_torch_exports_comes_back(tmp_path: Path, arch: dict[str, Any], dynamo: bool, dynamic: bool):
    if dynamo:
        pytest.importorskip("onnxscript")
    net = nets.build({"num_classes": 3, **arch}, activation="gelu").eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.2 + ("var" in name))
    x, path = torch.rand(1, *arch["image_shape"], generator=generator), tmp_path / "net.onnx"
    free: Any = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    x = x.expand(2, -1, -1, -1) if dynamic else x
    torch.onnx.export(net, (x,), path, input_names=["x"], dynamo=dynamo, **(free if dynamic else {}))  # type: ignore[arg-type]
    tensors, about = onnx_files.parse(path)
    again = nets.build(about["arch"]).eval()
    again.load_state_dict({f"net.{name}": value for name, value in tensors.items()})
    more = torch.rand(5, *arch["image_shape"])
    torch.testing.assert_close(again(more), net(more), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_from_files_to_a_report(folder: Path, tmp_path: Path):
    for number in range(3, 12):
        onnx.save(small(number), folder / f"{number}.onnx")
    lines = [f"{number}.onnx,{('adam', 'sgd')[number % 2]},0.{number % 10}" for number in range(12)]
    (folder / "metadata.csv").write_text("\n".join(["path,optimizer,test_accuracy", *lines]))
    (folder / "dense.onnx").unlink()
    scripts = str(ROOT / "scripts")
    told = command(f"{scripts}/import_zoo.py", "format=onnx", "path=nets", "out=zoos/mine", folder=tmp_path)
    assert "zoos/mine: 12 snapshots of 12 training runs, 1 architectures" in told
    command(f"{scripts}/build_graphs.py", "zoo=zoos/mine", folder=tmp_path)
    command("-m", "metanet.train", "model=gnn", "zoo=zoos/mine", *SMALL, "name=gnn-seed0", folder=tmp_path)
    report = command("-m", "metanet.report", "runs=runs/mine", "out=report.html", folder=tmp_path)
    assert "optimizer" in report
