"""Format onnx: data in other files, functions, and names that stand twice."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from metanet.errors import RefusedError
from metanet.importers import onnx_files
from metanet.importers.intake.writing import import_zoo
from tests.importers.onnx_graphs import Node, graph
from tests.importers.test_onnx import DENSE, TENSORS


def external(folder: Path, location: str, **more: Any) -> Path:
    """A file whose weight w lies in another one."""
    (folder / "data.bin").write_bytes(b"\0" * 16 + TENSORS["w"].tobytes())
    model = graph(DENSE, TENSORS, ["n", 4])
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 16, "length": 48, **more}.items():
        weight.external_data.add(key=key, value=str(value))
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def test_data_in_another_file_is_read_and_counts(tmp_path: Path):
    folder = tmp_path / "nets"
    folder.mkdir()
    external(folder, "data.bin")
    zoo = import_zoo("onnx", folder, tmp_path / "zoo")
    assert np.array_equal(zoo.state_dict(0, 0)["net.w"].numpy(), TENSORS["w"])
    (folder / "data.bin").write_bytes((folder / "data.bin").read_bytes() + b"more")
    other = import_zoo("onnx", folder, tmp_path / "other")
    assert other.record["source"]["sha256"] != zoo.record["source"]["sha256"]


@pytest.mark.parametrize(
    ("location", "more", "message"),
    [
        ("../data.bin", {}, "a path upwards"),
        ("/etc/passwd", {}, "an absolute path"),
        ("a\\b", {}, "backslash"),
        ("a\0b", {}, "NUL"),
        ("", {}, "a path has 1 to 1024 characters"),
        ("link.bin", {}, "a link in the path"),
        ("linked/data.bin", {}, "a link in the path"),
        ("hard.bin", {}, "hard links"),
        ("pipe", {}, "no ordinary file"),
    ],
)
def test_data_elsewhere_are_refused(tmp_path: Path, location: str, more: dict[str, Any], message: str):
    folder, outside = tmp_path / "nets", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "data.bin").write_bytes(b"\0" * 64)
    (folder / "link.bin").symlink_to(outside / "data.bin")
    (folder / "linked").symlink_to(outside)
    os.link(outside / "data.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe")
    with pytest.raises(RefusedError, match=message):
        onnx_files.parse(external(folder, location, **more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"offset": -16}, "claims 48 bytes at -16"),
        ({"offset": 17}, "claims 48 bytes at 17 of 'data.bin', for a shape that takes 48; found a file of 64"),
        ({"offset": 1 << 62}, "claims 48 bytes at 4,611"),
        ({"length": 1 << 40}, "claims 1,099,511,627,776 bytes"),
        ({"length": -1}, "claims -1 bytes"),
        ({"offset": "x"}, "expected whole numbers"),
        ({"location": "none.bin"}, "'none.bin' cannot be read: No such file"),
    ],
)
def test_claims_about_data_elsewhere_are_checked(tmp_path: Path, more: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        onnx_files.parse(external(tmp_path, **{"location": "data.bin", **more}))


def calling(functions: dict[str, list[str]]) -> onnx.ModelProto:
    """A model that calls R0; each function calls others, one after the other, or Relu where it names none."""
    model = graph([("Relu", "x -> y", {})], {}, ["n", 4])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    for name, called in functions.items():
        values = ["a", *(f"t{number}" for number in range(len(called) - 1)), "b"]
        nodes = [helper.make_node(one, [values[k]], [values[k + 1]], domain="f") for k, one in enumerate(called)]
        nodes = nodes or [helper.make_node("Relu", ["a"], ["b"])]
        model.functions.append(helper.make_function("f", name, ["a"], ["b"], nodes, imports))
    model.graph.node[0].op_type, model.graph.node[0].domain = "R0", "f"
    model.opset_import.append(imports[1])
    return model


def test_functions_are_read_as_what_they_do(tmp_path: Path):
    (tmp_path / "net.onnx").write_bytes(calling({"R0": ["R1", "R1"], "R1": []}).SerializeToString())
    _, about = onnx_files.parse(tmp_path / "net.onnx")
    assert about["arch"]["program"].count('"op":"relu"') == 2


@pytest.mark.parametrize(
    ("functions", "told"),
    [
        ({"R0": ["R0"]}, "call themselves, among R0"),
        ({"R0": ["R1"], "R1": ["R0"]}, "call themselves, among R0"),
        ({**{f"R{n}": [f"R{n + 1}"] * 10 for n in range(9)}, "R9": []}, "found more than 20,000 nodes"),
    ],
)
def test_functions_without_an_end_are_refused_before_they_are_unfolded(
    tmp_path: Path, functions: dict[str, list[str]], told: str
):
    (tmp_path / "net.onnx").write_bytes(calling(functions).SerializeToString())
    with pytest.raises(ValueError, match=told):
        onnx_files.parse(tmp_path / "net.onnx")


def test_weights_that_stand_twice_are_refused(tmp_path: Path):
    model = graph(DENSE, TENSORS, ["n", 4])
    model.graph.initializer.append(model.graph.initializer[0])
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="found two initialisers called 'w'"):
        onnx_files.parse(tmp_path / "net.onnx")
    del model.graph.initializer[-1]
    model.graph.initializer[0].float_data.extend([0.0] * 12)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="'w': has its numbers twice, and readers differ"):
        onnx_files.parse(tmp_path / "net.onnx")


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_told_and_kept_as_in_other_formats(
    tmp_path: Path, value: float, constant: bool
):
    folder, w = tmp_path / "nets", TENSORS["w"].copy()
    w[1, 2] = value
    folder.mkdir()
    inside: list[Node] = [("Constant", "-> w", {"value": numpy_helper.from_array(w)})] if constant else []
    model = graph([*inside, *DENSE], {**TENSORS, "w": w} if not constant else {"b": TENSORS["b"]}, ["n", 4])
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    (folder / "good.onnx").write_bytes(graph(DENSE, TENSORS, ["n", 4]).SerializeToString())
    zoo = import_zoo("onnx", folder, tmp_path / "zoo")
    (left_out,) = json.loads((zoo.path / "left_out.json").read_text())["left_out"]
    assert left_out["reason"] == "weights that are not finite"
    assert left_out["detail"] == "net.onnx: net.w is not finite"
    with pytest.raises(ValueError, match="w is not finite"):
        import_zoo("onnx", folder, tmp_path / "none", non_finite="refuse")
    kept = import_zoo("onnx", folder, tmp_path / "kept", non_finite="keep")
    assert dict(zip(*(kept.manifest[name].to_pylist() for name in ("source.where", "status")), strict=True)) == {
        "good.onnx": "ok",
        "net.onnx": "diverged",
    }
    row = kept.manifest["source.where"].to_pylist().index("net.onnx")
    assert np.array_equal(kept.state_dict(row, 0)["net.w"].numpy(), w, equal_nan=True)
