"""Graph: the configuration of a Sequential or Functional model -> a program, with the models in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metanet.errors import RefusedError
from metanet.importers.keras_files import configuration, layers, reading
from metanet.importers.keras_files.building import Builder, Layer, Value
from metanet.importers.keras_files.configuration import MODELS, Graph, Read, Use
from metanet.importers.keras_files.weights import Weights, own_names

MOST_DEPTH = 16  # of models in models

Values = dict[tuple[str, int], tuple[Value, ...]]  # a layer's name and its use -> the results


def program(model: reading.Model) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The program of a model, and its tensors in float32.

    Raises:
        RefusedError: the configuration names code: a Lambda, a class or a function of somebody's own.
        ValueError: a layer or an option that is not supported, or arrays that do not fit; says which layer.
    """
    every = list(configuration.layers_below(model.config))
    one_axis = any(one["class_name"].endswith(("1D", "1DTranspose")) for one in every)
    configs = [one["config"] for one in every if isinstance(one.get("config"), Mapping)]
    build = Builder(one_axis, any(config.get("data_format") == "channels_first" for config in configs))
    reader = _Reader(build, int(model.version.partition(".")[0] or 3))
    outputs = reader.read(model.config, model.weights, None)
    there = sum(array.size for array in model.weights.arrays())
    if build.from_file() != there:
        raise ValueError(f"its layers have {there:,} numbers, and the net reads {build.from_file():,} of them")
    return build.program(outputs), {name: array.astype(np.float32) for name, array in build.tensors.items()}


class _Reader:
    """Builds a model layer by layer; `major` is the version of Keras that wrote it."""

    def __init__(self, build: Builder, major: int):
        self._build, self._major = build, major

    def read(
        self, model: Mapping[str, Any], tree: Weights, given: Sequence[Value] | None, inside: Layer | None = None
    ) -> tuple[Value, ...]:
        """What a model gives for the values `given` to it, or for a new input; `inside` is the model as a layer."""
        path = inside.path if inside else ()
        graph = configuration.graph(model)
        for one in graph.layers:
            configuration.check(one, layers.KINDS)
        if len(path) > MOST_DEPTH:
            raise ValueError(f"found models in each other more than {MOST_DEPTH} deep")
        own, values = tree.of_layers(graph.layers), Values()
        wanted = 1 if given is None else len(given)
        if len(graph.inputs) != wanted or not graph.outputs:
            which = f"the model {path[-1]!r} has" if path else "found"
            raise ValueError(
                f"{which} {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, expected {wanted} "
                f"input{'' if wanted == 1 else 's'} and an output"
            )
        for (name, use, _), value in zip(graph.inputs, given or (), strict=given is not None):
            values[name, use] = (value,)
        self._evaluate(graph, own, tree, values, inside)
        return tuple(_result(values, read) for read in graph.outputs)

    def _evaluate(
        self, graph: Graph, own: Mapping[str, Weights], whole: Weights, values: Values, inside: Layer | None
    ) -> None:
        """Fills in what every use of a layer gives, one after those that it reads."""
        path, above = (inside.path, f"{inside.name}.") if inside else ((), "")
        names = own_names(graph.layers)
        waiting = {key: use for key, use in graph.uses.items() if key not in values}
        while waiting:
            ready = [key for key, use in waiting.items() if all(read[:2] in values for read in _reads(use))]
            if not ready:
                raise ValueError(f"layer {next(iter(waiting))[0]!r} reads what no layer gives, or itself")
            for key in ready:
                use = waiting.pop(key)
                kind, config = configuration.described(use.described)
                operands = tuple(_result(values, one) if isinstance(one, tuple) else one for one in use.reads)
                tree = own.get(key[0], Weights())
                if kind in MODELS and not tree.arrays() and whole.by_path:
                    tree = whole  # paths of Keras 2 may leave out the model
                named = {name: [_result(values, read) for read in reads] for name, reads in use.named.items()}
                at = (*path, key[0]), above + names.get(key[0], key[0]).replace(".", "_")
                layer = Layer(*at, kind, config, operands, tree, self._major, named, use.arguments)
                values[key] = self._model(use, layer) if kind in MODELS else self._layer(layer)

    def _model(self, use: Use, layer: Layer) -> tuple[Value, ...]:
        """What a model inside the model gives."""
        try:
            given = layer.inputs
        except ValueError as error:
            raise ValueError(f"the model {'/'.join(layer.path)!r} {error}") from error
        return self.read(use.described, layer.tree, given, layer)

    def _layer(self, layer: Layer) -> tuple[Value, ...]:
        try:
            found = layers.build(self._build, layer)
        except RefusedError as error:
            raise RefusedError(f"layer {'/'.join(layer.path)!r} ({layer.kind}): {error}") from error
        except ValueError as error:
            raise ValueError(f"layer {'/'.join(layer.path)!r} ({layer.kind}): {error}") from error
        return found if isinstance(found, tuple) else (found,)


def _reads(use: Use) -> list[Read]:
    places = [one for one in use.reads if isinstance(one, tuple)]
    return places + [read for reads in use.named.values() for read in reads]


def _result(values: Values, read: Read) -> Value:
    name, use, place = read
    found = values.get((name, use), ())
    if not 0 <= place < len(found):
        raise ValueError(f"found no result {place} of use {use} of layer {name!r}")
    return found[place]
