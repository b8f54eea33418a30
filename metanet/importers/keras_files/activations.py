"""Activations by Keras' names."""

from __future__ import annotations

from typing import Any

from metanet.errors import RefusedError
from metanet.importers.keras_files.building import Builder, Value

SLOPE = 0.2  # of leaky_relu as an activation; the layer has another
PLAIN = {  # Keras' name -> the operator
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "selu": "selu",
    "softplus": "softplus",
    "softsign": "softsign",
    "swish": "silu",
    "silu": "silu",
    "mish": "mish",
    "exponential": "exp",
    "relu6": "relu6",
    "hard_silu": "hardswish",
    "hard_swish": "hardswish",
    "log_sigmoid": "log_sigmoid",
}
WITH_NUMBERS: dict[str, tuple[str, dict[str, float]]] = {
    "elu": ("elu", {"alpha": 1.0}),
    "celu": ("celu", {"alpha": 1.0}),
    "gelu": ("gelu", {}),
    "leaky_relu": ("leaky_relu", {"negative_slope": SLOPE}),
    "hard_tanh": ("clamp", {"min": -1.0, "max": 1.0}),
    "soft_shrink": ("softshrink", {"lambd": 0.5}),
    "hard_shrink": ("hardshrink", {"lambd": 0.5}),
}
LINEAR = (None, "linear")


def apply(build: Builder, x: Value, activation: Any, major: int) -> Value:
    """The activation of a value.

    Raises:
        RefusedError: a function that is not Keras' own.
    """
    if isinstance(activation, dict):  # {"class_name": "function", "config": NAME}, or a layer
        known = activation.get("module") in (None, "builtins", "keras.activations", "keras.src.activations.activations")
        inner = activation.get("config")
        activation = inner if known and isinstance(inner, str) else str(activation)
    if activation in LINEAR:
        return x
    if activation in PLAIN:
        return build.same(x, PLAIN[activation])
    if activation in WITH_NUMBERS:
        operator, numbers = WITH_NUMBERS[activation]
        return build.same(x, operator, **numbers)
    if activation == "tanh_shrink":
        return build.same(x, "sub", build.step("tanh", [x.name]))
    if activation == "squareplus":  # (x + sqrt(x^2 + 4)) / 2
        root = build.step("sqrt", [build.step("add_number", [build.step("square", [x.name])], value=4.0)])
        return build.same(build.same(x, "add", root), "mul_number", value=0.5)
    if activation == "hard_sigmoid":
        if major >= 3:
            return build.same(x, "hardsigmoid")
        x = build.same(build.same(x, "mul_number", value=0.2), "add_number", value=0.5)
        return build.same(x, "clamp", min=0.0, max=1.0)
    if activation in ("softmax", "log_softmax"):
        return build.same(x, activation, axis=1 if x.first else len(x.shape))
    raise RefusedError(f"refused: the activation {str(activation)[:120]} is none of Keras' own that are known here")
