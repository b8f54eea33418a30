"""Keras: layers around layers, attention, channels that come first, and what a call asks for, against NumPy."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanet.importers.intake.writing import import_zoo
from tests.importers import keras_reference
from tests.importers.keras_written import (
    INNER,
    Config,
    X,
    computed,
    dense,
    described,
    functional,
    input_layer,
    integers,
    keras2,
    keras3,
    sequential,
    start,
    use,
)

SEQUENCE = np.random.default_rng(1).normal(size=(2, 5, 3)) / 4
LSTM = {"units": 2, "activation": "tanh", "recurrent_activation": "sigmoid"}
CELLS = [[array / 16 for array in integers([(3, 8), (2, 8), (8,)], seed)] for seed in (7, 8)]


MERGED = {
    "concat": lambda ahead, back: np.concatenate([ahead, back], -1),
    "sum": lambda ahead, back: ahead + back,
    "ave": lambda ahead, back: (ahead + back) / 2,
    "mul": lambda ahead, back: ahead * back,
}


def both_directions(mode: str, sequences: bool, old: bool) -> Config:
    """Keras 2 describes the second direction only where it is another."""
    config = {**LSTM, "return_sequences": sequences}
    layer = described("LSTM", "lstm" if old else "forward_lstm", config | {"go_backwards": False})
    both: Config = {"merge_mode": mode, "layer": layer}
    if not old:
        both["backward_layer"] = described("LSTM", "backward_lstm", config | {"go_backwards": True})
    return sequential([input_layer((5, 3)), described("Bidirectional", "both", both)])


@pytest.mark.parametrize("old", [False, True])
def test_both_directions_of_a_sequence_are_read(tmp_path: Path, old: bool):
    (tmp_path / "nets").mkdir()
    expected = {}
    for mode in MERGED:
        for sequences in (False, True):
            model, name = both_directions(mode, sequences, old), f"{mode}-{sequences}"
            ways = ("forward", "backward")
            if old:
                arrays = {f"both/both/{way}_lstm/cell": own for way, own in zip(ways, CELLS, strict=True)}
                path = keras2(tmp_path / "nets" / f"{name}.h5", model, arrays)
            else:
                names = [f"layers/bidirectional/{way}_layer/cell" for way in ways]
                path = keras3(tmp_path / "nets" / f"{name}.keras", model, dict(zip(names, CELLS, strict=True)))
            config = {**LSTM, "return_sequences": sequences}
            ahead = keras_reference.layer("LSTM", config, CELLS[0], SEQUENCE)
            back = keras_reference.layer("LSTM", config, CELLS[1], SEQUENCE[:, ::-1])
            expected[path.name] = MERGED[mode](ahead, back[:, ::-1] if sequences else back)
    zoo = import_zoo("keras", tmp_path / "nets", tmp_path / "zoo")
    assert len(zoo) == len(expected)
    for row in zoo.manifest.to_pylist():
        with torch.no_grad():
            found = zoo.module(row["net"], 0).double()(torch.from_numpy(SEQUENCE))
        np.testing.assert_allclose(found, expected[row["source.where"]], rtol=1e-5, atol=1e-7)


def test_a_layer_for_each_step_and_one_that_reads_backwards(tmp_path: Path):
    each = described("TimeDistributed", "each", {"layer": described("Dense", "inner", {"units": 3})})
    back = described("LSTM", "back", {**LSTM, "go_backwards": True})
    arrays = {"layers/time_distributed/layer": INNER, "layers/lstm/cell": CELLS[0]}
    path = keras3(tmp_path / "net.keras", sequential([input_layer((5, 3)), each, back]), arrays)
    expected = keras_reference.layer("LSTM", LSTM, CELLS[0], (SEQUENCE @ INNER[0] + INNER[1])[:, ::-1])
    np.testing.assert_allclose(computed(path, tmp_path, SEQUENCE), expected, rtol=1e-5, atol=1e-7)


SHAPES = {"query": (3, 2, 4), "key": (3, 2, 4), "value": (3, 2, 5), "output": (2, 5, 3)}
HEADS = {
    name: [array * 2 for array in integers([shape, shape[1:] if name != "output" else (3,)], number)]
    for number, (name, shape) in enumerate(SHAPES.items())
}


def attention(x: np.ndarray, causal: bool) -> np.ndarray:
    q, k, v = (np.einsum("btc,chw->bhtw", x, HEADS[n][0]) + HEADS[n][1][:, None] for n in ("query", "key", "value"))
    scores = np.einsum("bhtw,bhsw->bhts", q, k) / 2
    scores = np.where(np.tril(np.ones((5, 5))) > 0, scores, -1e9) if causal else scores
    e = np.exp(scores - scores.max(-1, keepdims=True))
    y = np.einsum("bhts,bhsw->bthw", e / e.sum(-1, keepdims=True), v)
    return np.einsum("bthw,hwc->btc", y, HEADS["output"][0]) + HEADS["output"][1]


def attending(path: Path, **named: Any) -> Path:
    config = {"num_heads": 2, "key_dim": 4, "value_dim": 5, "attention_axes": [1]}
    layer = described("MultiHeadAttention", "a", config, inbound_nodes=[use(("x", 0), ("x", 0), **named)])
    model = functional("net", [start("x", 5, 3), layer], (["x", 0, 0], ["a", 0, 0]))
    return keras3(path, model, {f"layers/multi_head_attention/{name}_dense": own for name, own in HEADS.items()})


@pytest.mark.parametrize("causal", [False, True])
def test_heads_attend_as_keras_defines(tmp_path: Path, causal: bool):
    path = attending(tmp_path / "net.keras", use_causal_mask=causal)
    np.testing.assert_allclose(computed(path, tmp_path, SEQUENCE), attention(SEQUENCE, causal), rtol=1e-5, atol=1e-6)
    assert np.abs(attention(SEQUENCE, causal) - attention(SEQUENCE, not causal)).max() > 1e-3


@pytest.mark.parametrize("name", ["return_attention_scores", "attention_mask"])
def test_what_a_call_asks_for_is_never_ignored(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=rf"layer 'a' \(MultiHeadAttention\): is called with {name}, which is not"):
        import_zoo("keras", attending(tmp_path / "net.keras", **{name: True}), tmp_path / "zoo")


def test_a_norm_in_training_is_not_read(tmp_path: Path):
    norm = described("BatchNormalization", "n", {"epsilon": 0.1}, inbound_nodes=[use(("x", 0), training=True)])
    model = functional("net", [start("x", 3), norm], (["x", 0, 0], ["n", 0, 0]))
    path = keras3(tmp_path / "net.keras", model, {"layers/batch_normalization": integers([(3,)] * 4, 0)})
    with pytest.raises(ValueError, match=r"layer 'n' \(BatchNormalization\): is called with \['training'\]"):
        import_zoo("keras", path, tmp_path / "zoo")


def test_channels_that_come_first_give_the_same_as_those_that_come_last(tmp_path: Path):
    arrays = {"layers/conv2d": integers([(3, 3, 2, 4), (4,)], 0), "layers/batch_normalization": integers([(4,)] * 4, 1)}
    arrays["layers/dense"] = integers([(24, 2), (2,)], 2)
    found = []
    for name, axis in (("channels_first", 1), ("channels_last", -1)):
        layers = [
            input_layer((2, 6, 5) if name == "channels_first" else (6, 5, 2)),
            described("Conv2D", "c", {"kernel_size": [3, 3], "filters": 4, "padding": "same", "data_format": name}),
            described("BatchNormalization", "n", {"axis": axis, "epsilon": 1e-3}),
            described("MaxPooling2D", "p", {"pool_size": [2, 2], "data_format": name}),
            described("Flatten", "f", {"data_format": name}),
            dense("d", 2),
        ]
        path = keras3(tmp_path / f"{name}.keras", sequential(layers), arrays)
        found.append(computed(path, tmp_path / name, np.random.default_rng(2).normal(size=(2, 2, 6, 5))))
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_numbers_of_the_data_belong_to_the_net(tmp_path: Path):
    seen = [np.array([1.0, -2, 3], "f4"), np.array([4.0, 9, 16], "f4"), np.array(50, "u8")]
    layers = [input_layer((3,)), described("Normalization", "n", {"axis": [-1], "mean": None, "variance": None})]
    layers.append(described("Rescaling", "r", {"scale": [1.0, 2.0, 3.0], "offset": -1.0}))
    path = keras3(tmp_path / "net.keras", sequential(layers), {"layers/normalization": seen})
    expected = (X - [1, -2, 3]) / [2, 3, 4] * [1, 2, 3] - 1
    np.testing.assert_allclose(computed(path, tmp_path, X), expected, rtol=1e-6)


def test_half_precision_is_read_exactly(tmp_path: Path):
    exact = torch.tensor([[1.0, -2.5], [3.0, 0.0078125], [7.0, 64.0]])
    halves = exact.to(torch.bfloat16).view(torch.int16).numpy().view("V2")  # as Keras writes them
    layers = [input_layer((3,)), dense("d", 2, use_bias=False)]
    path = keras3(tmp_path / "net.keras", sequential(layers), {"layers/dense": [halves]})
    np.testing.assert_allclose(computed(path, tmp_path, X), X @ exact.double().numpy(), rtol=1e-12)


def test_the_version_beside_weights_says_what_hard_sigmoid_is(tmp_path: Path):
    keras3(tmp_path / "net.keras", {}, {"layers/dense": INNER})
    with zipfile.ZipFile(tmp_path / "net.keras") as file:
        (tmp_path / "net.weights.h5").write_bytes(file.read("model.weights.h5"))
    config = sequential([input_layer((3,)), dense("dense", 3, activation="hard_sigmoid")])
    (tmp_path / "net.json").write_text(json.dumps(config | {"keras_version": "2.15.0"}))
    expected = np.clip(0.2 * (X @ INNER[0] + INNER[1]) + 0.5, 0, 1)
    np.testing.assert_allclose(computed(tmp_path / "net.weights.h5", tmp_path, X), expected, rtol=1e-6)
