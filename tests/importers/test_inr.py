"""SIRENs as Navon's code keeps them: seq.N.weight and seq.N.bias, and the class in the path."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metanet.importers.intake.writing import import_zoo
from tests.importers import foreign

SHAPES = {1: [(8, 2), (8, 8), (1, 8)], 3: [(6, 2), (6, 6), (6, 6), (3, 6)]}
NETS = {  # where: (channels, seed)
    "mnist_png_training_2_23/checkpoints/model_final.pth": (1, 0),
    "mnist_png_training_2_23/checkpoints/model_other.pth": (1, 1),
    "mnist_png_testing_7_4/checkpoints/model_final.pth": (1, 2),
    "colour.pth": (3, 3),
}


def weights(channels: int, seed: int) -> dict[str, Tensor]:
    shapes = SHAPES[channels]
    numbers = torch.from_numpy(foreign.integers(sum(out * (inner + 1) for out, inner in shapes), seed)).float()
    found = {}
    for layer, (out, inner) in enumerate(shapes):
        found[f"seq.{layer}.weight"], numbers = numbers[: out * inner].view(out, inner).clone(), numbers[out * inner :]
        found[f"seq.{layer}.bias"], numbers = numbers[:out].clone(), numbers[out:]
    return found


def layer(inner: int, out: int, seed: int) -> dict[str, Tensor]:
    """The weight and bias of one dense layer."""
    numbers = torch.from_numpy(foreign.integers(out * (inner + 1), seed)).float()
    return {"weight": numbers[out:].view(out, inner).clone(), "bias": numbers[:out].clone()}


def forward(state_dict: dict[str, Tensor], omega: float, x: Tensor) -> Tensor:
    """What their INR gives: their code adds 0.5 to the output."""
    values = [tensor.double() for tensor in state_dict.values()]
    for weight, bias in zip(values[:-2:2], values[1:-2:2], strict=True):
        x = torch.sin(omega * (x @ weight.T + bias))
    return x @ values[-2].T + values[-1] + 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (channels, seed) in NETS.items():
        path = tmp_path / "inrs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(weights(channels, seed), path)
    return tmp_path / "inrs"


@pytest.mark.parametrize("omega", [30, 7])
def test_imported_nets_compute_what_their_torch_nets_compute(folder: Path, tmp_path: Path, omega: int):
    zoo = import_zoo("inr", folder, tmp_path / "zoo", omega=omega)
    assert len(zoo) == 4
    assert zoo.verify() == []
    places = torch.rand(5, 2, dtype=torch.float64) * 2 - 1
    for row in zoo.manifest.to_pylist():
        expected = forward(weights(*NETS[row["source.where"]]), omega, places)
        torch.testing.assert_close(zoo.module(row["net"], 0).double()(places), expected, rtol=1e-5, atol=1e-5)


def test_nets_whose_code_adds_nothing_keep_their_weights(folder: Path, tmp_path: Path):
    zoo = import_zoo("inr", folder, tmp_path / "zoo", offset=0.0)
    for row in zoo.manifest.to_pylist():
        theirs = list(weights(*NETS[row["source.where"]]).values())
        assert all(map(torch.equal, zoo.state_dict(row["net"], 0).values(), theirs))


def test_the_class_is_read_from_the_path_and_nets_of_an_image_stay_together(folder: Path, tmp_path: Path):
    zoo = import_zoo("inr", folder, tmp_path / "zoo", image_set="mnist")
    rows = {row["source.where"]: row for row in zoo.manifest.to_pylist()}
    first, other, test, colour = (rows[name] for name in NETS)
    assert (first["label"], test["label"], colour["label"]) == ("2", "7", None)
    assert first["lineage"] == other["lineage"] != test["lineage"]
    assert first["net"] != other["net"]
    assert {row["image_set"] for row in rows.values()} == {"mnist"}


def test_a_json_of_splits_says_the_class(folder: Path, tmp_path: Path):
    listed = {"train": {"path": [f"/somebody/else/{name}" for name in NETS], "label": ["5", "5", 6, "8"]}}
    (folder / "splits.json").write_text(json.dumps(listed))
    zoo = import_zoo("inr", folder, tmp_path / "zoo", labels="splits.json")
    rows = {row["source.where"]: row for row in zoo.manifest.to_pylist()}
    assert [rows[name]["label"] for name in NETS] == ["5", "5", "6", "8"]
    assert {row["source.split"] for row in rows.values()} == {"train"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "names no file of"),
        ('{"train": {"path": ["a"], "label": []}}', "the lists path and label, of equal length"),
    ],
)
def test_a_json_that_is_no_splits_is_told(folder: Path, tmp_path: Path, content: str, message: str):
    (folder / "splits.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        import_zoo("inr", folder, tmp_path / "zoo", labels="splits.json")


def test_other_nets_are_left_out_by_name(folder: Path, tmp_path: Path):
    torch.save({"seq.0.weight": torch.ones(8, 64)}, folder / "encoded.pth")
    torch.save(weights(1, 0) | {"seq.3.weight": torch.ones(8, 8)}, folder / "more.pth")
    (folder / "cut.pth").write_bytes((folder / "colour.pth").read_bytes()[:-30])
    zoo = import_zoo("inr", folder, tmp_path / "zoo")
    told = {one["where"]: one["detail"] for one in json.loads((zoo.path / "left_out.json").read_text())["left_out"]}
    assert len(zoo) == 4
    assert "expected [width, 2]" in told["encoded.pth"]
    assert "seq.2.weight: found (1, 8), expected (8, 8)" in told["more.pth"]
    assert "damaged" in told["cut.pth"]
