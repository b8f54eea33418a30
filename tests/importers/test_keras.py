"""Keras: every kind of layer against NumPy, in both containers, and configurations as Keras 2 and 3 write them."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from metanet.commandline import RefusedError
from metanet.importers.intake.writing import import_zoo
from metanet.zoo.store import Zoo
from tests.importers import keras_reference, keras_written
from tests.importers.keras_written import Config, archive, described, input_layer, integers, legacy, sequential, tensor
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


LAYERS = [
    input_layer((4, 4, 3)),
    described("Conv2D", "a", {"kernel_size": [3, 3], "filters": 2, "padding": "same"}),
    described("Conv2D", "b", {"kernel_size": [1, 1], "filters": 2, "use_bias": False}),
    described("Add", "sum", {}),
    described("Multiply", "product", {}),
    described("Concatenate", "both", {"axis": -1}),
    described("GlobalAveragePooling2D", "pool", {}),
    described("Multiply", "gated", {}),
    described("Dense", "head", {"units": 2}),
    described("GlobalAveragePooling2D", "last", {}),
]
READS = {"a": ["input_layer"], "b": ["input_layer"], "sum": ["a", "b"], "product": ["sum", "a"]}
READS |= {"both": ["product", "b"], "pool": ["both"], "gated": ["both", "pool"], "head": ["gated"], "last": ["head"]}
ARRAYS = {
    "a": integers([(3, 3, 3, 2), (2,)], 1),
    "b": integers([(1, 1, 3, 2)], 2),
    "head": integers([(4, 2), (2,)], 3),
}


def functional(old: bool) -> Config:
    layers = []
    for one in LAYERS:
        reads = READS.get(one["config"]["name"], [])
        if old:
            nodes: list[Any] = [[[name, 0, 0, {}] for name in reads]] if reads else []
            layers.append({"class_name": one["class_name"], "config": one["config"], "inbound_nodes": nodes})
        else:
            args = [[tensor(name) for name in reads]] if len(reads) > 1 else [tensor(name) for name in reads]
            layers.append(one | {"inbound_nodes": [{"args": args, "kwargs": {"mask": None}}] if reads else []})
    layers.reverse()  # their order says nothing
    ends = {"input_layers": [["input_layer", 0, 0]], "output_layers": [["last", 0, 0]] if old else ["last", 0, 0]}
    return {"class_name": "Functional", "config": {"name": "model", "layers": layers, **ends}}


@pytest.mark.parametrize("old", [False, True])
def test_functional_models_of_both_generations_are_read(tmp_path: Path, old: bool):
    config = functional(old)
    (tmp_path / "source").mkdir()
    if old:
        legacy(tmp_path / "source" / "net.h5", config, LAYERS, ARRAYS)
    else:
        archive(tmp_path / "source" / "net.keras", config, LAYERS, ARRAYS)
    zoo = import_zoo("keras", tmp_path / "source", tmp_path / "zoo")
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    values = {"input_layer": x}
    for one in LAYERS[1:]:
        name = one["config"]["name"]
        inputs = [values[read] for read in READS[name]]
        if name == "gated":
            inputs[1] = inputs[1][:, None, None]
        arrays = [array.astype(float) for array in ARRAYS.get(name, [])]
        values[name] = keras_reference.activated(one["class_name"], one["config"], arrays, *inputs)
    found = computed(zoo, "net.h5" if old else "net.keras", x)
    np.testing.assert_allclose(found, values["last"], rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_used_twice_has_its_weights_once(tmp_path: Path):
    layers = [input_layer((3,)), described("Dense", "twice", {"units": 3, "activation": "tanh"})]
    uses = [{"args": [tensor("input_layer")], "kwargs": {}}, {"args": [tensor("twice")], "kwargs": {}}]
    ends = {"input_layers": [["input_layer", 0, 0]], "output_layers": [["twice", 1, 0]]}
    described_ = [layers[0] | {"inbound_nodes": []}, layers[1] | {"inbound_nodes": uses}]
    config = {"class_name": "Functional", "config": {"layers": described_, **ends}}
    kernel, bias = arrays = integers([(3, 3), (3,)], 0)
    archive(tmp_path / "net.keras", config, layers, {"twice": arrays})
    zoo = import_zoo("keras", tmp_path / "net.keras", tmp_path / "zoo")
    x = np.random.default_rng(0).normal(size=(2, 3))
    expected = np.tanh(np.tanh(x @ kernel + bias) @ kernel + bias)
    np.testing.assert_allclose(computed(zoo, "net.keras", x), expected, rtol=1e-5)
    assert sum(tensor.numel() for tensor in zoo.state_dict(0, 0).values()) == 12


def test_a_first_layer_without_an_input_and_hard_sigmoid_are_those_of_keras_2(tmp_path: Path):
    first = {"name": "d", "units": 3, "batch_input_shape": [None, 2], "activation": "hard_sigmoid"}
    layers = [{"class_name": "Dense", "config": first}]
    kernel, bias = arrays = integers([(2, 3), (3,)], 0)
    legacy(tmp_path / "net.h5", {"class_name": "Sequential", "config": {"layers": layers}}, layers, {"d": arrays})
    zoo = import_zoo("keras", tmp_path / "net.h5", tmp_path / "zoo")
    x = np.random.default_rng(0).normal(size=(2, 2)) * 3
    np.testing.assert_allclose(computed(zoo, "net.h5", x), np.clip(0.2 * (x @ kernel + bias) + 0.5, 0, 1), rtol=1e-5)


def one_dense(**changes: Any) -> Config:
    return sequential([input_layer((3,)), described("Dense", "d", {"units": 2}) | changes])


DENSE = [described("Dense", "d", {"units": 2})]
KERNEL = {"d": integers([(3, 2), (2,)], 0)}


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        (one_dense(class_name="Lambda", config={"name": "d"}), RefusedError, "layer 'd' is a Lambda"),
        (one_dense(module="mine"), RefusedError, r"of the class mine.Dense \(None\), not one of Keras"),
        (one_dense(module="keras_evil.layers"), RefusedError, "of the class keras_evil.layers.Dense"),
        (one_dense(registered_name="mine>Dense"), RefusedError, r"keras.layers.Dense \(mine>Dense\)"),
        (one_dense(class_name="Mine", module=None), RefusedError, "the kind Mine is not supported"),
        (
            one_dense(config={"name": "d", "units": 2, "activation": "mine"}),
            RefusedError,
            "the activation mine is none",
        ),
        (
            one_dense(config={"name": "d", "units": 2, "activation": {"module": "os", "config": "system"}}),
            RefusedError,
            "is none of Keras' own",
        ),
        ({"class_name": "Mine", "config": {}}, RefusedError, "a model of the class 'Mine'"),
        (one_dense(class_name="MultiHeadAttention"), ValueError, "the kind MultiHeadAttention is not supported"),
        (one_dense(class_name="Sequential"), ValueError, "a model inside the model"),
        (one_dense(config={"name": "d", "units": 3}), ValueError, r"found arrays of the shapes \[\(3, 2\)"),
        (one_dense(config={"name": "e", "units": 2}), ValueError, "found weights of d"),
        (one_dense(class_name="Flatten"), ValueError, "its layers have 8 numbers, and the net reads 0 of them"),
        (one_dense(config={"name": "d", "units": 10**12}), ValueError, "found arrays of the shapes"),
        (sequential([input_layer((3, None)), *DENSE]), ValueError, r"found the input shape \[None, 3, None\]"),
        (sequential([]), ValueError, "found no layers"),
        ([], ValueError, "found no configuration of a model"),
    ],
)
def test_code_is_refused_and_what_is_not_supported_is_told(tmp_path: Path, config: Any, kind: type, message: str):
    archive(tmp_path / "net.keras", config, DENSE, KERNEL)
    with pytest.raises(kind, match=message) as caught:
        import_zoo("keras", tmp_path / "net.keras", tmp_path / "zoo")
    assert isinstance(caught.value, RefusedError) == (kind is RefusedError)


def test_weights_alone_say_what_to_do(tmp_path: Path):
    (tmp_path / "net.weights.h5").write_bytes(keras_written.weights(DENSE, KERNEL))
    with pytest.raises(ValueError, match=r"Put what model.to_json\(\) gives into net.json beside it"):
        import_zoo("keras", tmp_path, tmp_path / "zoo")
    (tmp_path / "secret.json").write_text(json.dumps(one_dense()))
    (tmp_path / "net.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ValueError, match="holds weights alone"):
        import_zoo("keras", tmp_path, tmp_path / "zoo")


def test_a_table_says_how_nets_were_trained(tmp_path: Path):
    archive(tmp_path / "net.keras", one_dense(), DENSE, KERNEL)
    (tmp_path / "metadata.csv").write_text("path,optimizer,learning_rate,step\nnet.keras,adam,0.1,5\n")
    (row,) = import_zoo("keras", tmp_path, tmp_path / "zoo").manifest.to_pylist()
    assert (row["optimizer"], row["learning_rate"], row["step"], row["activation"]) == ("adam", 0.1, 5, "own")


def test_arrays_in_wrong_places_are_told(tmp_path: Path):
    archive(tmp_path / "net.keras", one_dense(), DENSE, {"d": KERNEL["d"][:1]})
    with pytest.raises(
        ValueError, match=r"layer 'd' \(Dense\): found arrays of the shapes \[\(3, 2\)\], expected kernel"
    ):
        import_zoo("keras", tmp_path, tmp_path / "zoo")
    legacy(tmp_path / "net.keras", one_dense(), DENSE, KERNEL)
    with h5py.File(tmp_path / "net.keras", "a") as file:
        file["model_weights/d"].attrs["weight_names"] = [b"d/kernel:0"]
    with pytest.raises(ValueError, match="layer 'd': found the arrays"):
        import_zoo("keras", tmp_path, tmp_path / "zoo")
