"""Layers of a number each: activations, dropout, and sums and products of several values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from metanet.importers.keras_files import activations
from metanet.importers.keras_files.building import Builder, Layer, Value

IDENTITIES = (  # but in training
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout"),
    *("GaussianNoise", "ActivityRegularization", "Identity", "RandomFlip", "RandomRotation", "RandomZoom"),
    *("RandomTranslation", "RandomContrast", "RandomBrightness"),
)


def _identity(build: Builder, layer: Layer) -> Value:
    return layer.x


def _activation(build: Builder, layer: Layer) -> Value:
    return activations.apply(build, layer.x, layer.get("activation"), layer.major)


def _relu(build: Builder, layer: Layer) -> Value:
    most, slope, threshold = layer.get("max_value"), layer.get("negative_slope") or 0.0, layer.get("threshold") or 0.0
    if threshold or (slope and most is not None):
        raise ValueError(f"found threshold {threshold}, max_value {most} and negative_slope {slope}, not supported")
    if slope:
        return build.same(layer.x, "leaky_relu", negative_slope=layer.number("negative_slope"))
    if most is None:
        return build.same(layer.x, "relu")
    return build.same(layer.x, "clamp", min=0.0, max=layer.number("max_value"))


def _leaky_relu(build: Builder, layer: Layer) -> Value:
    name = "negative_slope" if "negative_slope" in layer.config else "alpha"
    return build.same(layer.x, "leaky_relu", negative_slope=layer.number(name, 0.3))


def _elu(build: Builder, layer: Layer) -> Value:
    return build.same(layer.x, "elu", alpha=layer.number("alpha", 1.0))


def _softmax(build: Builder, layer: Layer) -> Value:
    if layer.get("axis", -1) not in (-1, len(layer.x.shape)):
        raise ValueError(f"found axis {layer.get('axis')}, expected -1")
    return activations.apply(build, layer.x, "softmax", layer.major)


def _rescaling(build: Builder, layer: Layer) -> Value:
    if isinstance(layer.get("scale"), list) or isinstance(layer.get("offset"), list):
        return _rescaled_channels(build, layer)
    x = build.same(layer.x, "mul_number", value=layer.number("scale"))
    offset = layer.number("offset", 0.0)
    return build.same(x, "add_number", value=offset) if offset else x


def _rescaled_channels(build: Builder, layer: Layer) -> Value:
    """By a number for each channel, which belong to the architecture."""
    x = build.to_first(layer.x)
    for name, op, default in (("scale", "mul", 1.0), ("offset", "add", 0.0)):
        numbers = np.asarray(layer.get(name, default), np.float64).reshape(-1)
        if len(numbers) not in (1, x.shape[-1]) or not np.isfinite(numbers).all():
            raise ValueError(f"found {name} {layer.get(name)!r}, expected a number for each of {x.shape[-1]} channels")
        every = np.broadcast_to(numbers, [x.shape[-1]]).reshape(-1, *[1] * (len(x.shape) - 1))
        x = build.same(x, op, build.constant(every))
    return x


def _aligned(build: Builder, inputs: tuple[Value, ...]) -> list[Value]:
    """The values with channels at one place, and of one rank: Keras puts axes of size 1 in front of the grid."""
    if len(inputs) < 2:
        raise ValueError(f"found {len(inputs)} inputs, expected at least two")
    if len({one.order for one in inputs}) == 1 and inputs[0].order:
        return list(inputs)
    rank = max(len(one.shape) for one in inputs)
    found = []
    for one in inputs:
        if len(one.shape) < rank:
            shape = (1,) * (rank - len(one.shape)) + one.shape
            one = Value(build.step("reshape", [build.to_last(one).name], shape=[-1, *shape]), shape)
        found.append(one)
    first = any(one.first for one in found)
    return [build.to_first(one) if first else build.to_last(one) for one in found]


def merged(op: str, build: Builder, inputs: tuple[Value, ...]) -> Value:
    """A sum, product or the like of several values; those of size 1 along an axis are repeated there."""
    values = _aligned(build, inputs)
    if op in ("sub", "div") and len(values) != 2:
        raise ValueError(f"found {len(values)} inputs, expected two")
    x = values[0]
    for other in values[1:]:
        pairs = list(zip(x.shape, other.shape, strict=True))
        if any(a != b and 1 not in (a, b) for a, b in pairs):
            raise ValueError(f"found values of the shapes {x.shape} and {other.shape}")
        x = Value(build.step(op, [x.name, other.name]), tuple(max(pair) for pair in pairs), x.first, x.order)
    return x


def merged_pair(op: str, build: Builder, layer: Layer) -> Value:
    """Of two values, or of a value and a number."""
    if layer.named or layer.arguments or len(layer.operands) != 2:
        told = [*layer.named, *layer.arguments]
        raise ValueError(f"found {len(layer.operands)} operands, {told}, expected two")
    x, other = layer.operands
    if isinstance(x, Value) and isinstance(other, Value):
        return merged(op, build, (x, other))
    if isinstance(x, Value) and not isinstance(other, Value):
        return build.same(x, "add_number" if op == "sub" else f"{op}_number", value=-other if op == "sub" else other)
    if isinstance(other, Value) and not isinstance(x, Value) and op != "div":
        return build.same(other, "sub_from_number" if op == "sub" else f"{op}_number", value=x)
    raise ValueError(f"found the operands {[type(one).__name__ for one in layer.operands]}, which are not supported")


def _merged(op: str, build: Builder, layer: Layer) -> Value:
    """Of several values; of a value and a number where files of Keras 2 do not say that it is a function."""
    if any(not isinstance(one, Value) for one in layer.operands):
        return merged_pair(op, build, layer)
    return merged(op, build, layer.inputs)


def _average(build: Builder, layer: Layer) -> Value:
    return build.same(merged("add", build, layer.inputs), "div_number", value=float(len(layer.inputs)))


def _concatenated(build: Builder, layer: Layer) -> Value:
    if any(one.order for one in layer.inputs):
        values = [build.to_last(one) for one in layer.inputs]
    else:
        values = _aligned(build, layer.inputs)
    rank, axis = len(values[0].shape), layer.get("axis", -1)
    place = axis - 1 if type(axis) is int and axis > 0 else axis + rank if type(axis) is int else -1
    rest = {one.shape[:place] + one.shape[place + 1 :] for one in values}
    if not 0 <= place < rank or len(rest) != 1 or len({len(one.shape) for one in layer.inputs}) != 1:
        raise ValueError(f"found axis {axis!r} for values of the shapes {[one.shape for one in layer.inputs]}")
    own = place + 1 if not values[0].first else 1 if place == rank - 1 else place + 2
    shape = list(values[0].shape)
    shape[place] = sum(one.shape[place] for one in values)
    return Value(build.step("cat", [one.name for one in values], axis=own), tuple(shape), values[0].first)


KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    **dict.fromkeys(IDENTITIES, _identity),
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "Softmax": _softmax,
    "Rescaling": _rescaling,
    "Add": partial(_merged, "add"),
    "Subtract": partial(_merged, "sub"),
    "Multiply": partial(_merged, "mul"),
    "Average": _average,
    "Concatenate": _concatenated,
}
