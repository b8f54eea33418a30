"""Keras: configurations of models as Keras 2 and 3 write them, and what of them is refused or told."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from metanet.errors import RefusedError
from metanet.importers.intake.writing import import_zoo
from tests.importers import keras_reference, keras_written
from tests.importers.keras_written import Config, archive, described, input_layer, integers, legacy, sequential, tensor
from tests.importers.test_keras import computed

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
        (one_dense() | {"module": "mine"}, RefusedError, "a model of the class 'Sequential', whose code is not in"),
        (one_dense(class_name="ConvLSTM2D"), ValueError, "the kind ConvLSTM2D is not supported"),
        (one_dense(class_name="Sequential"), ValueError, "found no layers"),
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
