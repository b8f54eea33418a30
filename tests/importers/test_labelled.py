"""Plain checkpoints and people's own tables: formats state_dicts and table."""

import csv
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from metanet.errors import RefusedError
from metanet.importers.intake.writing import import_zoo
from metanet.zoo import nets
from metanet.zoo.families import factory
from tests.importers import foreign
from tests.zoo.making import tree

MLP = {"family": "mlp", "depth": 1, "width": 3, "batch_norm": True, "image_shape": [1, 2, 2], "num_classes": 2}


class Net(nn.Module):
    """Branches, so that no list of layers says it."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 1)
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(2 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.left(x) + self.right(x)).relu().flatten(1))


@pytest.fixture(autouse=True)
def module_of_the_user(monkeypatch: pytest.MonkeyPatch):
    found: Any = types.ModuleType("users_nets")
    found.Net, found.number, found.needs, found.line = Net, lambda: 3, nn.Linear, lambda: nn.Linear(4, 2)
    found.sequence = lambda: nn.Sequential(nn.Conv2d(1, 2, 2))
    monkeypatch.setitem(sys.modules, "users_nets", found)
    monkeypatch.setattr(factory, "_allowed", set())


def filled(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """The state_dict with distinct numbers in every place."""
    state_dict = module.state_dict()
    numbers = torch.from_numpy(foreign.integers(sum(value.numel() for value in state_dict.values()), seed)).float()
    for name, tensor in state_dict.items():
        if tensor.is_floating_point():
            part, numbers = numbers[: tensor.numel()], numbers[tensor.numel() :]
            state_dict[name] = part.view(tensor.shape) + (2 if name.endswith("running_var") else 0)
    return state_dict


def put_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    folder = tmp_path / "nets"
    (folder / "deep").mkdir(parents=True)
    torch.save(filled(Net(), 0), folder / "a.pt")
    torch.save({"state_dict": filled(Net(), 1), "epoch": 7, "lr": np.float64(0.1)}, folder / "b.pth")
    save_file({f"module.{name}": value for name, value in filled(Net(), 2).items()}, folder / "deep" / "c.safetensors")
    doubles = {f"_orig_mod.{name}": value.double() for name, value in filled(Net(), 3).items() if "num_b" not in name}
    torch.save({"model": doubles}, folder / "d.bin")
    return folder


MODULE: dict[str, Any] = {"module": "users_nets:Net", "input": [1, 1, 4, 4]}


def test_imported_checkpoints_compute_what_the_module_computes(checkpoints: Path, tmp_path: Path):
    zoo = import_zoo("state_dicts", checkpoints, tmp_path / "zoo", **MODULE)
    assert zoo.verify() == []
    images = torch.rand(2, 1, 4, 4)
    order = {"a.pt": 0, "b.pth": 1, "deep/c.safetensors": 2, "d.bin": 3}
    rows = zoo.manifest.to_pylist()
    assert {row["source.where"] for row in rows} == set(order)
    for row in rows:
        net = Net().eval()
        net.load_state_dict(filled(net, order[row["source.where"]]))
        torch.testing.assert_close(zoo.module(row["net"], 0)(images), net(images), rtol=1e-6, atol=1e-6)
        assert row["activation"] == "own"
        assert len(zoo.template(row["arch"], "own").blocks) == 3
    told = {row["source.where"]: row["source.file"] for row in rows}
    assert json.loads(told["b.pth"]) == {"epoch": 7, "lr": 0.1}
    assert told["a.pt"] is None


def test_a_function_is_called_only_with_leave(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    zoo = import_zoo("state_dicts", checkpoints, tmp_path / "zoo", **MODULE)
    monkeypatch.setattr(factory, "_allowed", set())
    with pytest.raises(RefusedError, match=r"refused to call users_nets:Net.*set METANET_FACTORIES=users_nets:Net"):
        zoo.module(0, 0)
    monkeypatch.setenv("METANET_FACTORIES", "other:net,users_nets:Net")
    assert isinstance(zoo.module(0, 0), nn.Sequential)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"module": "users_nets:nothing", "input": [1, 1, 4, 4]},
            "has no attribute 'nothing'; expected package:factory",
        ),
        ({"module": "no_such_package:x", "input": [1, 1, 4, 4]}, "No module named 'no_such_package'"),
        ({"module": "users_nets:number", "input": [1, 1, 4, 4]}, "gave a int, expected an nn.Module"),
        ({"module": "users_nets:needs", "input": [1, 1, 4, 4]}, "expected package:factory without arguments"),
        ({"module": "users_nets:sequence", "input": [1, 1, 4, 4]}, r"its output is no tensor \[batch, numbers\]"),
        ({"module": "users_nets:Net"}, r"found input=None, expected input=\[1,channels,height,width\]"),
        ({}, "found no architecture, expected module=package:factory"),
    ],
)
def test_a_module_that_does_not_serve_is_told(checkpoints: Path, tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        import_zoo("state_dicts", checkpoints, tmp_path / "zoo", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["nets"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("left.bias"), "missing are net.left.bias; unexpected are nothing"),
        (lambda s: s.update(more=torch.ones(2)), "missing are nothing; unexpected are net.more"),
        (lambda s: s.update({"left.bias": torch.ones(3)}), r"net.left.bias: found the shape \(3,\), expected \(2,\)"),
        (lambda s: s.update({"left.bias": torch.ones(2, dtype=torch.int64)}), "found torch.int64, expected floating"),
        (lambda s: s.update({"left.bias": torch.ones(2, dtype=torch.cfloat)}), "found torch.complex64, expected float"),
        (lambda s: s.update({"left.bias": torch.tensor([1, torch.inf])}), "net.left.bias is not finite"),
    ],
)
def test_what_does_not_fit_is_told_by_name(checkpoints: Path, tmp_path: Path, change: Any, message: str):
    state_dict = filled(Net(), 0)
    change(state_dict)
    torch.save(state_dict, checkpoints / "a.pt")
    zoo = import_zoo("state_dicts", checkpoints, tmp_path / "zoo", **MODULE)
    (told,) = json.loads((zoo.path / "left_out.json").read_text())["left_out"]
    assert told["where"] == "a.pt"
    assert re.search(message, told["detail"]), told["detail"]
    assert len(zoo) == 3


def test_hostile_checkpoints_are_left_out_and_alone_refused(checkpoints: Path, tmp_path: Path):
    torch.save(Net(), checkpoints / "module.pt")
    zoo = import_zoo("state_dicts", checkpoints, tmp_path / "zoo", **MODULE)
    report = json.loads((zoo.path / "left_out.json").read_text())
    assert report["reasons"] == {"not safe to read": 1}
    assert "may run" in report["left_out"][0]["detail"]
    for path in list(checkpoints.rglob("*.*")):
        if path.name != "module.pt":
            path.unlink()
    with pytest.raises(RefusedError, match=r"no net could be imported: {'not safe to read': 1}.*test_labelled.Net"):
        import_zoo("state_dicts", checkpoints, tmp_path / "alone", **MODULE)


def labelled(name: str, number: int) -> dict[str, Any]:
    row = {"path": name, "run": f"run{number // 2}", "step": 10 * (number % 2)}
    row |= {"optimizer": ("adam", "sgd")[number % 2], "learning_rate": 10.0 ** -(number + 1), "warmup": number}
    row |= {"clean": number > 1, "test_accuracy": 0.5 + number / 10}
    return {**row, "note": "" if number else "first", "status": "mine", "train_loss": "nan"}


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_labels_become_columns_of_their_kind(checkpoints: Path, tmp_path: Path, kind: str):
    names = ["a.pt", "b.pth", "deep/c.safetensors", "d.bin"]
    rows = [labelled(name, number) for number, name in enumerate(names)]
    if kind == "csv":
        put_csv(checkpoints / "metadata.csv", rows)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), checkpoints / "metadata.parquet")
    else:
        (checkpoints / "metadata.json").write_text(json.dumps({row["path"]: row for row in rows}))
    zoo = import_zoo("state_dicts", checkpoints, tmp_path / "zoo", **MODULE)
    assert zoo.columns["hyperparameters"] == ["optimizer", "learning_rate", "warmup", "clean", "note"]
    found = {row["source.path"]: row for row in zoo.manifest.to_pylist()}
    last = found["d.bin"]
    assert (last["optimizer"], last["learning_rate"], last["warmup"], last["clean"]) == ("sgd", 1e-4, 3, True)
    assert (last["step"], last["status"], last["source.status"], last["note"]) == (10, "ok", "mine", None)
    assert last["test_accuracy"] == pytest.approx(0.8)
    assert last["train_loss"] is None
    assert found["a.pt"]["lineage"] == found["b.pth"]["lineage"] != last["lineage"]
    assert zoo.steps(0) == [0, 10]


def own_table(folder: Path, count: int) -> list[dict[str, Any]]:
    """A zoo as people keep it: two stacked files, a table, and archs.json. Its rows."""
    folder.mkdir()
    rows = []
    for part in range(2):
        members = [filled(nets.build(MLP), 10 * part + number) for number in range(count)]
        save_file({k: torch.stack([m[k] for m in members]) for k in members[0]}, folder / f"part{part}.safetensors")
        rows += [
            {"path": f"part{part}.safetensors", "row": n, "arch": "small", "activation": "tanh", "lr": 0.1 * (n + 1)}
            for n in range(count)
        ]
    (folder / "archs.json").write_text(json.dumps({"small": MLP}))
    return rows


def test_stacked_tensors_are_imported_by_row(tmp_path: Path):
    rows = own_table(tmp_path / "own", 3)
    put_csv(tmp_path / "own" / "nets.csv", rows)
    zoo = import_zoo("table", tmp_path / "own", tmp_path / "zoo")
    assert len(zoo) == 6
    assert zoo.verify() == []
    images = torch.rand(2, 1, 2, 2)
    for row in zoo.manifest.to_pylist():
        expected = nets.build(MLP, activation="tanh").eval()
        part = int(row["source.path"][4])
        expected.load_state_dict(filled(expected, 10 * part + int(row["source.row"])))
        torch.testing.assert_close(zoo.module(row["net"], 0)(images), expected(images), rtol=1e-6, atol=1e-6)
    assert import_zoo("table", tmp_path / "own", tmp_path / "again" / "zoo").verify() == []
    assert tree(tmp_path / "zoo") == tree(tmp_path / "again" / "zoo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": 7}, "expected more than 7 nets"),
        ({"row": "x"}, "row: found 'x', expected a whole number"),
        ({"step": "-1"}, "step: found '-1', expected a whole number"),
        (
            {"arch": "large"},
            "found the architecture 'large', expected module=.*, or a column arch with a name in archs.json: small",
        ),
        ({"activation": ""}, "no activation; expected a column activation, for family mlp"),
        ({"activation": "relo"}, "found 'relo'"),
        ({"path": "../own/part0.safetensors"}, "a path upwards"),
        ({"path": "nowhere.pt"}, "no such file"),
        ({"test_accuracy": "good"}, "test_accuracy: found 'good', expected a number"),
        ({"row": 1}, "step 0"),
    ],
)
def test_a_wrong_row_is_left_out_with_the_reason(tmp_path: Path, change: dict[str, Any], message: str):
    rows = [row | {"step": "0", "test_accuracy": "", "net": row["row"]} for row in own_table(tmp_path / "own", 2)]
    rows[0] |= change | ({"net": 1} if change == {"row": 1} else {})
    put_csv(tmp_path / "own" / "nets.csv", [row | {"run": row["path"]} for row in rows])
    zoo = import_zoo("table", tmp_path / "own", tmp_path / "zoo")
    (told,) = json.loads((zoo.path / "left_out.json").read_text())["left_out"]
    assert re.search(message, told["detail"]), told["detail"]
    assert len(zoo) == 3


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ([], "expected {name: architecture}, each an object with a family"),
        ({"depth": 3}, "each an object with a family"),
        ({"family": []}, "each an object with a family"),
        ({"family": "mlp", "image_shape": 5}, "expected numbers and text, and image_shape"),
        ({**MLP, "image_shape": [1, [2], 2]}, "expected numbers and text, and image_shape"),
        ({**MLP, "width": {}}, "expected numbers and text"),
        ({**MLP, "width": "3"}, "found width '3'"),
        ({**MLP, "family": "mlb"}, "unknown family 'mlb'.*did you mean mlp"),
    ],
)
def test_an_architecture_that_is_none_is_told(tmp_path: Path, arch: Any, message: str):
    put_csv(tmp_path / "own" / "nets.csv", own_table(tmp_path / "own", 1))
    (tmp_path / "own" / "archs.json").write_text(json.dumps({"small": arch}))
    with pytest.raises(ValueError, match=message):
        import_zoo("table", tmp_path / "own", tmp_path / "zoo")


@pytest.mark.parametrize("column", ["step", "warmup"])
def test_numbers_beyond_64_bits_are_left_out(tmp_path: Path, column: str):
    rows = [row | {column: 10 ** (20 * row["row"])} for row in own_table(tmp_path / "own", 2)]
    put_csv(tmp_path / "own" / "nets.csv", rows)
    zoo = import_zoo("table", tmp_path / "own", tmp_path / "zoo")
    assert json.loads((zoo.path / "left_out.json").read_text())["reasons"] == {"a number beyond 64 bits": 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nets.csv", "file,lr\na,1\n", "expected distinct ones, with path"),
        ("nets.json", "[1]", "expected rows with a column path"),
        ("nets.json", r'[{"path": "\ud800"}]', "no readable JSON.*surrogates not allowed"),
        ("nets.parquet", "no parquet", "nets.parquet"),
        ("other.csv", "path\n", "found no table, expected nets.csv"),
    ],
)
def test_a_table_that_is_none_is_told(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        import_zoo("table", tmp_path / "own", tmp_path / "zoo")


def test_seeds_are_kept_and_are_no_targets(checkpoints: Path, tmp_path: Path):
    put_csv(
        checkpoints / "metadata.csv",
        [{"path": "a.pt", "seed": 3, "depth": 1}, {"path": "b.pth", "seed": 4, "depth": 2}],
    )
    zoo = import_zoo("state_dicts", checkpoints, tmp_path / "zoo", **MODULE)
    assert zoo.columns["hyperparameters"] == ["depth"]
    assert {"3", "4"} <= set(zoo.manifest["source.seed"].to_pylist())


def test_a_net_without_an_architecture_is_told_what_is_missing(checkpoints: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"a\.pt: found no architecture, expected module=.* archs\.json, which is not"):
        import_zoo("state_dicts", checkpoints, tmp_path / "zoo")
