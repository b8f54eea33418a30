"""Normalising layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metanet.importers.keras_files.building import Builder, Layer, Value

LEAST_DEVIATION = 1e-7  # below which Keras' Normalization does not divide by a deviation


def _axes(layer: Layer) -> list[int]:
    """The axes of a layer's `axis`, counted without the samples.

    Raises:
        ValueError: none of the value's.
    """
    found, rank = layer.get("axis", -1), len(layer.x.shape)
    axes = found if isinstance(found, list) else [found]
    if any(type(axis) is not int or not (-rank <= axis < 0 or 1 <= axis <= rank) for axis in axes):
        raise ValueError(f"found axis {found!r}, expected one of a value of the shape {layer.x.shape}")
    return sorted(axis + rank if axis < 0 else axis - 1 for axis in axes)


def _over_channels(build: Builder, layer: Layer, norm: Callable[[Value], Value]) -> Value:
    """What a norm gives whose channels are Keras' last axis, or its first."""
    axes, last = _axes(layer), len(layer.x.shape) - 1
    if axes == [last]:
        return norm(layer.x)
    if axes == [0]:
        return build.to_channels_first(norm(build.from_channels_first(layer.x)))
    raise ValueError(f"found axis {layer.get('axis')!r}, expected that of the channels, the first or the last")


def _named(build: Builder, layer: Layer, shape: list[int]) -> list[str | None]:
    """Weight and bias of a norm, or null."""
    own = [name for name, there in (("weight", "scale"), ("bias", "center")) if layer.get(there, True)]
    found = layer.weights(*((name, shape) for name in own))
    return [build.tensor(layer.name, name, found[name]) if name in found else None for name in ("weight", "bias")]


def _batch_norm(build: Builder, layer: Layer) -> Value:
    layer.only(renorm=False)

    def norm(x: Value) -> Value:
        x, size = x if x.order else build.to_first(x), [x.shape[-1]]
        own = [name for name, there in (("weight", "scale"), ("bias", "center")) if layer.get(there, True)]
        found = layer.weights(*((name, size) for name in own), ("running_mean", size), ("running_var", size))
        found = {name: array[list(x.order)] if x.order else array for name, array in found.items()}
        names = {name: build.tensor(layer.name, name, found[name], name.startswith("running")) for name in found}
        read = [names.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
        return build.same(x, "batch_norm", *read, eps=layer.number("epsilon", 1e-3))

    return _over_channels(build, layer, norm)


def _layer_norm(build: Builder, layer: Layer) -> Value:
    layer.only(rms_scaling=False)
    x, axes = build.to_last(layer.x), _axes(layer)
    if axes != list(range(axes[0], len(x.shape))):
        raise ValueError(f"found axis {layer.get('axis')!r}, expected the last ones")
    shape = list(x.shape[axes[0] :])
    names = _named(build, layer, shape)
    return build.same(x, "layer_norm", *names, shape=shape, eps=layer.number("epsilon", 1e-3))


def _rms_norm(build: Builder, layer: Layer) -> Value:
    x = build.to_last(layer.x)
    if _axes(layer) != [len(x.shape) - 1]:
        raise ValueError(f"found axis {layer.get('axis')!r}, expected the last one")
    found = layer.weights(("weight", [x.shape[-1]]))
    weight = build.tensor(layer.name, "weight", found["weight"])
    return build.same(x, "rms_norm", weight, shape=[x.shape[-1]], eps=layer.number("epsilon", 1e-6))


def _group_norm(build: Builder, layer: Layer) -> Value:
    def norm(x: Value) -> Value:
        x, groups = build.to_first(x), layer.get("groups", 32)
        groups = x.shape[-1] if groups == -1 else groups
        if type(groups) is not int or groups < 1 or x.shape[-1] % groups:
            raise ValueError(f"found {groups} groups of {x.shape[-1]} channels")
        names = _named(build, layer, [x.shape[-1]])
        return build.same(x, "group_norm", *names, groups=groups, eps=layer.number("epsilon", 1e-3))

    return _over_channels(build, layer, norm)


def _normalization(build: Builder, layer: Layer) -> Value:
    """(x - mean) / deviation, with numbers of the data or of the configuration: a batch norm without weights."""
    layer.only(invert=False)
    mean, variance = layer.get("mean"), layer.get("variance")
    whole = layer.get("axis", -1) in (None, [])
    size = [] if whole else [layer.x.shape[-1]]
    if mean is None:
        *arrays, count = layer.arrays if len(layer.arrays) == 3 else (np.zeros(0),) * 3
        if [array.shape for array in arrays] != [tuple(size)] * 2 or count.size != 1:
            raise ValueError(
                f"found arrays of the shapes {[a.shape for a in layer.arrays]}, expected mean and variance"
            )
        mean, variance = arrays
        build.left_out += count.size  # of the samples that it has seen
    told = [np.asarray(one, np.float64) for one in (mean, variance)]
    if any(one.size not in (1, *size) or not np.isfinite(one).all() for one in told):
        raise ValueError(
            f"found mean {str(mean)[:40]} and variance {str(variance)[:40]}, expected one number or {size}"
        )
    if not (told[1] > LEAST_DEVIATION**2).all():
        raise ValueError(f"found the variance {told[1].min():g}, expected more than {LEAST_DEVIATION**2:g}")
    if whole:
        build.left_out += 2 * (len(layer.arrays) == 3)
        x = build.same(layer.x, "add_number", value=-float(told[0].reshape(-1)[0]))
        return build.same(x, "div_number", value=float(np.sqrt(told[1]).reshape(-1)[0]))

    def norm(x: Value) -> Value:
        x = x if x.order else build.to_first(x)
        add = build.tensor if layer.arrays else build.own
        every = [np.broadcast_to(one.reshape(-1), size)[list(x.order) if x.order else slice(None)] for one in told]
        names = [
            add(layer.name, name, one, True) for name, one in zip(("running_mean", "running_var"), every, strict=True)
        ]
        return build.same(x, "batch_norm", None, None, *names, eps=0.0)

    if _axes(layer) != [len(layer.x.shape) - 1]:
        raise ValueError(f"found axis {layer.get('axis')!r}, expected the last one, or null")
    return norm(layer.x)


KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "Normalization": _normalization,
}
