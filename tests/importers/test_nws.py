"""The NWS release, written as its authors' code writes it, and computed in NumPy as their TensorFlow net does."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metanet.importers import nws
from metanet.importers.intake.writing import import_zoo
from tests.importers import foreign

EPOCHS = 23


def variables(row: dict, seed: int) -> list[list[np.ndarray]]:
    """TensorFlow's variables, layer by layer in their order: W, b, and beta, gamma, mean, variance but for the last."""
    shapes, channels = [], 3
    for block in range(3):
        for _ in range((row["depth_conv"] + block) // 3):
            out = row["width_conv"] * 2**block
            shapes.append((row["filter_size"], row["filter_size"], channels, out))
            channels = out
    features = channels * 16
    for layer in range(row["depth_fc"]):
        shapes.append((features, row["width_fc"] >> layer))
        features = row["width_fc"] >> layer
    shapes.append((features, 20))
    sizes = [[shape, *[shape[-1:]] * (1 if shape is shapes[-1] else 5)] for shape in shapes]
    numbers = foreign.integers(sum(int(np.prod(size)) for layer in sizes for size in layer), seed)
    layers, start = [], 0
    for layer in sizes:
        layers.append([])
        for part, size in enumerate(layer):
            values = numbers[start : start + int(np.prod(size))].reshape(size)
            layers[-1].append(values + 2 if part == 5 else values)  # a variance is positive
            start += values.size
    return layers


def written(layers: list[list[np.ndarray]]) -> np.ndarray:
    """The numbers of a .bin file: for every out and in channel the kernel's plane, for every unit its weights."""
    parts = []
    for variable in (variable for layer in layers for variable in layer):
        if variable.ndim == 4:
            parts += [variable[:, :, j, i].ravel() for i in range(variable.shape[3]) for j in range(variable.shape[2])]
        elif variable.ndim == 2:
            parts += [variable[:, i] for i in range(variable.shape[1])]
        else:
            parts.append(variable)
    return np.concatenate(parts).astype("<f8")


def forward(layers: list[list[np.ndarray]], row: dict, images: np.ndarray) -> np.ndarray:
    activation, layer, x = foreign.ACTIVATIONS[nws.ACTIVATIONS[row["activation"]]], iter(layers), images
    for block in range(3):
        for _ in range((row["depth_conv"] + block) // 3):
            kernel, bias, *statistics = next(layer)
            x = activation(foreign.norm(foreign.conv_nhwc(x, kernel, bias, 1, same=True), *statistics))
        x = foreign.max_pool_nhwc(x)
    x = x.reshape(len(x), -1)
    for _ in range(row["depth_fc"]):
        weight, bias, *statistics = next(layer)
        x = foreign.norm(activation(x @ weight + bias), *statistics)
    weight, bias = next(layer)
    return x @ weight + bias


def described(**changes: object) -> dict:
    row = {"dataset": "fashion", "lrate": 0.00123, "batch_size": 64, "batch_norm": True, "augmentation": False}
    row |= {"optimizer": 2, "activation": 3, "initialization": 1, "filter_size": 3, "depth_conv": 4, "depth_fc": 2}
    return {**row, "width_conv": 4, "width_fc": 64, **changes}


ROWS = [described(), described(activation=0, depth_conv=3, filter_size=5, dataset="mnist"), described(optimizer=0)]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "nws"
    lines = []
    for number, row in enumerate(ROWS):
        run = folder / "nws_main" / f"{number:04d}"
        (run / "weights").mkdir(parents=True)
        errors = np.zeros((EPOCHS, 5))
        errors[:, 0] = 700 * np.arange(EPOCHS)
        errors[:, 1:4] = 90 - np.arange(EPOCHS)[:, None] - np.array([0.0, 1.0, 2.0])
        errors.tofile(run / "error.bin")
        np.array([EPOCHS, 700 * EPOCHS, EPOCHS, 60.0]).tofile(run / "stat.bin")
        for snapshot in range(1, 21):
            written(variables(row, 100 * number + snapshot)).tofile(run / "weights" / f"{snapshot:03d}.bin")
        layers = variables(row, 0)
        sizes = [
            sum(part.size for layer in layers for part in layer if (layer[0].ndim == 4) == conv) for conv in (1, 0)
        ]
        lines.append({**row, "path": f"nws_main/{number:04d}", "weightn_conv": sizes[0], "weightn_fc": sizes[1]})
    for name, part in (("nws_main_train.csv", lines[:2]), ("nws_main_test.csv", lines[2:])):
        with open(folder / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(part)
    return folder


def test_imported_nets_compute_what_the_release_computes(release: Path, tmp_path: Path):
    zoo = import_zoo("nws", release, tmp_path / "zoo")
    assert len(zoo) == 60
    assert zoo.verify() == []
    images = np.random.default_rng(0).random((2, 32, 32, 3))
    for row in zoo.manifest.to_pylist():
        number = int(row["source.where"].split("/")[1])
        if row["step"] not in (1, 20):
            continue
        expected = forward(variables(ROWS[number], 100 * number + row["step"]), ROWS[number], images)
        net = zoo.module(row["net"], row["step"]).double()
        with torch.no_grad():
            found = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_every_number_of_a_file_lands_once(release: Path, tmp_path: Path):
    zoo = import_zoo("nws", release, tmp_path / "zoo")
    state_dict = zoo.state_dict(0, 7)
    (number,) = {row["source.where"] for row in zoo.manifest.to_pylist() if (row["net"], row["step"]) == (0, 7)}
    landed = torch.cat([tensor.flatten() for tensor in state_dict.values() if tensor.is_floating_point()])
    assert np.array_equal(np.sort(landed.numpy()), np.sort(np.fromfile(release / number, "<f8")))


def test_metadata_become_columns(release: Path, tmp_path: Path):
    zoo = import_zoo("nws", release, tmp_path / "zoo")
    rows = {(row["source.path"], row["step"]): row for row in zoo.manifest.to_pylist()}
    row = rows["nws_main/0000", 20]
    assert (row["optimizer"], row["activation"], row["initialisation"]) == ("momentum", "tanh", "normal")
    assert (row["learning_rate"], row["batch_size"], row["augmentation"]) == (0.00123, 64, False)
    assert (row["image_set"], row["source.dataset"], row["source.split"]) == (
        "fashion_mnist",
        "fashion",
        "nws_main_train",
    )
    assert (row["epoch"], row["snapshot_fraction"], row["source.step"]) == (22, 1.0, "15400")
    assert row["test_accuracy"] == pytest.approx(1 - (90 - 22 - 2) / 100)
    middle = rows["nws_main/0000", 2]  # round(linspace(0, 22, 20))[1]
    assert (middle["epoch"], middle["train_accuracy"]) == (1, pytest.approx(1 - 89 / 100))
    assert zoo.record["source"]["format"] == "nws"
    assert len({row["lineage"] for row in rows.values()}) == 3


def test_a_second_import_is_byte_identical(release: Path, tmp_path: Path):
    for name in ("a", "b"):
        import_zoo("nws", release, tmp_path / name / "zoo")
    files = [sorted(p for p in (tmp_path / n).rglob("*") if p.is_file() and p.name != ".lock") for n in ("a", "b")]
    assert [p.relative_to(tmp_path / "a") for p in files[0]] == [p.relative_to(tmp_path / "b") for p in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_damaged_snapshots_are_left_out_with_a_reason(release: Path, tmp_path: Path):
    weights = release / "nws_main" / "0000" / "weights"
    (weights / "003.bin").write_bytes((weights / "003.bin").read_bytes()[:-8])
    (weights / "004.bin").write_bytes((weights / "004.bin").read_bytes()[:-3])
    numbers = np.fromfile(weights / "005.bin")
    numbers[17] = np.nan
    numbers.tofile(weights / "005.bin")
    (weights / "006.bin").unlink()
    (release / "nws_main" / "0002" / "error.bin").write_bytes(b"")
    zoo = import_zoo("nws", release, tmp_path / "zoo")
    report = json.loads((zoo.path / "left_out.json").read_text())
    assert len(zoo) == 60 - 4 - 20
    assert report["reasons"] == {"not readable": 23, "weights that are not finite": 1}
    told = {one["where"]: one["detail"] for one in report["left_out"]}
    assert "found 23,643 numbers, expected 23,644" in told["nws_main/0000/weights/003.bin"]
    assert "multiple of 8: truncated" in told["nws_main/0000/weights/004.bin"]
    assert "no such file" in told["nws_main/0000/weights/006.bin"]
    assert "expected 5 for each of 23 epochs" in told["nws_main/0002/weights/001.bin"]


def test_a_csv_that_leads_outside_is_refused(release: Path, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    table = release / "nws_main_train.csv"
    table.write_text(table.read_text().replace("nws_main/0000", "../outside").replace("nws_main/0001", "/etc"))
    zoo = import_zoo("nws", release, tmp_path / "zoo")
    report = json.loads((zoo.path / "left_out.json").read_text())
    assert report["reasons"] == {"not safe to read": 40}
    details = " ".join(one["detail"] for one in report["left_out"])
    assert "a path upwards" in details
    assert "an absolute path" in details


def test_a_name_in_place_of_a_number_is_told(tmp_path: Path):
    row = described() | {"path": "run", "weightn_conv": "1", "weightn_fc": "1"}
    told = r"run: optimizer: found 'adam', expected 0 \(adam\), 1 \(rmsprop\), 2 \(momentum\)"
    with pytest.raises(ValueError, match=told):
        nws._one_of(nws.OPTIMIZERS, row | {"optimizer": "adam"}, "optimizer")
