"""The Model Zoos: torch's own layout, with layers whose numbers depend on dropout and metadata that can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.importers.intake.writing import import_zoo
from tests.importers import foreign

NUMBERS = {0.0: (0, 3, 6, 9, 11), 0.5: (0, 4, 8, 11, 14)}  # of the layers with weights in their nn.Sequential
CNN = [(8, 1, 5, 5), (6, 8, 5, 5), (4, 6, 2, 2), (20, 36), (10, 20)]
CNN3 = [(16, 3, 3, 3), (32, 16, 3, 3), (15, 32, 3, 3), (20, 60), (10, 20)]
RUNS: list[tuple[str, list[tuple[int, ...]], float, str, str]] = [
    ("run_a", CNN, 0.0, "relu", "checkpoint_{}"),
    ("run_b", CNN, 0.5, "leakyrelu", "checkpoint_{:06d}"),
    ("deep/run_c", CNN3, 0.5, "tanh", "checkpoint_{:06d}"),
]
EPOCHS = (0, 1, 2, 4)  # 3 is missing


def weights(shapes: list[tuple[int, ...]], dropout: float, seed: int) -> dict[str, Tensor]:
    sizes = [(shape, shape[:1]) for shape in shapes]
    count = sum(torch.Size(size).numel() for layer in sizes for size in layer)
    numbers = torch.from_numpy(foreign.integers(count, seed)).float()
    found = {}
    for number, layer in zip(NUMBERS[dropout], sizes, strict=True):
        for part, size in zip(("weight", "bias"), layer, strict=True):
            values, numbers = numbers[: torch.Size(size).numel()], numbers[torch.Size(size).numel() :]
            found[f"module_list.{number}.{part}"] = values.view(size).clone()
    return found


def forward(state_dict: dict[str, Tensor], activation: str, x: Tensor) -> Tensor:
    act = {"relu": F.relu, "leakyrelu": F.leaky_relu, "tanh": torch.tanh}[activation]
    values = iter(tensor.double() for tensor in state_dict.values())
    for layer in range(3):
        x = F.conv2d(x, next(values), next(values))
        if layer < 2 or x.shape[1] == 15:
            x = F.max_pool2d(x, 2)
        x = act(x)
    x = act(F.linear(x.flatten(1), next(values), next(values)))
    return F.linear(x, next(values), next(values))


@pytest.fixture
def zoos(tmp_path: Path) -> Path:
    folder = tmp_path / "ray"
    for seed, (run, shapes, dropout, activation, pattern) in enumerate(RUNS):
        params: dict[str, Any] = {"model::type": "CNN", "model::nlin": activation, "model::dropout": dropout}
        params |= {"model::init_type": "kaiming_uniform", "optim::optimizer": "sgd", "optim::lr": 0.001, "seed": seed}
        params |= {"optim::wd": 0.0001, "optim::momentum": 0.9, "training::batchsize": 8, "model::o_dim": 4}
        params |= {"model::use_bias": False, "model::channels_in": shapes[0][1]}
        lines = []
        for epoch in EPOCHS:
            path = folder / run / pattern.format(epoch) / "checkpoints"
            path.parent.mkdir(parents=True)
            torch.save(weights(shapes, dropout, 10 * seed + epoch), path)
            if epoch or seed:
                measured = {"train_acc": 0.1 * epoch or -999, "test_acc": 0.05 * epoch, "test_loss": 2.5}
                measured |= {"train_loss": 2.0 if epoch else -999}
                lines.append(json.dumps({"training_iteration": epoch, **measured}))
        (folder / run / "params.json").write_text(json.dumps(params))
        (folder / run / "result.json").write_text("\n".join(lines) + ('\n{"training_iter' if seed else "\n"))
    return folder


def test_imported_nets_compute_what_their_torch_nets_compute(zoos: Path, tmp_path: Path):
    zoo = import_zoo("model_zoos", zoos, tmp_path / "zoo", image_set="mnist")
    assert len(zoo) == 12
    assert zoo.verify() == []
    for row in zoo.manifest.to_pylist():
        run = row["source.where"].split("/checkpoint_")[0]
        (seed,) = [number for number, one in enumerate(RUNS) if one[0] == run]
        _, shapes, dropout, activation, _ = RUNS[seed]
        side = 28 if shapes is CNN else 32
        images = torch.rand(2, shapes[0][1], side, side, dtype=torch.float64)
        expected = forward(weights(shapes, dropout, 10 * seed + row["step"]), activation, images)
        found = zoo.module(row["net"], row["step"]).double()(images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_metadata_become_columns_and_weights_win(zoos: Path, tmp_path: Path):
    zoo = import_zoo("model_zoos", zoos, tmp_path / "zoo", image_set="mnist")
    rows = {row["source.where"]: row for row in zoo.manifest.to_pylist()}
    row = rows["run_b/checkpoint_000004/checkpoints"]
    assert (row["optimizer"], row["learning_rate"], row["batch_size"]) == ("momentum", 0.001, 8)
    assert (row["activation"], row["initialisation"], row["dropout"]) == ("leaky_relu", "he_uniform", 0.5)
    assert (row["source.model::nlin"], row["source.optim::optimizer"]) == ("leakyrelu", "sgd")
    assert (row["step"], row["epoch"], row["snapshot_fraction"], row["image_set"]) == (4, 4.0, 1.0, "mnist")
    assert row["train_accuracy"] - row["test_accuracy"] == pytest.approx(0.2)
    assert row["source.disagreements"] == (
        "model::o_dim is 4, the weights have 10; model::use_bias is False, the weights have True"
    )
    assert zoo.archs[row["arch"]]["num_classes"] == 10
    assert rows["run_a/checkpoint_0/checkpoints"]["test_accuracy"] is None
    first = rows["run_b/checkpoint_000000/checkpoints"]
    assert (first["train_accuracy"], first["train_loss"], first["test_accuracy"]) == (None, None, 0.0)
    assert len({row["lineage"] for row in rows.values()}) == 3


def test_what_is_damaged_is_left_out_with_a_reason(zoos: Path, tmp_path: Path):
    (zoos / "run_a" / "checkpoint_1" / "checkpoints").write_bytes(b"PK\x03\x04damaged")
    torch.save({"module_list.0.weight": torch.ones(64, 3, 7, 7)}, zoos / "run_a" / "checkpoint_2" / "checkpoints")
    (zoos / "run_b" / "params.json").unlink()
    (zoos / "deep" / "run_c" / "result.json").write_text(
        '{"training_iteration": 1}\nnothing\n{"training_iteration": 2}\n'
    )
    zoo = import_zoo("model_zoos", zoos, tmp_path / "zoo")
    assert len(zoo) == 2
    report = json.loads((zoo.path / "left_out.json").read_text())
    told = {one["where"]: one["detail"] for one in report["left_out"]}
    assert report["count"] == len(told) == 10
    assert "damaged" in told["run_a/checkpoint_1/checkpoints"]
    assert "expected a CNN 8-6-4 or 16-32-15" in told["run_a/checkpoint_2/checkpoints"]
    assert "no such file" in told["run_b/checkpoint_000000/checkpoints"]
    assert "line 2: no readable JSON" in told["deep/run_c/checkpoint_000004/checkpoints"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("module_list.3.bias"),
            r"layer module_list.3: found \['weight'\], expected \['bias', 'weight'\]",
        ),
        (lambda s: s.update({"module_list.12.weight": torch.ones(3)}), "found 6 layers with weights .* expected 5"),
        (lambda s: s.update({"module_list.6.weight": torch.ones(4, 6, 3, 3)}), r"found \(4, 6, 3, 3\), expected"),
        (lambda s: s.update({"module_list.9.weight": torch.ones(20, 35)}), "expected those of images of"),
    ],
)
def test_layers_that_do_not_fit_are_told_by_name(zoos: Path, tmp_path: Path, change: Any, message: str):
    state_dict = weights(CNN, 0.0, 0)
    change(state_dict)
    torch.save(state_dict, zoos / "run_a" / "checkpoint_0" / "checkpoints")
    zoo = import_zoo("model_zoos", zoos, tmp_path / "zoo")
    (told,) = json.loads((zoo.path / "left_out.json").read_text())["left_out"]
    with pytest.raises(ValueError, match=message):
        raise ValueError(told["detail"])


@pytest.mark.parametrize("kept", ["", ".is_checkpoint", ".tune_metadata"])
def test_checkpoints_that_ray_counts_from_0_are_joined_with_their_own_iterations(tmp_path: Path, kept: str):
    """Ray since 2.7; older versions, which call them by the iteration, leave a hidden file beside."""
    run = tmp_path / "ray" / "run"
    for number in range(3):
        (run / f"checkpoint_{number:06d}").mkdir(parents=True)
        torch.save(weights(CNN, 0.0, number), run / f"checkpoint_{number:06d}" / "checkpoints")
    if kept:
        (run / "checkpoint_000000" / kept).touch()
    (run / "params.json").write_text(json.dumps({"model::nlin": "tanh"}))
    lines = [json.dumps({"training_iteration": epoch, "train_acc": epoch / 10}) for epoch in (1, 2, 3)]
    (run / "result.json").write_text("\n".join(lines) + "\n")
    zoo = import_zoo("model_zoos", tmp_path / "ray", tmp_path / "zoo")
    found = {row["source.where"][-13:-12]: row for row in zoo.manifest.to_pylist()}
    steps = [found[number]["step"] for number in "012"]
    measured = [found[number]["train_accuracy"] for number in "012"]
    assert steps == ([0, 1, 2] if kept else [1, 2, 3])
    assert measured == ([None, *map(pytest.approx, (0.1, 0.2))] if kept else [*map(pytest.approx, (0.1, 0.2, 0.3))])
