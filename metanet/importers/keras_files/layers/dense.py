"""Dense, normalising, embedding and recurrent layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metanet.importers.keras_files import activations
from metanet.importers.keras_files.building import Builder, Layer, Value


def _dense(build: Builder, layer: Layer) -> Value:
    """Behind a flattened image the rows of the kernel are put into torch's order."""
    layer.only(lora_rank=None, quantization_config=None)
    (units,) = layer.sizes("units", 1)
    x = layer.x if layer.x.order else build.to_last(layer.x)
    bias = [("bias", [units])] if layer.get("use_bias", True) else []
    found = layer.weights(("kernel", [x.shape[-1], units]), *bias)
    kernel = found["kernel"][list(x.order)] if x.order else found["kernel"]
    names = [build.tensor(layer.name, "weight", kernel.T)]
    names += [build.tensor(layer.name, "bias", found["bias"])] if bias else []
    y = Value(build.step("linear", [x.name, *names]), (*x.shape[:-1], units))
    return activations.apply(build, y, layer.get("activation"), layer.major)


def _last_axis(layer: Layer) -> None:
    axis, rank = layer.get("axis", -1), len(layer.x.shape)
    axes = axis if isinstance(axis, list) else [axis]
    if axes not in ([-1], [rank]):
        raise ValueError(f"found axis {axis!r}, expected -1, that of the channels")


def _batch_norm(build: Builder, layer: Layer) -> Value:
    _last_axis(layer)
    layer.only(renorm=False)
    x = layer.x if layer.x.order else build.to_first(layer.x)
    size = [x.shape[-1]]
    own = [name for name, there in (("weight", "scale"), ("bias", "center")) if layer.get(there, True)]
    found = layer.weights(*((name, size) for name in own), ("running_mean", size), ("running_var", size))
    found = {name: array[list(x.order)] if x.order else array for name, array in found.items()}
    names = {name: build.tensor(layer.name, name, found[name], name.startswith("running")) for name in found}
    read = [names.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    return build.same(x, "batch_norm", *read, eps=layer.number("epsilon", 1e-3))


def _layer_norm(build: Builder, layer: Layer) -> Value:
    _last_axis(layer)
    layer.only(rms_scaling=False)
    x = build.to_last(layer.x)
    own = [name for name, there in (("weight", "scale"), ("bias", "center")) if layer.get(there, True)]
    found = layer.weights(*((name, [x.shape[-1]]) for name in own))
    names = [build.tensor(layer.name, name, found[name]) if name in found else None for name in ("weight", "bias")]
    return build.same(x, "layer_norm", *names, shape=[x.shape[-1]], eps=layer.number("epsilon", 1e-3))


def _group_norm(build: Builder, layer: Layer) -> Value:
    _last_axis(layer)
    x, groups = build.to_first(layer.x), layer.get("groups", 32)
    groups = x.shape[-1] if groups == -1 else groups
    if type(groups) is not int or groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"found {groups} groups of {x.shape[-1]} channels")
    own = [name for name, there in (("weight", "scale"), ("bias", "center")) if layer.get(there, True)]
    found = layer.weights(*((name, [x.shape[-1]]) for name in own))
    names = [build.tensor(layer.name, name, found[name]) if name in found else None for name in ("weight", "bias")]
    return build.same(x, "group_norm", *names, groups=groups, eps=layer.number("epsilon", 1e-3))


def _embedding(build: Builder, layer: Layer) -> Value:
    layer.only(mask_zero=False, lora_rank=None, quantization_config=None)
    (rows,), (width,) = layer.sizes("input_dim", 1), layer.sizes("output_dim", 1)
    found = layer.weights(("embeddings", [rows, width]))
    weight = build.tensor(layer.name, "weight", found["embeddings"])
    return Value(build.step("embedding", [layer.x.name, weight]), (*layer.x.shape, width))


GATES = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}  # torch's gates by Keras' numbers
TORCH = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn_tanh"}


def _recurrent(build: Builder, layer: Layer) -> Value:
    """Torch has two biases. Keras' single one is the first, and the second is zero."""
    layer.only(go_backwards=False, stateful=False, return_state=False, time_major=False, activation="tanh")
    if layer.kind != "SimpleRNN":
        layer.only(recurrent_activation="sigmoid")
    if layer.kind == "GRU":
        layer.only(reset_after=True)
    x, (units,) = build.to_last(layer.x), layer.sizes("units", 1)
    if len(x.shape) != 2:
        raise ValueError(f"reads the shape {x.shape}, expected steps and channels")
    gates, has_bias = GATES[layer.kind], bool(layer.get("use_bias", True))
    wide = units * len(gates)
    bias = [("bias", [2, wide] if layer.kind == "GRU" else [wide])] if has_bias else []
    found = layer.weights(("kernel", [x.shape[1], wide]), ("recurrent", [units, wide]), *bias)
    found = {name: _gates(array, gates) for name, array in found.items()}
    names = [build.tensor(layer.name, "weight_ih", found["kernel"].T)]
    names.append(build.tensor(layer.name, "weight_hh", found["recurrent"].T))
    if layer.kind == "GRU" and has_bias:
        names += [build.tensor(layer.name, f"bias_{part}", found["bias"][n]) for n, part in enumerate(("ih", "hh"))]
    elif has_bias:
        names += [build.tensor(layer.name, "bias_ih", found["bias"]), build.zeros(layer.name, "bias_hh", wide)]
    parts = build.step("recurrent", [x.name, *names], kind=TORCH[layer.kind], bias=has_bias)
    states = build.step("item", [parts], place=0)
    if layer.get("return_sequences", False):
        return Value(states, (x.shape[0], units))
    return Value(build.step("select", [states], axis=1, place=x.shape[0] - 1), (units,))


def _gates(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The blocks of the last axis in another order."""
    blocks = np.split(array, len(order), axis=-1)
    return np.concatenate([blocks[number] for number in order], axis=-1)


def _prelu(build: Builder, layer: Layer) -> Value:
    x = build.to_first(layer.x)
    channels = x.shape[-1]
    (alpha,) = layer.arrays if len(layer.arrays) == 1 else (np.zeros(0),)
    if alpha.shape != (1,) * (len(x.shape) - 1) + (channels,):
        raise ValueError(f"found alpha of the shape {alpha.shape}, expected one for each of {channels} channels")
    return build.same(x, "prelu", build.tensor(layer.name, "weight", alpha.reshape(-1)))


def _input(build: Builder, layer: Layer) -> Value:
    shape = layer.get("batch_shape") or layer.get("batch_input_shape")
    if shape is None and isinstance(layer.get("shape"), list):
        shape = [None, *layer.get("shape")]
    if not isinstance(shape, list) or len(shape) < 2 or any(type(size) is not int or size < 1 for size in shape[1:]):
        raise ValueError(f"found the input shape {shape}, expected [null, sizes, ...] with no other null")
    layer.only(sparse=False, ragged=False)
    return build.input(shape[1:], str(layer.get("dtype")).startswith(("int", "uint")))


KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    "InputLayer": _input,
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "Embedding": _embedding,
    "PReLU": _prelu,
    **dict.fromkeys(GATES, _recurrent),
}
