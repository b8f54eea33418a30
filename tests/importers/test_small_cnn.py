"""Unterthiner's zoos: Keras variables in one array, the bias of a layer before its kernel."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanet.importers.intake.writing import import_zoo
from metanet.zoo import layout
from tests.importers import foreign

SHAPES: list[tuple[str, tuple[int, ...]]] = [
    ("conv2d", (3, 3, 1, 16)),
    ("conv2d_1", (3, 3, 16, 16)),
    ("conv2d_2", (3, 3, 16, 16)),
    ("dense", (16, 10)),
]
EPOCHS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
RUNS = [("relu", "adam", "GlorotNormal"), ("tanh", "sgd", "he_normal"), ("relu", "rmsprop", "Orthogonal")]


def layers(row: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of every layer in a row of weights.npy."""
    found, start = [], 0
    for _, shape in SHAPES:
        bias = row[start : start + shape[-1]]
        start += shape[-1]
        found.append((row[start : start + int(np.prod(shape))].reshape(shape), bias))
        start += int(np.prod(shape))
    return found


def forward(row: np.ndarray, activation: str, images: np.ndarray) -> np.ndarray:
    *convolutions, (weight, bias) = layers(row)
    x = images
    for kernel, shift in convolutions:
        x = foreign.ACTIVATIONS[activation](foreign.conv_nhwc(x, kernel, shift, 2, same=False))
    return x.mean((1, 2)) @ weight + bias


def metrics(**changes: Any) -> list[dict[str, Any]]:
    rows = []
    for run, (activation, optimizer, initialiser) in enumerate(RUNS):
        config = {"config.activation": activation, "config.optimizer": optimizer, "config.w_init": initialiser}
        config |= {"config.learning_rate": 0.01 * (run + 1), "config.dropout": 0.1, "config.l2reg": 1e-5}
        config |= {"config.init_std": 0.1, "config.train_fraction": 0.5, "config.dataset": "mnist"}
        for epoch in EPOCHS:
            accuracies = {"train_accuracy": epoch / 100, "test_accuracy": epoch / 200}
            losses = {"train_loss": 2.0, "test_loss": 2.1}
            rows.append({**config, "modeldir": f"/dir/run{run}", "step": epoch, **accuracies, **losses, **changes})
    return rows


def put(
    folder: Path,
    weights: np.ndarray,
    rows: list[dict[str, Any]],
    packed: bool = True,
    shapes: list[tuple[str, tuple[int, ...]]] = SHAPES,
) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "weights.npy", weights)
    lines, start = ["varname,start_idx,end_idx,size,shape"], 0
    for name, shape in shapes:
        for variable, sizes in (("bias", shape[-1:]), ("kernel", shape)):
            end = start + int(np.prod(sizes))
            lines.append(f'sequential/{name}/{variable}:0,{start},{end},{end - start},"{sizes}"')
            start = end
    (folder / "layout.csv").write_text("\n".join(lines) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    if packed:
        (folder / "metrics.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    else:
        (folder / "metrics.csv").write_text(text.getvalue())
    return folder


@pytest.fixture
def weights() -> np.ndarray:
    return np.stack([foreign.integers(4970, seed) for seed in range(27)]).astype(np.float32)


def test_imported_nets_compute_what_keras_computes(weights: np.ndarray, tmp_path: Path):
    zoo = import_zoo("small_cnn", put(tmp_path / "mnist", weights, metrics()), tmp_path / "zoo")
    assert len(zoo) == 27
    assert zoo.verify() == []
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1))
    for row in zoo.manifest.to_pylist()[::4]:
        place = int(row["source.where"].split()[-1])
        expected = forward(weights[place].astype(float), row["activation"], images)
        with torch.no_grad():
            net = zoo.module(row["net"], row["step"]).double()
            found = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_metadata_become_columns(weights: np.ndarray, tmp_path: Path):
    zoo = import_zoo("small_cnn", put(tmp_path / "mnist", weights, metrics(), packed=False), tmp_path / "zoo")
    assert zoo.steps(1) == list(EPOCHS)
    row = zoo.manifest.to_pylist()[zoo.row(1, 86)]
    assert (row["activation"], row["optimizer"], row["initialisation"]) == ("tanh", "sgd", "he_normal")
    assert (row["learning_rate"], row["dropout"], row["train_fraction"]) == (0.02, 0.1, 0.5)
    assert (row["source.modeldir"], row["source.config.w_init"]) == ("/dir/run1", "he_normal")
    assert (row["epoch"], row["snapshot_fraction"], row["image_set"]) == (86, 1.0, "mnist")
    assert row["test_accuracy"] == pytest.approx(0.43)


def test_nets_that_are_not_finite_are_left_out_and_counted(weights: np.ndarray, tmp_path: Path):
    weights[3, 100], weights[5, 0] = np.nan, np.inf
    zoo = import_zoo("small_cnn", put(tmp_path / "mnist", weights, metrics(train_loss="nan")), tmp_path / "zoo")
    report = json.loads((zoo.path / "left_out.json").read_text())
    assert (len(zoo), report["count"], report["reasons"]) == (25, 2, {"weights that are not finite": 2})
    assert report["left_out"][0]["detail"] == "weights.npy, row 3: conv1.weight is not finite"
    assert zoo.manifest["train_loss"].null_count == 25


def test_nets_that_are_not_finite_are_kept_or_refused_by_choice(weights: np.ndarray, tmp_path: Path):
    weights[3, 100] = np.nan
    folder = put(tmp_path / "mnist", weights, metrics())
    with pytest.raises(
        ValueError, match=r"row 3: conv1\.weight is not finite\. With non_finite=leave_out such nets are"
    ):
        import_zoo("small_cnn", folder, tmp_path / "zoo", non_finite="refuse")
    with pytest.raises(ValueError, match="workers=0: expected at least 1"):
        import_zoo("small_cnn", folder, tmp_path / "zoo", workers=0)
    with pytest.raises(ValueError, match="non_finite=drop: expected one of leave_out, refuse, keep"):
        import_zoo("small_cnn", folder, tmp_path / "zoo", non_finite="drop")
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
    zoo = import_zoo("small_cnn", folder, tmp_path / "zoo", non_finite="keep")
    assert len(zoo) == 27
    assert [row["source.where"] for row in zoo.manifest.to_pylist() if row["status"] == "diverged"] == [
        "weights.npy, row 3"
    ]
    assert zoo.record["source"]["options"] == {"non_finite": "keep"}
    assert zoo.verify() == []  # it was kept on purpose
    record = {name: value for name, value in zoo.record.items() if name != "sha256"}
    (zoo.path / layout.RECORD).write_bytes(layout.pack({**record, "source": {**record["source"], "options": {}}}))
    (problem,) = zoo.verify()
    assert "conv1.weight of net 0 (status diverged) is not finite. Leave the net out." in problem


def test_the_image_set_is_asked_for_where_the_files_do_not_say_it(weights: np.ndarray, tmp_path: Path):
    folder = put(tmp_path / "x", weights, metrics(**{"config.dataset": ""}))
    with pytest.raises(ValueError, match=r"found the image set '', expected image_set= one of mnist, fashion_mnist"):
        import_zoo("small_cnn", folder, tmp_path / "zoo")
    zoo = import_zoo("small_cnn", folder, tmp_path / "zoo", image_set="cifar10")
    assert zoo.archs.keys() == {"small_cnn-3x16-1x32x32-10"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"(3, 3, 1, 16)"', '"(3, 3, 2, 16)"', "expected 288 columns from 16 on"),
        ('"(3, 3, 1, 16)"', "\"__import__('os').system(1)\"", r"found the shape .*, expected \(3, 3\)"),
        (",160,", ",150,", "found columns 16 to 150 .*, expected 144 columns from 16 on"),
        ("176,2480", "170,2480", "expected 2304 columns from 176 on"),
        ("sequential/dense/", "sequential/conv2d/", r"expected convolutions and then a dense layer"),
    ],
)
def test_a_layout_that_does_not_tile_the_row_is_refused(
    weights: np.ndarray, tmp_path: Path, old: str, new: str, message: str
):
    folder = put(tmp_path / "mnist", weights, metrics())
    text = (folder / "layout.csv").read_text()
    assert old in text
    (folder / "layout.csv").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        import_zoo("small_cnn", folder, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_another_number_of_rows_is_refused(weights: np.ndarray, tmp_path: Path):
    with pytest.raises(ValueError, match=r"found 26 rows in metrics.csv.gz, expected 27, one per net"):
        import_zoo("small_cnn", put(tmp_path / "mnist", weights, metrics()[:-1]), tmp_path / "zoo")


def test_truncated_arrays_are_refused(weights: np.ndarray, tmp_path: Path):
    folder = put(tmp_path / "mnist", weights, metrics())
    whole = (folder / "weights.npy").read_bytes()
    for length in (0, 5, 60, 128, 1000, len(whole) - 1):
        (folder / "weights.npy").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"no \.npy file of numbers|its header claims"):
            import_zoo("small_cnn", folder, tmp_path / "zoo")
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
