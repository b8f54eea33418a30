"""Layers: for each class of Keras a function of the builder and the layer, which gives the layer's value or values.

Every module here has such functions in KINDS, by the names of the classes.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import replace

from metanet.importers.keras_files.building import Builder, Layer, Value

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
KINDS: dict[str, Callable[[Builder, Layer], Value | tuple[Value, ...]]] = {
    name: function for module in _MODULES for name, function in module.KINDS.items()
}


def build(builder: Builder, layer: Layer) -> Value | tuple[Value, ...]:
    """What a layer gives, which may have its channels first, and another layer as its activation.

    Raises:
        RefusedError, ValueError: see the kinds.
    """
    activation = layer.get("activation")
    if isinstance(activation, Mapping) and activation.get("class_name") in KINDS:
        y = build(builder, replace(layer, config={**layer.config, "activation": None}))
        return y if isinstance(y, tuple) else build(builder, layer.part("activation", y))
    if layer.get("data_format") != "channels_first":
        return KINDS[layer.kind](builder, layer)
    inputs = tuple(builder.from_channels_first(one) if isinstance(one, Value) else one for one in layer.operands)
    config = {**layer.config, "data_format": "channels_last"}
    y = KINDS[layer.kind](builder, replace(layer, operands=inputs, config=config))
    return tuple(map(builder.to_channels_first, y)) if isinstance(y, tuple) else builder.to_channels_first(y)
