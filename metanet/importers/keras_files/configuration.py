"""Configuration: what a model's JSON says of its layers and of their uses. No class that it names is ever made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metanet.errors import RefusedError
from metanet.importers.keras_files.weights import name_of

MODELS = ("Sequential", "Functional", "Model")
MODULES = ("keras.", "tf_keras.", "tensorflow.keras.", "tensorflow.python.keras.")
OPERATIONS = "keras.src.ops."  # functions that were called on values, such as keras.ops.relu
MOST_LAYERS = 10_000
START = ".input"  # of a Sequential without a layer for its input

Read = tuple[str, int, int]  # a layer's name, its use, and which of its results


@dataclass(frozen=True)
class Use:
    """One use of a layer: what it reads in its order, and by name, and its other arguments."""

    described: Mapping[str, Any]
    reads: Sequence[Read | float] = ()
    named: Mapping[str, Sequence[Read]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """The uses of a model's layers, in any order."""

    layers: Sequence[Mapping[str, Any]]
    uses: Mapping[tuple[str, int], Use]
    inputs: Sequence[Read]
    outputs: Sequence[Read]


def check_model(config: Any) -> None:
    """Passes a model of Keras itself.

    Raises:
        RefusedError: another class, whose code is not in the file.
        ValueError: no configuration.
    """
    if not isinstance(config, Mapping):
        raise ValueError("found no configuration of a model, expected an object")
    kind, _ = described(config)
    if kind not in MODELS or not _is_of_keras(config):
        raise RefusedError(f"refused: a model of the class {kind!r}, whose code is not in the file")


def described(one: Any) -> tuple[str, Any]:
    """Kind and configuration of a layer or model; a function of keras.ops is of the kind "ops.NAME"."""
    if not isinstance(one, Mapping) or not isinstance(one.get("class_name"), str):
        raise ValueError(f"found {str(one)[:80]}, expected an object with class_name and config")
    is_function = str(one.get("module")).startswith(OPERATIONS)
    return f"ops.{one['class_name']}" if is_function else one["class_name"], one.get("config", {})


def check(one: Any, known: Mapping[str, Any]) -> None:
    """Passes a layer of Keras itself, of a known kind.

    Raises:
        RefusedError: it is code.
        ValueError: it is not supported.
    """
    kind, config = described(one)
    if kind == "Lambda":
        raise RefusedError(f"refused: layer {name_of(one)!r} is a Lambda, a function as bytes of Python")
    if not _is_of_keras(one):
        told = f"{one.get('module')}.{kind} ({one.get('registered_name')})"
        raise RefusedError(f"refused: layer {name_of(one)!r} is of the class {told}, not one of Keras")
    if kind not in known and kind not in MODELS:
        told = ", ".join(sorted(known))
        unknown = RefusedError if one.get("module") is None else ValueError  # Keras 2 names none: anybody's class
        raise unknown(f"layer {name_of(one)!r}: the kind {kind} is not supported, expected one of {told}")
    if not isinstance(config, Mapping) and kind != "Sequential":
        raise ValueError(f"layer {name_of(one)!r}: found no config")


def _is_of_keras(one: Mapping[str, Any]) -> bool:
    """Whether a class is not said to be of another library, or registered by somebody."""
    module, registered = one.get("module"), one.get("registered_name")
    own = module is None or f"{module}.".startswith(MODULES)
    return own and (registered in (None, one["class_name"]) or str(registered).startswith("Keras>"))


def graph(model: Mapping[str, Any]) -> Graph:
    """The layers of a model and their uses.

    Raises:
        ValueError: there are none, or what they read cannot be told.
    """
    kind, config = described(model)
    found = config if isinstance(config, list) else config.get("layers") if isinstance(config, Mapping) else None
    if not isinstance(found, list) or not 0 < len(found) <= MOST_LAYERS:
        raise ValueError(f"found no layers, expected a list of 1 to {MOST_LAYERS:,}")
    for one in found:
        described(one)
    return _sequence(found) if kind == "Sequential" else _functional(config, found)


def layers_below(model: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All layers of a model and of the models in it."""
    _, config = described(model)
    found = config if isinstance(config, list) else config.get("layers") if isinstance(config, Mapping) else None
    for one in found if isinstance(found, list) else ():
        if described(one)[0] in MODELS:
            yield from layers_below(one)
        else:
            yield one


def _sequence(found: Sequence[Mapping[str, Any]]) -> Graph:
    """A chain; without a layer for the input, the first one says what it reads."""
    uses: dict[tuple[str, int], Use] = {}
    names = [name_of(one) for one in found]
    if found[0]["class_name"] != "InputLayer":
        config = found[0]["config"] if isinstance(found[0].get("config"), Mapping) else {}
        built = found[0].get("build_config")
        shape = config.get("batch_input_shape") or (built or {}).get("input_shape")
        start = {"name": START, "batch_shape": shape, "dtype": config.get("dtype")}
        uses[START, 0] = Use({"class_name": "InputLayer", "config": start})
        names = [START, *names]
    for name, one in zip(names[-len(found) :], found, strict=True):
        before = list(uses)[-1:]
        uses[name, 0] = Use(one, [(last, use, 0) for last, use in before])
    return Graph(found, uses, [(names[0], 0, 0)], [(names[-1], 0, 0)])


def _functional(config: Any, found: Sequence[Mapping[str, Any]]) -> Graph:
    nodes = {name_of(one): one.get("inbound_nodes") or [[]] for one in found}
    kinds = {name_of(one): one["class_name"] for one in found}
    of_keras_3 = any(isinstance(node, Mapping) for own in nodes.values() for node in own)

    def at(read: Read, is_end: bool) -> Read:
        """A model in the model has been used once when it was made, which Keras counts in some places."""
        name, use, place = read
        counts = kinds.get(name) in MODELS and (not of_keras_3 or (is_end and kinds[name] != "Sequential"))
        many = len(nodes.get(name, ()))
        return name, use - 1 if counts and (use == many or many > 1) else use, place

    uses = {}
    for one in found:
        for number, node in enumerate(nodes[name_of(one)]):
            uses[name_of(one), number] = _use(one, node, lambda read: at(read, False))
    if not isinstance(config, Mapping):
        raise ValueError("found no config of a functional model")
    inputs, outputs = (list(tensors(config.get(name))) for name in ("input_layers", "output_layers"))
    return Graph(found, uses, inputs, [at(read, True) for read in outputs])


def _use(one: Mapping[str, Any], node: Any, at: Callable[[Read], Read]) -> Use:
    """What a use reads, in the manner of Keras 2 (lists of [layer, use, result, arguments]) or 3."""
    if isinstance(node, Mapping):
        args, named = node.get("args", []), node.get("kwargs") or {}
    else:
        entries = node if node and isinstance(node[0], list) else [node] if node else []
        more = [entry[3] for entry in entries if len(entry) > 3 and isinstance(entry[3], Mapping)]
        args, named = [list(entry[:3]) for entry in entries], {key: value for own in more for key, value in own.items()}
    reads: list[Read | float] = []
    for argument in args:
        found = [at(read) for read in tensors(argument)]
        if not found and argument is not None:
            if not isinstance(argument, int | float):
                raise ValueError(f"layer {name_of(one)!r} is called with {str(argument)[:40]}, expected values")
            reads.append(float(argument))
        reads += found
    values = {name: [at(read) for read in tensors(value)] for name, value in named.items()}
    return Use(
        one,
        reads,
        {name: found for name, found in values.items() if found},
        {name: named[name] for name, found in values.items() if not found and not _is_quiet(name, named[name])},
    )


def _is_quiet(name: str, value: Any) -> bool:
    """Whether an argument of a call changes nothing."""
    if isinstance(value, list) and name == "mask":
        return all(_is_quiet(name, one) for one in value)
    return value is None or value is False


def tensors(found: Any) -> Iterator[Read]:
    """The results of layers that a part of a configuration names, in Keras' order."""
    if isinstance(found, Mapping):
        config = found.get("config")
        if found.get("class_name") == "__keras_tensor__" and isinstance(config, Mapping):
            yield from tensors(config.get("keras_history"))
        else:
            for _, inner in sorted(found.items()):
                yield from tensors(inner)
    elif isinstance(found, list):
        if len(found) >= 3 and isinstance(found[0], str) and type(found[1]) is int and type(found[2]) is int:
            yield found[0], found[1], found[2]
        else:
            for inner in found:
                yield from tensors(inner)
