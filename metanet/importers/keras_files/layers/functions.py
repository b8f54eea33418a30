"""Functions of keras.ops that were called on values of a model, such as `a + b` or keras.ops.relu(x)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from metanet.importers.keras_files import activations
from metanet.importers.keras_files.building import Builder, Layer, Value
from metanet.importers.keras_files.layers.pointwise import merged_pair

OF_TWO = {"Add": "add", "Subtract": "sub", "Multiply": "mul", "TrueDivide": "div", "Divide": "div"}
OF_ONE = ("Relu", "Sigmoid", "Tanh", "Silu", "Softplus", "Softsign", "Selu", "Relu6", "HardSilu", "LogSigmoid")


def _of_one(build: Builder, layer: Layer) -> Value:
    name = layer.kind.removeprefix("ops.")
    known = {"HardSilu": "hard_silu", "LogSigmoid": "log_sigmoid"}
    return activations.apply(build, layer.x, known.get(name, name.lower()), layer.major)


KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    **{f"ops.{name}": partial(merged_pair, op) for name, op in OF_TWO.items()},
    **{f"ops.{name}": _of_one for name in OF_ONE},
}
