"""Files as Keras writes them, byte for byte in structure, with a distinct integer per weight; Keras is not needed."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from metanet.importers.intake.writing import import_zoo
from metanet.importers.keras_files.weights import place
from tests.importers import foreign

Config = dict[str, Any]
Named = Mapping[str, list[np.ndarray]]
LEAVES = {  # Keras' names of a layer's arrays, in its order
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "LayerNormalization": ("gamma", "beta"),
    "GroupNormalization": ("gamma", "beta"),
    "Embedding": ("embeddings",),
    **dict.fromkeys(("DepthwiseConv2D", "DepthwiseConv1D"), ("depthwise_kernel", "bias")),
    **dict.fromkeys(("SeparableConv2D", "SeparableConv1D"), ("depthwise_kernel", "pointwise_kernel", "bias")),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), ("cell/kernel", "cell/recurrent_kernel", "cell/bias")),
}


def described(kind: str, name: str, config: Config, **more: Any) -> Config:
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name, **config},
        "registered_name": None,
    } | more


def input_layer(shape: Sequence[int | None], dtype: str = "float32") -> Config:
    return described("InputLayer", "input_layer", {"batch_shape": [None, *shape], "dtype": dtype})


def sequential(layers: list[Config]) -> Config:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}


def tensor(name: str, use: int = 0) -> Config:
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [], "dtype": "float32", "keras_history": [name, use, 0]},
    }


def integers(shapes: Sequence[Sequence[int]], seed: int) -> list[np.ndarray]:
    """Distinct numbers; a variance, which is the fourth of four vectors, is positive."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    parts = np.split(foreign.integers(sum(sizes), seed), np.cumsum(sizes)[:-1])
    found = [part.reshape(shape).astype(np.float32) for part, shape in zip(parts, shapes, strict=True)]
    if len(found) == 4 and all(array.ndim == 1 for array in found):
        found[3] += 2
    return found


def weights(layers: list[Config], arrays: Named, optimizer: bool = True) -> bytes:
    """model.weights.h5: layers by kind and number, the layer's name as an attribute."""
    buffer = io.BytesIO()
    counts: dict[str, int] = {}
    with h5py.File(buffer, "w") as file:
        file.create_group("vars").attrs["name"] = "sequential"
        for one in layers:
            kind, name = place(one["class_name"]), one["config"]["name"]
            number = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{number}" if number else f"layers/{kind}")
            group.create_group("vars").attrs["name"] = name
            in_cell = any(leaf.startswith("cell/") for leaf in LEAVES.get(one["class_name"], ()))
            own = group.create_group("cell/vars") if in_cell else group["vars"]
            for index, array in enumerate(arrays.get(name, [])):
                own.create_dataset(str(index), data=array)  # type: ignore[union-attr]
            if kind == "dropout":
                group.create_dataset("seed_generator/vars/0", data=np.array([1, 2], np.uint32))
        if optimizer:
            file.create_dataset("optimizer/vars/0", data=np.array(7))
            file.create_dataset("optimizer/vars/1", data=np.ones(5, np.float32))
    return buffer.getvalue()


def archive(path: Path, config: Config, layers: list[Config], arrays: Named, **entries: bytes) -> Path:
    """A .keras file."""
    content = {
        "metadata.json": json.dumps({"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}).encode(),
        "config.json": json.dumps(config).encode(),
        "model.weights.h5": weights(layers, arrays),
        **entries,
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return path


def legacy(path: Path, config: Config, layers: list[Config], arrays: Named, version: str = "2.15.0") -> Path:
    """A whole model in HDF5."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = version, "tensorflow"
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["training_config"] = json.dumps({"optimizer_config": {"class_name": "Adam"}})
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [one["config"]["name"].encode() for one in layers]
        for one in layers:
            name = one["config"]["name"]
            group = root.create_group(name)
            leaves = LEAVES.get(one["class_name"], ("kernel", "bias"))
            names = [f"{name}/{leaf}:0" for leaf in leaves[: len(arrays.get(name, []))]]
            group.attrs["weight_names"] = [one.encode() for one in names]
            for leaf, array in zip(names, arrays.get(name, []), strict=True):
                group.create_dataset(leaf, data=array)
        moments = file.create_group("optimizer_weights/Adam")
        moments.create_dataset("iteration:0", data=np.array(3))
        moments.create_dataset("m:0", data=np.ones(4, np.float32))
    return path


Stored = Mapping[str, list[np.ndarray]]  # a group of the file -> its arrays


def keras3(path: Path, config: Config, arrays: Stored) -> Path:
    """A .keras file; a group is layers/functional/layers/dense."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for group, own in arrays.items():
            for number, array in enumerate(own):
                file.create_dataset(f"{group}/vars/{number}", data=array)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", buffer.getvalue())
    return path


def keras2(path: Path, config: Config, arrays: Stored) -> Path:
    """A whole model in HDF5; a group is the name of a layer of the outer model, and the path of its arrays."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = "2.15.0", json.dumps(config)
        root, names = file.create_group("model_weights"), dict[str, list[str]]()
        root.attrs["layer_names"] = sorted({group.partition("/")[0].encode() for group in arrays})
        for group, own in arrays.items():
            layer, _, inner = group.partition("/")
            for number, array in enumerate(own):
                names.setdefault(layer, []).append(f"{inner}/w{number}:0")
                root.create_dataset(f"{layer}/{inner}/w{number}:0", data=array)
        for layer, own in names.items():
            root[layer].attrs["weight_names"] = [name.encode() for name in own]
    return path


def functional(name: str, layers: list[Config], ends: tuple[Any, Any], **more: Any) -> Config:
    config = {"name": name, "layers": layers, "input_layers": ends[0], "output_layers": ends[1]}
    return {"module": "keras", "class_name": "Functional", "config": config, "name": name, **more}


def use(*reads: tuple[str, int], **named: Any) -> dict[str, Any]:
    return {"args": [tensor(name, number) for name, number in reads], "kwargs": named}


def start(name: str, *shape: int) -> Config:
    one = input_layer(shape)
    return one | {"config": one["config"] | {"name": name}, "name": name, "inbound_nodes": []}


def dense(name: str, units: int, *nodes: Any, **config: Any) -> Config:
    return described("Dense", name, {"units": units, **config}, inbound_nodes=list(nodes))


X = np.random.default_rng(0).normal(size=(2, 3)) / 4
INNER = integers([(3, 3), (3,)], 0)  # weights of a dense layer inside another


def computed(path: Path, folder: Path, x: np.ndarray) -> Any:
    """What the imported net makes of x."""
    zoo = import_zoo("keras", path, folder / "zoo")
    with torch.no_grad():
        found = zoo.module(0, 0).double()(torch.from_numpy(x))
    return [one.numpy() for one in found] if isinstance(found, tuple) else found.numpy()
