"""verify=accuracy: an imported zoo does on its image set what its source says, or is refused."""

import copy
import csv
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from metanet.importers.intake import accuracy
from metanet.importers.intake.writing import import_zoo
from metanet.zoo import images
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from tests.conftest import TINY
from tests.scripts.test_import_zoo import run


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six trained nets as somebody's own folder: a table and stacked tensors."""
    spec = copy.deepcopy(TINY) | {"num_nets": 6, "eval_images": None, "epochs": 8, "num_architectures": 2}
    zoo = make_zoo(check_spec(spec, "here"), tmp_path / "trained", processes=1)
    assert max(zoo.manifest["test_accuracy"].to_pylist()) > 0.4
    out = tmp_path / "source"
    assert run(monkeypatch, "export_nets.py", "format=table", f"zoo={zoo.path}", f"out={out}") == 0
    return out


def test_nets_that_do_what_their_source_says_are_imported(source: Path, tmp_path: Path):
    zoo = import_zoo("table", source, tmp_path / "zoo", verify="accuracy")
    told = zoo.record["verified"]["accuracy"]
    assert told["pixels"] == "[-1, 1]"  # what our own zoos are fed
    assert told["nets"] >= 2
    assert told["largest_difference"] <= 1e-6
    assert "verified" not in import_zoo("table", source, tmp_path / "unverified").record


@pytest.mark.parametrize("kind", ["a turned kernel", "another accuracy"])
def test_nets_that_do_not_are_refused_and_nothing_is_written(kind: str, source: Path, tmp_path: Path):
    if kind == "a turned kernel":
        for path in source.glob("*.safetensors"):
            tensors = load_file(path)
            kernels = {name: tensor.transpose(-1, -2) for name, tensor in tensors.items() if tensor.ndim == 5}
            save_file(tensors | {name: tensor.contiguous() for name, tensor in kernels.items()}, path)
    else:
        with open(source / "nets.csv") as file:
            rows = list(csv.DictReader(file))
        with open(source / "nets.csv", "w") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(row | {"test_accuracy": float(row["test_accuracy"]) + 0.02} for row in rows)
    with pytest.raises(
        ValueError, match=r"its source says a test accuracy of 0\.\d+ on digits, found 0\.\d+ with pixels"
    ):
        import_zoo("table", source, tmp_path / "zoo", verify="accuracy")
    assert not (tmp_path / "zoo").exists()
    assert not [*tmp_path.glob(".zoo*")]


def test_what_cannot_be_verified_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="verify=loss: expected accuracy"):
        import_zoo("table", source, tmp_path / "zoo", verify="loss")
    monkeypatch.setattr(accuracy.images, "SETS", {})
    with pytest.raises(ValueError, match=r"verify=accuracy needs nets with an image set, .* found none"):
        import_zoo("table", source, tmp_path / "zoo", verify="accuracy")


def test_a_missing_image_set_is_told_with_what_gets_it(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object, **__: object) -> None:
        images.complete_layout("mnist", tmp_path / "no_data")

    monkeypatch.setattr(accuracy.images, "load", missing)
    with pytest.raises(FileNotFoundError, match=r"image files of 'mnist' not found.*get_images\.py sets=\[mnist\]"):
        import_zoo("table", source, tmp_path / "zoo", verify="accuracy")
