"""Preprocessed Model Zoos: pickled objects of a class that is there only while they are written."""

import contextlib
import json
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metanet.errors import RefusedError
from metanet.importers.intake.writing import import_zoo
from tests.importers import hostile
from tests.importers.test_model_zoos import CNN, CNN3, forward, weights
from tests.zoo.making import tree

PARTS = {"trainset": 3, "valset": 1, "testset": 2}  # how many runs
EPOCHS = (5, 15)
INDEX = {  # of CNN, as their preprocessing writes it
    "layer": [[0, "conv2d"], [3, "conv2d"], [6, "conv2d"], [9, "fc"], [11, "fc"]],
    "idx_start": [0, 208, 1414, 1514, 2254],
    "idx_length": [208, 1206, 100, 740, 210],
    "kernel_no": [8, 6, 4, 20, 10],
    "kernel_size": [25, 25, 4, 1, 1],
    "channels_in": [1, 8, 6, 36, 20],
}


@contextlib.contextmanager
def their_code() -> Iterator[type]:
    class ModelDatasetBase:
        def __init__(self, **attributes: Any):
            vars(self).update(attributes)

    package, module = (types.ModuleType(f"checkpoints_to_datasets{name}") for name in ("", ".dataset_base"))
    ModelDatasetBase.__module__, ModelDatasetBase.__qualname__ = module.__name__, "ModelDatasetBase"
    vars(module)["ModelDatasetBase"] = ModelDatasetBase
    sys.modules |= {package.__name__: package, module.__name__: module}
    yield ModelDatasetBase
    del sys.modules[package.__name__], sys.modules[module.__name__]


def attributes(runs: list[int], how: str = "checkpoint", **changes: Any) -> dict[str, Any]:
    """What an object of theirs holds of some runs, whose numbers say everything about them."""
    nets = [(run, epoch) for run in runs for epoch in EPOCHS]
    data = [weights(CNN3 if run % 3 == 2 else CNN, 0.5 * (run % 2), 100 * run + epoch) for run, epoch in nets]
    vectors = [torch.cat([tensor.flatten() for tensor in state_dict.values()]) for state_dict in data]
    properties = {"test_acc": [epoch / 100 for _, epoch in nets], "ggap": [0.1] * len(nets)}
    properties |= {"training_iteration": [epoch for _, epoch in nets], "optim::lr": [0.001] * len(nets)}
    properties |= {"model::nlin": [("tanh", "relu")[run % 2] for run, _ in nets]}
    properties |= {"optim::optimizer": [("adam", "sgd", "sgd")[run % 3] for run, _ in nets]}
    properties |= {"model::dropout": [0.5 * (run % 2) for run, _ in nets]}
    given = data if how == "checkpoint" else vectors
    rest = {"layer_lst": [(0, "conv2d"), (9, "fc")], "epoch_lst": list(EPOCHS), "mode": how, "use_bias": True}
    rest |= {"task": "reconstruction", "root": [Path("/somebody/zoo")], "weight_threshold": float("inf")}
    paths = [Path(f"/somebody/zoo/NN_tune_trainable_{run:05d}") for run, _ in nets]
    epochs = [epoch for _, epoch in nets]
    whole = {"data_in": given, "data_out": given, "paths": paths, "epochs": epochs, "properties": properties}
    return whole | rest | changes


def put(path: Path, parts: dict[str, dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with their_code() as dataset:
        torch.save({part: dataset(**given) for part, given in parts.items()}, path)
    return path


def divided(mode: str = "checkpoint", counts: dict[str, int] = PARTS) -> dict[str, dict[str, Any]]:
    numbers = iter(range(sum(counts.values())))
    return {part: attributes([next(numbers) for _ in range(count)], mode) for part, count in counts.items()}


@pytest.mark.parametrize("mode", ["checkpoint", "vector"])
def test_imported_nets_compute_what_their_torch_nets_compute(tmp_path: Path, mode: str):
    zoo = import_zoo("model_zoos_dataset", put(tmp_path / "zoo.pt", divided(mode)), tmp_path / "zoo")
    assert len(zoo) == 12
    assert zoo.verify() == []
    for row in zoo.manifest.to_pylist():
        run = int(row["source.path"][-5:])
        large = run % 3 == 2
        images = torch.rand(2, 3 if large else 1, *(32, 32) if large else (28, 28), dtype=torch.float64)
        state_dict = weights(CNN3 if large else CNN, 0.5 * (run % 2), 100 * run + row["step"])
        expected = forward(state_dict, ("tanh", "relu")[run % 2], images)
        found = zoo.module(row["net"], row["step"]).double()(images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_properties_become_columns_and_two_imports_give_the_same_bytes(tmp_path: Path):
    path = put(tmp_path / "zoo.pt", divided())
    zoo = import_zoo("model_zoos_dataset", path, tmp_path / "zoo", image_set="mnist")
    rows = {row["source.where"]: row for row in zoo.manifest.to_pylist()}
    row = rows["zoo.pt, valset 1"]
    assert (row["optimizer"], row["learning_rate"], row["dropout"], row["activation"]) == ("adam", 0.001, 0.5, "relu")
    assert (row["step"], row["epoch"], row["image_set"]) == (15, 15.0, "mnist")
    assert (row["test_accuracy"], row["train_accuracy"]) == (pytest.approx(0.15), pytest.approx(0.25))
    assert (row["source.part"], row["source.path"]) == ("valset", "/somebody/zoo/NN_tune_trainable_00003")
    assert row["source.model::nlin"] == "relu"
    assert rows["zoo.pt, valset 0"]["lineage"] == row["lineage"] != rows["zoo.pt, testset 0"]["lineage"]
    import_zoo("model_zoos_dataset", path, tmp_path / "again" / "zoo", image_set="mnist")
    assert tree(tmp_path / "zoo") == tree(tmp_path / "again" / "zoo")


def test_zoos_that_do_not_say_their_activation_need_it(tmp_path: Path):
    given = attributes([0])
    del given["properties"]["model::nlin"]
    path = put(tmp_path / "zoo.pt", {"trainset": given})
    with pytest.raises(ValueError, match="no model::nlin, the activation; expected activation=tanh"):
        import_zoo("model_zoos_dataset", path, tmp_path / "zoo")
    zoo = import_zoo("model_zoos_dataset", path, tmp_path / "zoo", activation="gelu")
    assert set(zoo.manifest["activation"].to_pylist()) == {"gelu"}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"idx_start": [0, 200, 1414, 1514, 2254]},
            "found a layer of 1206 numbers from 200 on, expected 1206 from 208",
        ),
        ({"idx_length": [208, 1206, 99, 740, 210]}, "do not tile the vector"),
        ({"kernel_no": [8, 6, 4]}, "expected the lists idx_start, idx_length"),
        ({"kernel_size": ["25"] * 5}, "of whole numbers, one for each layer"),
        (
            {"idx_start": [0, 208], "idx_length": [208, 2256], "kernel_no": [8, 6], "kernel_size": [25, 25]}
            | {"channels_in": [1, 15], "layer": []},
            "expected",
        ),
        ({}, None),
    ],
)
def test_an_index_that_divides_a_vector_otherwise_is_refused(tmp_path: Path, index: Any, message: str | None):
    path = put(tmp_path / "source" / "zoo.pt", {"trainset": attributes([0], "vector")})
    (path.parent / "index_dict.json").write_text(json.dumps({**INDEX, **index}))
    if message is None:
        assert len(import_zoo("model_zoos_dataset", path, tmp_path / "zoo")) == 2
        return
    with pytest.raises(ValueError, match=message):
        import_zoo("model_zoos_dataset", path, tmp_path / "zoo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": [5]}, "trainset: epochs: found 1 values, expected 2, one for each net"),
        ({"paths": None}, "paths: found a NoneType, expected 2"),
        ({"properties": {"test_acc": [0.5]}}, "test_acc: found 1 values"),
        ({"epochs": ["x", "x"]}, "found the epoch 'x', expected a whole number"),
        ({"task": "sequence_prediction"}, "found the task 'sequence_prediction', expected reconstruction"),
        ({"mode": "vector", "data_in": torch.ones(2, 2464), "use_bias": False}, "found a vector without biases"),
        ({"mode": "vector", "data_in": torch.ones(2, 2463)}, r"a vector of \(2463,\), expected the length of a known"),
        ({"data_in": [{"module_list.0.weight": torch.ones(8, 1, 5, 5)}] * 2}, "expected a CNN 8-6-4 or 16-32-15"),
        ({"data_in": [3, 4]}, "net 0: found a int, expected a state_dict or a vector"),
    ],
)
def test_what_is_not_whole_is_told(tmp_path: Path, changes: dict[str, Any], message: str):
    path = put(tmp_path / "zoo.pt", {"trainset": attributes([0], **changes), "valset": attributes([1], **changes)})
    with pytest.raises(ValueError, match=message):
        import_zoo("model_zoos_dataset", path, tmp_path / "zoo")


def test_objects_of_other_classes_are_refused_and_run_nothing(tmp_path: Path):
    markers, files = tmp_path / "markers", tmp_path / "files"
    markers.mkdir()
    files.mkdir()
    for name, data in hostile.corpus(markers).items():
        (files / f"{name}.pt").write_bytes(data)
    whole = put(tmp_path / "whole.pt", divided(counts={"trainset": 1})).read_bytes()
    (files / "renamed.pt").write_bytes(whole.replace(b"ModelDatasetBase", b"ModelDatasetEvil"))
    before = set(markers.iterdir())
    with pytest.raises(RefusedError, match="no net could be imported"):
        import_zoo("model_zoos_dataset", files, tmp_path / "zoo")
    assert set(markers.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "found a dict, expected datasets by the names of their parts"),
        ({"trainset": [1]}, "trainset: expected a ModelDatasetBase with data_in"),
    ],
)
def test_other_objects_are_told(tmp_path: Path, content: Any, message: str):
    (tmp_path / "zoo.pt").write_bytes(hostile.zipped(pickle.dumps(content, 2)))
    with pytest.raises(ValueError, match=message):
        import_zoo("model_zoos_dataset", tmp_path / "zoo.pt", tmp_path / "zoo")
