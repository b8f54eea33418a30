"""Graph: the configuration of a Sequential or Functional model -> a program. No class that it names is ever made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metanet.commandline import RefusedError
from metanet.importers.keras_files import layers, reading
from metanet.importers.keras_files.building import Builder, Layer, Value

MODELS = ("Sequential", "Functional", "Model")
MODULES = ("keras.", "tf_keras.", "tensorflow.keras.", "tensorflow.python.keras.")
MOST_LAYERS = 10_000


@dataclass
class _Node:
    """One use of a layer, and which uses of others it reads: (name, use)."""

    described: Mapping[str, Any]
    reads: list[tuple[str, int]] = field(default_factory=list)


def program(model: reading.Model, where: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The program of a model, and its tensors.

    Raises:
        RefusedError: the configuration names code: a Lambda, a class or a function of somebody's own.
        ValueError: a layer or an option that is not supported, or arrays that do not fit; says which layer.
    """
    kind, config = _described(model.config)
    if kind not in MODELS or not _is_of_keras(model.config):
        raise RefusedError(f"{where}: refused: a model of the class {kind!r}, whose code is not in the file")
    described = config if isinstance(config, list) else config.get("layers")
    if not isinstance(described, list) or not 0 < len(described) <= MOST_LAYERS:
        raise ValueError(f"{where}: found no layers, expected a list of 1 to {MOST_LAYERS:,}")
    for one in described:
        _check(one, where)
    arrays = _arrays(model, described, where)
    nodes, outputs = _sequence(described) if kind == "Sequential" else _functional(config, described, where)
    build = Builder(grid_of_one=any(one["class_name"].endswith(("1D", "1DTranspose")) for one in described))
    values = _values(build, nodes, arrays, int(model.version.partition(".")[0] or 3), where)
    there = sum(array.size for own in arrays.values() for array in own)
    if build.from_file() != there:
        raise ValueError(f"{where}: its layers have {there:,} numbers, and the net reads {build.from_file():,} of them")
    return build.program([values[node] for node in outputs])


def _described(one: Any) -> tuple[str, Any]:
    if not isinstance(one, Mapping) or not isinstance(one.get("class_name"), str):
        raise ValueError(f"found {str(one)[:80]}, expected an object with class_name and config")
    return one["class_name"], one.get("config", {})


def _check(one: Any, where: str) -> None:
    """Passes a layer of Keras itself."""
    kind, config = _described(one)
    module = one.get("module")
    if kind == "Lambda":
        raise RefusedError(f"{where}: refused: layer {_name(one)!r} is a Lambda, a function as bytes of Python")
    if not _is_of_keras(one):
        told = f"{module}.{kind} ({one.get('registered_name')})"
        raise RefusedError(f"{where}: refused: layer {_name(one)!r} is of the class {told}, not one of Keras")
    if kind in MODELS:
        raise ValueError(f"{where}: layer {_name(one)!r} is a model inside the model, which is not supported")
    if kind not in layers.KINDS:
        told = ", ".join(sorted(layers.KINDS))
        unknown = RefusedError if module is None else ValueError  # Keras 2 names no module: it may be anybody's class
        raise unknown(f"{where}: layer {_name(one)!r}: the kind {kind} is not supported, expected one of {told}")
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: layer {_name(one)!r}: found no config")


def _is_of_keras(one: Mapping[str, Any]) -> bool:
    """Whether a class is not said to be of another library, or registered by somebody."""
    module, registered = one.get("module"), one.get("registered_name")
    own = module is None or f"{module}.".startswith(MODULES)
    return own and (registered in (None, one["class_name"]) or str(registered).startswith("Keras>"))


def _name(one: Mapping[str, Any]) -> str:
    config = one.get("config")
    return str(config.get("name", one.get("name")) if isinstance(config, Mapping) else one.get("name"))


def _arrays(model: reading.Model, described: list[Any], where: str) -> dict[str, tuple[np.ndarray, ...]]:
    """Of each layer its arrays; none is left over."""
    counts: dict[str, int] = {}
    found: dict[str, tuple[np.ndarray, ...]] = {}
    taken: set[str] = set()
    for one in described:
        kind, name = reading.place(one["class_name"]), _name(one)
        number = counts[kind] = counts.get(kind, -1) + 1
        place = f"{kind}_{number}" if number else kind
        if name in found:
            raise ValueError(f"{where}: found two layers called {name!r}")
        own = model.named.get(name) if name in model.named else model.placed.get(place)
        taken |= {name, place} if name in model.named else {place}
        found[name] = tuple(own or ())
    left = [one for one, arrays in {**model.placed, **model.named}.items() if arrays and one not in taken]
    if left:
        raise ValueError(f"{where}: found weights of {', '.join(left[:6])}, which the configuration does not have")
    return found


def _sequence(described: list[Any]) -> tuple[dict[tuple[str, int], _Node], list[tuple[str, int]]]:
    """A chain; without a layer for the input, the first one says what it reads."""
    nodes: dict[tuple[str, int], _Node] = {}
    last: tuple[str, int] | None = None
    for one in described:
        if last is None and one["class_name"] != "InputLayer":
            built = one.get("build_config")
            shape = one["config"].get("batch_input_shape") or (built or {}).get("input_shape")
            config = {"name": ".input", "batch_shape": shape, "dtype": one["config"].get("dtype")}
            nodes[".input", 0] = _Node({"class_name": "InputLayer", "config": config})
            last = (".input", 0)
        nodes[_name(one), 0] = _Node(one, [last] if last else [])
        last = (_name(one), 0)
    assert last is not None
    return nodes, [last]


def _functional(
    config: Any, described: list[Any], where: str
) -> tuple[dict[tuple[str, int], _Node], list[tuple[str, int]]]:
    nodes = {}
    for one in described:
        uses = one.get("inbound_nodes") or [[]]
        for number, use in enumerate(uses):
            nodes[_name(one), number] = _Node(one, list(_tensors(use)))
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: found no config of a functional model")
    outputs, inputs = (list(_tensors(config.get(name))) for name in ("output_layers", "input_layers"))
    if len(inputs) != 1 or not outputs:
        raise ValueError(f"{where}: found {len(inputs)} inputs and {len(outputs)} outputs, expected one input")
    return nodes, outputs


def _tensors(found: Any) -> Iterator[tuple[str, int]]:
    """The uses of layers that a part of a configuration names, in their order, in the manner of Keras 2 or 3."""
    if isinstance(found, Mapping):
        history = (
            found.get("config", {}).get("keras_history") if found.get("class_name") == "__keras_tensor__" else None
        )
        if history is not None:
            yield from _tensors(history)
        else:
            for name, inner in found.items():
                if name == "kwargs" and any(True for _ in _tensors(list(inner.values()))):
                    raise ValueError(f"found inputs by name, {list(inner)[:4]}, which is not supported")
                yield from _tensors(inner) if name != "kwargs" else ()
    elif isinstance(found, list):
        if len(found) >= 3 and isinstance(found[0], str) and type(found[1]) is int and type(found[2]) is int:
            if found[2] != 0 or (len(found) > 3 and found[3]):
                raise ValueError(f"found the input {found[:4]}, expected the first result of a layer and no arguments")
            yield found[0], found[1]
        else:
            for inner in found:
                yield from _tensors(inner)


def _values(
    build: Builder,
    nodes: Mapping[tuple[str, int], _Node],
    arrays: Mapping[str, tuple[np.ndarray, ...]],
    major: int,
    where: str,
) -> dict[tuple[str, int], Value]:
    """What every use of a layer gives."""
    values: dict[tuple[str, int], Value] = {}
    waiting = dict(nodes)
    while waiting:
        ready = [key for key, node in waiting.items() if all(read in values for read in node.reads)]
        if not ready:
            raise ValueError(f"{where}: layer {next(iter(waiting))[0]!r} reads what no layer gives, or itself")
        for key in ready:
            node = waiting.pop(key)
            kind, config = _described(node.described)
            inputs = tuple(values[read] for read in node.reads)
            layer = Layer(key[0], kind, config, inputs, arrays.get(key[0], ()), major)
            try:
                values[key] = layers.KINDS[kind](build, layer)
            except RefusedError as error:
                raise RefusedError(f"{where}: layer {key[0]!r} ({kind}): {error}") from error
            except ValueError as error:
                raise ValueError(f"{where}: layer {key[0]!r} ({kind}): {error}") from error
    return values
