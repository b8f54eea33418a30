"""Dense layers, embeddings and what a net reads."""

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


def _embedding(build: Builder, layer: Layer) -> Value:
    layer.only(mask_zero=False, lora_rank=None, quantization_config=None)
    (rows,), (width,) = layer.sizes("input_dim", 1), layer.sizes("output_dim", 1)
    found = layer.weights(("embeddings", [rows, width]))
    weight = build.tensor(layer.name, "weight", found["embeddings"])
    if layer.x.name == ".input":
        build.input_is_words()
    return Value(build.step("embedding", [layer.x.name, weight]), (*layer.x.shape, width))


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
        raise ValueError(
            f"found the input shape {shape}, expected [null, sizes, ...] with no other null. Save the model with an "
            f"input of fixed sizes: keras.Sequential([keras.Input((64, 64, 3)), model]).save(...)"
        )
    layer.only(sparse=False, ragged=False)
    return build.input(shape[1:], str(layer.get("dtype")).startswith(("int", "uint")))


KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    "InputLayer": _input,
    "Dense": _dense,
    "Embedding": _embedding,
    "PReLU": _prelu,
}
