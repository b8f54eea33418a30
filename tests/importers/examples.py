"""A tiny source of every format, for tests that hold of all of them. A format joins by an entry in EXAMPLES."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn

from metanet.exporters.huggingface import put_weights
from metanet.zoo import nets
from tests.importers import (
    foreign,
    keras_written,
    onnx_graphs,
    test_inr,
    test_model_zoos,
    test_model_zoos_dataset,
    test_nws,
    test_small_cnn,
    test_wild_park,
)


@dataclass(frozen=True)
class Example:
    """How to write a source of a few small nets, and what its format and containers promise."""

    put: Callable[[Path], object]  # fills an empty folder
    options: Mapping[str, Any] = field(default_factory=dict)
    checked: tuple[str, ...] = ()  # endings of files that have checksums: a changed byte never gives another weight


def line() -> nn.Module:
    """The module of format state_dicts' example."""
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def _small_cnn(folder: Path) -> None:
    shapes = [("conv2d", (3, 3, 1, 2)), ("dense", (2, 2))]
    count = sum(int(np.prod(shape)) + shape[-1] for _, shape in shapes)
    weights = np.stack([foreign.integers(count, seed) for seed in range(3)]).astype(np.float32)
    test_small_cnn.put(folder, weights, test_small_cnn.metrics()[:3], packed=False, shapes=shapes)


def _nws(folder: Path) -> None:
    """One run, with two of its snapshots."""
    row = test_nws.described(filter_size=1, depth_conv=3, width_conv=1, depth_fc=1, width_fc=1)
    (folder / "run" / "weights").mkdir(parents=True)
    np.tile([700.0, 50, 51, 52, 53], 20).tofile(folder / "run" / "error.bin")
    np.array([20.0, 1, 1, 1]).tofile(folder / "run" / "stat.bin")
    for snapshot in (1, 2):
        numbers = test_nws.written(test_nws.variables(row, snapshot))
        numbers.tofile(folder / "run" / "weights" / f"{snapshot:03d}.bin")
        row |= {"path": "run", "weightn_conv": 100, "weightn_fc": len(numbers) - 100}
    _table(folder / "all.csv", [row])


def _model_zoos(folder: Path) -> None:
    params = {"model::nlin": "relu", "model::dropout": 0.0, "optim::lr": 0.001}
    for epoch in (0, 1):
        path = folder / "run" / f"checkpoint_{epoch}" / "checkpoints"
        path.parent.mkdir(parents=True)
        torch.save(test_model_zoos.weights(test_model_zoos.CNN, 0.0, epoch), path)
    (folder / "run" / "params.json").write_text(json.dumps(params))
    (folder / "run" / "result.json").write_text('{"training_iteration": 1, "train_acc": 0.5}\n')


def _inr(folder: Path) -> None:
    for number in range(2):
        path = folder / f"mnist_png_training_{number}_7" / "model.pth"
        path.parent.mkdir(parents=True)
        torch.save(test_inr.weights(1, number), path)


def _state_dicts(folder: Path) -> None:
    folder.mkdir()
    state_dicts = [
        {f"1.{name}": tensor for name, tensor in test_inr.layer(4, 2, number).items()} for number in range(3)
    ]
    torch.save(state_dicts[0], folder / "a.pt")
    torch.save({"model": state_dicts[1], "epoch": 3}, folder / "b.bin", _use_new_zipfile_serialization=False)
    save_file(state_dicts[2], folder / "c.safetensors")
    _table(folder / "metadata.csv", [{"path": "a.pt", "optimizer": "adam", "learning_rate": 0.1, "step": 3}])


def _onnx(folder: Path) -> None:
    """Two files of one graph; the second has its weights in another file."""
    folder.mkdir()
    onnx.save(onnx_graphs.small(0), folder / "a.onnx")
    more = {"location": "b.bin", "size_threshold": 0, "convert_attribute": True}
    onnx.save(onnx_graphs.small(1), folder / "b.onnx", save_as_external_data=True, **more)


def _table_of_own(folder: Path) -> None:
    """Stacked tensors, and a table in parquet."""
    folder.mkdir()
    arch = {"family": "mlp", "depth": 1, "width": 1, "batch_norm": True, "image_shape": [1, 1, 2], "num_classes": 2}
    (folder / "archs.json").write_text(json.dumps({"small": arch}))
    members = [nets.build(arch).state_dict() for _ in range(2)]
    for number, member in enumerate(members):
        for tensor in member.values():
            tensor.fill_(number + 1)
    save_file({name: torch.stack([m[name] for m in members]) for name in members[0]}, folder / "all.safetensors")
    rows = [{"path": "all.safetensors", "row": n, "arch": "small", "activation": "tanh", "lr": 0.1} for n in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "nets.parquet", compression="none")


def _keras(folder: Path) -> None:
    """A file of each container."""
    layers = [keras_written.described("Dense", "d", {"units": 2, "batch_input_shape": [None, 3]})]
    config, arrays = keras_written.sequential(layers), {"d": keras_written.integers([(3, 2), (2,)], 0)}
    folder.mkdir()
    keras_written.archive(folder / "a.keras", config, layers, arrays)
    keras_written.legacy(folder / "b.h5", config, layers, arrays)


def _model_zoos_dataset(folder: Path) -> None:
    """One run, in one part."""
    test_model_zoos_dataset.put(folder / "zoo.pt", test_model_zoos_dataset.divided(counts={"trainset": 1}))


def _wild_park(folder: Path) -> None:
    net: dict[str, list[Any]] = {"channels": [3, 2], "kernel_size": [1], "residual": [-1], "activation": ["none"]}
    test_wild_park.put(folder, {"run": net})


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _huggingface(folder: Path) -> None:
    """Folders as we export them: in shards, and as plain tensors. For nets of transformers see test_huggingface.py."""
    arch = {"family": "mlp", "depth": 1, "width": 2, "batch_norm": False, "image_shape": [1, 2, 2], "num_classes": 2}
    for number, kind in enumerate(("sharded", "pickled")):
        own = folder / kind
        own.mkdir(parents=True)
        tensors = nets.build(arch).state_dict()
        tensors |= {name: tensor + number for name, tensor in tensors.items()}
        said = {"arch": arch, "labels": {"activation": "relu", "step": number, "learning_rate": 0.1}}
        (own / "config.json").write_text(json.dumps({"model_type": "metanet", "metanet": said}))
        if kind == "pickled":
            torch.save(dict(tensors), own / "pytorch_model.bin")
        else:
            put_weights(own, tensors, 40)


EXAMPLES = {
    "huggingface": Example(_huggingface, checked=(".bin",)),
    "inr": Example(_inr, checked=(".pth",)),
    "keras": Example(_keras, checked=(".keras",)),
    "model_zoos": Example(_model_zoos, checked=("checkpoints",)),
    "model_zoos_dataset": Example(_model_zoos_dataset, checked=(".pt",)),
    "nws": Example(_nws),
    "onnx": Example(_onnx),
    "small_cnn": Example(_small_cnn),
    "state_dicts": Example(
        _state_dicts, {"module": "tests.importers.examples:line", "input": [1, 1, 2, 2]}, checked=(".pt",)
    ),
    "table": Example(_table_of_own),
    "wild_park": Example(_wild_park, checked=(".pt",)),
}
