"""Keras: every kind of layer against NumPy, in both containers, and configurations as Keras 2 and 3 write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanet.importers.intake.writing import import_zoo
from metanet.zoo.store import Zoo
from tests.importers import keras_reference, keras_written
from tests.importers.keras_written import Config, archive, described, input_layer, integers, legacy, sequential
from tests.zoo.making import tree

Parts = list[tuple[str, dict[str, Any], list[tuple[int, ...]]]]  # kind, configuration, shapes of its arrays
NORM = [(4,)] * 4
EPS = {"epsilon": 1e-3}
SAME = {"padding": "same"}


def conv(kind: str, kernel: Any, shapes: list[tuple[int, ...]], **config: Any) -> tuple[str, dict[str, Any], Any]:
    return kind, {"kernel_size": kernel, "filters": shapes[-1][-1], **config}, shapes


def dense(inner: int, out: int, **config: Any) -> tuple[str, dict[str, Any], Any]:
    return "Dense", {"units": out, **config}, [(inner, out), (out,)]


def recurrent(kind: str, gates: int, **config: Any) -> tuple[str, dict[str, Any], Any]:
    bias = (2, 2 * gates) if kind == "GRU" else (2 * gates,)
    return kind, {"units": 2, "activation": "tanh", **config}, [(3, 2 * gates), (2, 2 * gates), bias]


NETS: dict[str, tuple[tuple[int, ...], Parts]] = {
    "mlp": (
        (6,),
        [dense(6, 4, activation="relu"), ("BatchNormalization", EPS, NORM), dense(4, 3, activation="softmax")],
    ),
    "activations": (
        (3,),
        [dense(3, 3, activation=name) for name in ("elu", "gelu", "swish", "leaky_relu", "hard_sigmoid", "softplus")]
        + [("LeakyReLU", {"negative_slope": 0.3}, []), ("ReLU", {"max_value": 6.0}, []), ("Softmax", {}, [])],
    ),
    "flattened": (
        (5, 4, 2),
        [
            conv("Conv2D", [3, 3], [(3, 3, 2, 4), (4,)], padding="same", activation="relu"),
            ("Flatten", {}, []),
            ("Activation", {"activation": "tanh"}, []),
            ("Dropout", {"rate": 0.5}, []),
            ("BatchNormalization", EPS, [(80,)] * 4),
            dense(80, 3),
        ],
    ),
    "same": (
        (9, 8, 2),
        [
            conv("Conv2D", [2, 3], [(2, 3, 2, 4), (4,)], strides=[2, 2], padding="same"),
            ("BatchNormalization", EPS, NORM),
            conv("Conv2D", [2, 2], [(2, 2, 2, 4), (4,)], padding="same", groups=2, activation="sigmoid"),
            ("MaxPooling2D", {"pool_size": [2, 2], **SAME}, []),
            conv("Conv2D", [3, 3], [(3, 3, 4, 3), (3,)], padding="same", dilation_rate=[2, 2]),
            ("MaxPooling2D", {"pool_size": [2, 2], "strides": [1, 1], **SAME}, []),
            ("GlobalAveragePooling2D", {}, []),
        ],
    ),
    "averages": (
        (10, 7, 2),
        [
            ("AveragePooling2D", {"pool_size": [3, 2], "strides": [2, 2], **SAME}, []),
            ("AveragePooling2D", {"pool_size": [2, 2], "strides": None}, []),
            ("Flatten", {}, []),
            dense(8, 2),
        ],
    ),
    "separable": (
        (7, 6, 3),
        [
            ("Rescaling", {"scale": 0.5, "offset": -1.0}, []),
            ("ZeroPadding2D", {"padding": [[1, 0], [0, 2]]}, []),
            (
                "SeparableConv2D",
                {"kernel_size": [3, 3], "filters": 4, "depth_multiplier": 2, "strides": [2, 2], **SAME},
                [(3, 3, 3, 2), (1, 1, 6, 4), (4,)],
            ),
            ("LayerNormalization", {"axis": [-1], **EPS}, [(4,), (4,)]),
            (
                "DepthwiseConv2D",
                {"kernel_size": [3, 3], "depth_multiplier": 2, "activation": "relu", "padding": "valid"},
                [(3, 3, 4, 2), (8,)],
            ),
            ("UpSampling2D", {"size": [2, 3]}, []),
            ("GlobalMaxPooling2D", {"keepdims": True}, []),
            ("Flatten", {}, []),
            dense(8, 2),
        ],
    ),
    "transposed": (
        (3, 4, 2),
        [
            conv("Conv2DTranspose", [3, 3], [(3, 3, 4, 2), (4,)], strides=[2, 2], padding="same"),
            ("GroupNormalization", {"groups": 2, **EPS}, [(4,), (4,)]),
            conv("Conv2DTranspose", [2, 4], [(2, 4, 3, 4), (3,)], strides=[3, 2], padding="valid"),
            conv("Conv2DTranspose", [4, 4], [(4, 4, 2, 3), (2,)], strides=[1, 2], padding="same", activation="tanh"),
            ("GlobalAveragePooling2D", {}, []),
        ],
    ),
    "sequence": (
        (8, 3),
        [
            conv("Conv1D", [3], [(3, 3, 4), (4,)], padding="causal", dilation_rate=[2]),
            ("AveragePooling1D", {"pool_size": [2]}, []),
            ("BatchNormalization", EPS, NORM),
            ("Reshape", {"target_shape": [2, 8]}, []),
            ("Permute", {"dims": [2, 1]}, []),
            dense(2, 3, activation="elu"),
            ("GlobalMaxPooling1D", {}, []),
        ],
    ),
    "volume": (
        (4, 5, 3, 2),
        [
            conv("Conv3D", [2, 2, 2], [(2, 2, 2, 2, 3), (3,)], padding="same"),
            ("MaxPooling3D", {"pool_size": [2, 2, 1]}, []),
            ("Flatten", {}, []),
            dense(36, 2),
        ],
    ),
    "words": (
        (5,),
        [
            ("Embedding", {"input_dim": 7, "output_dim": 3}, [(7, 3)]),
            recurrent("LSTM", 4, return_sequences=True),
            ("Dense", {"units": 3}, [(2, 3), (3,)]),
            recurrent("GRU", 3, return_sequences=True),
            ("Dense", {"units": 3}, [(2, 3), (3,)]),
            recurrent("SimpleRNN", 1),
        ],
    ),
}


def written(name: str) -> tuple[list[Config], dict[str, list[np.ndarray]], np.ndarray]:
    """The layers of a net, their arrays, and an input."""
    shape, parts = NETS[name]
    words = name == "words"
    layers, arrays = [input_layer(shape, "int32" if words else "float32")], {}
    for number, (kind, config, shapes) in enumerate(parts):
        layers.append(described(kind, f"layer{number}", config))
        arrays[f"layer{number}"] = integers(shapes, number) if shapes else []
    generator = np.random.default_rng(0)
    return layers, arrays, generator.integers(0, 7, (2, *shape)) if words else generator.normal(size=(2, *shape))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    for name in NETS:
        layers, arrays, _ = written(name)
        archive(folder / f"{name}.keras", sequential(layers), layers, arrays)
        legacy(folder / f"{name}.h5", sequential(layers), layers, arrays, version="3.1.0")
        (folder / f"{name}-own.weights.h5").write_bytes(keras_written.weights(layers, arrays, optimizer=False))
        (folder / f"{name}-own.json").write_text(json.dumps(sequential(layers)))
    return folder


@pytest.fixture
def zoo(source: Path, tmp_path: Path) -> Zoo:
    return import_zoo("keras", source, tmp_path / "zoo")


def computed(zoo: Zoo, where: str, x: np.ndarray) -> np.ndarray:
    (row,) = [row for row in zoo.manifest.to_pylist() if row["source.where"] == where]
    given = torch.from_numpy(np.moveaxis(x, -1, 1) if x.ndim > 3 or where.startswith("sequence") else x)
    with torch.no_grad():
        return zoo.module(row["net"], 0).double()(given).numpy()


def test_imported_nets_compute_what_keras_defines(zoo: Zoo, source: Path, tmp_path: Path):
    assert zoo.record["source"]["left_out"] == 0
    assert zoo.verify() == []
    assert len(zoo) == 3 * len(NETS)
    assert len(zoo.archs) == len(NETS), "three files of a net are of one architecture"
    for name in NETS:
        layers, arrays, x = written(name)
        expected = x
        for one in layers[1:]:
            own = [array.astype(float) for array in arrays[one["config"]["name"]]]
            expected = keras_reference.activated(one["class_name"], one["config"], own, expected)
        for where in (f"{name}.keras", f"{name}.h5", f"{name}-own.weights.h5"):
            found = computed(zoo, where, x)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=where)
    import_zoo("keras", source, tmp_path / "again" / "zoo")
    assert tree(zoo.path) == tree(tmp_path / "again" / "zoo")


def test_words_of_an_example_are_those_that_the_net_knows(zoo: Zoo):
    (arch,) = [row["arch"] for row in zoo.manifest.to_pylist() if row["source.where"] == "words.keras"]
    words = zoo.example_input(arch)
    assert (words.dtype, tuple(words.shape)) == (torch.int64, (2, 5))
    assert 0 <= int(words.min()) <= int(words.max()) < 7


def test_numbers_that_are_no_weights_are_counted(zoo: Zoo):
    told = {row["source.where"]: row["source.file"] for row in zoo.manifest.to_pylist()}
    assert json.loads(told["flattened.keras"]) == {
        "keras_version": "3.15.1",
        "optimizer_numbers_left_out": 6,
        "seeds_left_out": 2,
    }
    old = json.loads(told["mlp.h5"])
    assert (old["compile"], old["optimizer_numbers_left_out"]) == ({"optimizer_config": {"class_name": "Adam"}}, 5)
    assert json.loads(told["mlp-own.weights.h5"]) == {"external": ["mlp-own.json"]}
