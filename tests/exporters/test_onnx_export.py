"""Export to ONNX: any number of samples, weights bit for bit, and nothing that computes something else."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from metanet import exporters
from metanet.exporters import onnx as exporting
from metanet.exporters.onnx_files import check, graph
from metanet.exporters.onnx_files import rules as writing
from metanet.importers import onnx_files
from metanet.importers.intake.writing import import_zoo
from metanet.zoo import nets
from metanet.zoo.families import program
from metanet.zoo.operators import OPERATORS
from metanet.zoo.store import Zoo
from tests.zoo.making import tree
from tests.zoo.test_programs import EXAMPLES, net_of

# Operators of programs that have no rule here; a zoo of such nets is refused.
UNWRITTEN = {"log_sigmoid", "threshold", "softshrink", "hardshrink", "expm1", "log1p", "var", "norm", "roll"}
UNWRITTEN |= {"pixel_unshuffle", "recurrent", "item"}


def exported(zoo: Zoo, out: Path) -> Path:
    exporters.export_nets(zoo, exporters.choose(zoo, ()), "onnx", out)
    return out


def test_nets_come_back_with_the_same_weights_and_outputs(tiny_zoo: Zoo, tmp_path: Path):
    zoo = import_zoo("onnx", exported(tiny_zoo, tmp_path / "nets"), tmp_path / "zoo")
    assert zoo.verify() == []
    assert len(zoo) == len(exporters.choose(tiny_zoo, ()))
    assert len(zoo.archs) == len({(row["arch"], row["activation"]) for row in tiny_zoo.manifest.to_pylist()})
    for row in zoo.manifest.to_pylist():
        net, step = int(row["source.net"]), row["step"]
        before = tiny_zoo.manifest.to_pylist()[tiny_zoo.row(net, step)]
        old = {
            f"net.{name}": value for name, value in tiny_zoo.state_dict(net, step).items() if value.is_floating_point()
        }
        new = zoo.state_dict(row["net"], step)
        assert {name: value.tolist() for name, value in new.items()} == {name: old[name].tolist() for name in old}
        x = torch.rand(5, *nets.input_shape(tiny_zoo.archs[before["arch"]]))
        torch.testing.assert_close(zoo.module(row["net"], step)(x), tiny_zoo.module(net, step)(x), rtol=1e-4, atol=1e-5)
        assert {name: row[name] for name in zoo.columns["hyperparameters"]} == {
            name: before[name] for name in zoo.columns["hyperparameters"]
        }


def test_equal_nets_give_equal_bytes_for_any_number_of_samples(tiny_zoo: Zoo, tmp_path: Path):
    first, second = exported(tiny_zoo, tmp_path / "first"), exported(tiny_zoo, tmp_path / "second")
    assert tree(first) == tree(second)
    path = sorted(first.glob("*.onnx"))[0]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    evaluator = ReferenceEvaluator(str(path))
    shape = next(iter(tiny_zoo.archs.values()))["image_shape"]
    for count in (1, 7):
        (output,) = evaluator.run(None, {"input": np.zeros((count, *shape), np.float32)})  # type: ignore[misc]
        assert len(output) == count


@pytest.mark.parametrize("op", [op for op in OPERATORS if op not in UNWRITTEN])
def test_every_operator_of_a_program_goes_there_and_back(tmp_path: Path, op: str):
    net = net_of(EXAMPLES[op])
    net.load_state_dict({name: value.abs() / 4 for name, value in net.state_dict().items()})  # logarithms are defined
    old = nets.own_names(net.state_dict(), {"family": "program"})
    sample = nets.example_input(program.architecture(EXAMPLES[op]))[:1]
    model = graph.filled(graph.model(net, sample), net.state_dict(), list(old))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    tensors, _ = onnx_files.parse(tmp_path / "net.onnx")
    assert {name: value.tolist() for name, value in tensors.items()} == {name: old[name].tolist() for name in old}
    check.equal(model, net, op)


@pytest.mark.parametrize("op", sorted(UNWRITTEN))
def test_an_operator_without_a_rule_is_told(op: str):
    with pytest.raises(ValueError, match=r"aten\.[\w]+: there is no rule that writes this operator as ONNX"):
        graph.model(net_of(EXAMPLES[op]), nets.example_input(program.architecture(EXAMPLES[op]))[:1])


def test_a_rule_that_is_wrong_is_caught(tiny_zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The negative twin: nothing is written where the evaluator disagrees."""
    exporting._graph.cache_clear()
    monkeypatch.setitem(writing.RULES, "aten.linear", lambda call: call.emit("MatMul", call["input"], _turned(call)))
    with pytest.raises(ValueError, match=r"net-0-step-\d+: onnx's reference evaluator gives an output that is off by"):
        exported(tiny_zoo, tmp_path / "nets")
    assert list(tmp_path.iterdir()) == []
    exporting._graph.cache_clear()


def _turned(call: writing.Call) -> writing.Ref:
    """The weight without the bias, which should be there."""
    return call.emit("Transpose", call["weight"], perm=[1, 0])


def test_without_onnx_the_error_says_what_to_install(tiny_zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"format=onnx needs the package onnx.*pip install metanet\[onnx\]"):
        exported(tiny_zoo, tmp_path / "nets")


def test_what_the_evaluator_cannot_run_is_told_by_name():
    net = nn.Sequential(nn.Linear(3, 2)).eval()
    nodes = [helper.make_node("Greater", ["x", "x"], ["b"]), helper.make_node("Add", ["x", "b"], ["y"])]
    given, made = (helper.make_tensor_value_info(name, 1, ["n", 3]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    with pytest.raises(ValueError, match="net-3: onnx's reference evaluator cannot run what would be written"):
        check.equal(model, net, "net-3")


class LastWord(nn.Module):
    """As transformers classifies a text: masked words, whole numbers, and the place of the last word that is none."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(4, 6), nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples, length = x.shape
        there, step = x.ne(0), torch.arange(length)
        y = self.words(x) + self.places(there.to(torch.int64).cumsum(1) * there + 1)
        near = (step[None, :, None] >= step[None, None]).expand(samples, -1, -1)  # of numbers alone, for every sample
        y = nn.functional.scaled_dot_product_attention(y, y, y, torch.where(near, 0.0, -1e4))
        return self.head(y)[torch.arange(samples), (there.int() * step).argmax(-1)]


def test_whole_numbers_and_masks_for_every_sample_are_written():
    net = LastWord().eval()
    model = graph.model(net, torch.ones(1, 5, dtype=torch.int64))
    check.equal(graph.filled(model, net.state_dict(), list(net.state_dict())), net, "net")
