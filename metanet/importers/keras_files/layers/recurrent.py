"""Recurrent layers: torch's own, with the gates in torch's order. They read [steps, channels]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metanet.importers.keras_files.building import Builder, Layer, Value
from metanet.importers.keras_files.weights import name_of

GATES = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}  # torch's gates by Keras' numbers
KINDS_OF_TORCH = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn_tanh"}
STATES = {"LSTM": 2, "GRU": 1, "SimpleRNN": 1}
MERGES = {"sum": "add", "ave": "add", "mul": "mul"}


@dataclass(frozen=True)
class _Cell:
    """What torch runs over a sequence, in one direction."""

    kind: str  # torch's
    names: list[str]  # of the weights
    units: int
    has_bias: bool
    states: int


def _cell(build: Builder, layer: Layer, channels: int) -> _Cell:
    """Torch has two biases. Keras' single one is the first, and the second is zero."""
    layer.only(stateful=False, time_major=False)
    activation = layer.get("activation", "tanh")
    kind = "rnn_relu" if (layer.kind, activation) == ("SimpleRNN", "relu") else KINDS_OF_TORCH[layer.kind]
    if kind != "rnn_relu":
        layer.only(activation="tanh")
    if layer.kind != "SimpleRNN":
        layer.only(recurrent_activation="sigmoid")
    if layer.kind == "GRU":
        layer.only(reset_after=True)
    (units,), gates, has_bias = layer.sizes("units", 1), GATES[layer.kind], bool(layer.get("use_bias", True))
    wide = units * len(gates)
    bias = [("bias", [2, wide] if layer.kind == "GRU" else [wide])] if has_bias else []
    found = layer.weights(("kernel", [channels, wide]), ("recurrent", [units, wide]), *bias)
    found = {name: _gates(array, gates) for name, array in found.items()}
    names = [build.tensor(layer.name, "weight_ih", found["kernel"].T)]
    names.append(build.tensor(layer.name, "weight_hh", found["recurrent"].T))
    if layer.kind == "GRU" and has_bias:
        names += [build.tensor(layer.name, f"bias_{part}", found["bias"][n]) for n, part in enumerate(("ih", "hh"))]
    elif has_bias:
        names.append(build.tensor(layer.name, "bias_ih", found["bias"]))
        names.append(build.own(layer.name, "bias_hh", np.zeros(wide)))
    return _Cell(kind, names, units, has_bias, STATES[layer.kind])


def _gates(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The blocks of the last axis in another order."""
    blocks = np.split(array, len(order), axis=-1)
    return np.concatenate([blocks[number] for number in order], axis=-1)


def _sequence(build: Builder, layer: Layer) -> Value:
    x = build.to_last(layer.x)
    if len(x.shape) != 2:
        raise ValueError(f"reads the shape {x.shape}, expected steps and channels")
    return x


def _recurrent(build: Builder, layer: Layer) -> Value | tuple[Value, ...]:
    x = _sequence(build, layer)
    cell = _cell(build, layer, x.shape[1])
    read = build.step("flip", [x.name], axes=[1]) if layer.get("go_backwards", False) else x.name
    parts = build.step("recurrent", [read, *cell.names], kind=cell.kind, bias=cell.has_bias)
    every = build.step("item", [parts], place=0)
    y = Value(every, (x.shape[0], cell.units))
    if not layer.get("return_sequences", False):
        y = Value(build.step("select", [every], axis=1, place=x.shape[0] - 1), (cell.units,))
    if not layer.get("return_state", False):
        return y
    last = [build.step("item", [parts], place=1 + place) for place in range(cell.states)]
    return y, *(Value(build.step("select", [name], axis=0, place=0), (cell.units,)) for name in last)


def _of_cell(build: Builder, layer: Layer) -> Value | tuple[Value, ...]:
    """RNN: a cell as a layer of its own."""
    inner = _single(layer, "cell")
    kind = inner.kind.removesuffix("Cell")
    if f"{kind}Cell" != inner.kind or kind not in GATES:
        raise ValueError(
            f"found a cell of the kind {inner.kind}, expected one of {', '.join(f'{k}Cell' for k in GATES)}"
        )
    return _recurrent(build, replace(inner, kind=kind, config={**layer.config, **inner.config}))


def _bidirectional(build: Builder, layer: Layer) -> Value | tuple[Value, ...]:
    """Two layers, the second of which reads the sequence from its end; its states are turned back."""
    x = _sequence(build, layer)
    layers = _directions(layer, x)
    if any(one.kind not in GATES for one in layers) or len({one.kind for one in layers}) > 1:
        raise ValueError(f"found {' and '.join(one.kind for one in layers)}, expected two of {', '.join(GATES)}")
    forward, backward = layers
    if forward.get("go_backwards", False) or not backward.get("go_backwards", False):
        raise ValueError("found layers that do not read in opposite directions")
    sequences = bool(forward.get("return_sequences", False))
    for one in layers:
        one.only(return_state=False)
    cells = [_cell(build, one, x.shape[1]) for one in layers]
    alike = {(cell.kind, cell.units, cell.has_bias) for cell in cells}
    if len(alike) > 1 or bool(backward.get("return_sequences", False)) != sequences:
        raise ValueError("found two directions of different sizes or kinds, which is not supported")
    kind, units, has_bias = alike.pop()
    names = [name for cell in cells for name in cell.names]
    parts = build.step("recurrent", [x.name, *names], kind=kind, bias=has_bias, bidirectional=True)
    every, steps, mode = build.step("item", [parts], place=0), x.shape[0], layer.get("merge_mode", "concat")
    lead = (steps,) if sequences else ()
    if sequences and mode == "concat":
        return Value(every, (steps, 2 * units))
    halves = []
    for number, place in enumerate((steps - 1, 0)):
        name = every if sequences else build.step("select", [every], axis=1, place=place)
        start = number * units
        name = build.step("narrow", [name], axis=1 + len(lead), start=start, end=start + units)
        halves.append(Value(name, (*lead, units)))
    if mode is None:
        return tuple(halves)
    return _merged(build, halves, mode)


def _directions(layer: Layer, x: Value) -> list[Layer]:
    """The two layers. Keras 2 does not describe the second one where it is like the first."""
    described = layer.get("layer")
    name = name_of(described) if isinstance(described, Mapping) else ""
    forward = layer.part("layer", x, "forward_layer", f"forward_{name}")
    if "backward_layer" in layer.config:
        other = layer.get("backward_layer")
        return [forward, layer.part("backward_layer", x, "backward_layer", f"backward_{name_of(other)}")]
    tree = layer.tree.part([f"backward_{name}"], "backward_layer")
    config = {**forward.config, "go_backwards": not forward.get("go_backwards", False)}
    own = "backward_layer"
    path, name = (*layer.path, own), f"{layer.name}.{own}"
    return [forward, replace(forward, path=path, name=name, config=config, tree=tree)]


def _merged(build: Builder, halves: list[Value], mode: Any) -> Value:
    lead, units, names = halves[0].shape[:-1], halves[0].shape[-1], [half.name for half in halves]
    if mode == "concat":
        return Value(build.step("cat", names, axis=1 + len(lead)), (*lead, 2 * units))
    if mode not in MERGES:
        raise ValueError(f"found merge_mode {mode!r}, expected concat, {', '.join(MERGES)} or null")
    y = Value(build.step(MERGES[mode], names), (*lead, units))
    return build.same(y, "div_number", value=2.0) if mode == "ave" else y


def _single(layer: Layer, attribute: str) -> Layer:
    """The only layer that a layer holds, which paths of Keras 2 leave out."""
    inner = layer.part(attribute, layer.x)
    return inner if inner.arrays or not layer.tree.by_path else replace(inner, tree=layer.tree)


def _each_step(build: Builder, layer: Layer) -> Value | tuple[Value, ...]:
    """TimeDistributed, around a layer that treats the last axis alone."""
    from metanet.importers.keras_files import layers

    inner = _single(layer, "layer")
    if inner.kind not in OF_LAST_AXIS:
        told = ", ".join(OF_LAST_AXIS)
        raise ValueError(f"found a layer of the kind {inner.kind} for each step, expected one of {told}")
    return layers.build(build, inner)


OF_LAST_AXIS = (
    "Dense",
    "Activation",
    "ReLU",
    "LeakyReLU",
    "ELU",
    "Dropout",
    "LayerNormalization",
    "BatchNormalization",
)
KINDS: Mapping[str, Callable[[Builder, Layer], Value | tuple[Value, ...]]] = {
    **dict.fromkeys(GATES, _recurrent),
    "RNN": _of_cell,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _each_step,
}
