"""Layers: for each class of Keras a function of the builder and the layer, which gives the layer's value.

Every module here has such functions in KINDS, by the names of the classes.
"""

import importlib
import pkgutil
from collections.abc import Callable

from metanet.importers.keras_files.building import Builder, Layer, Value

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    name: function for module in _MODULES for name, function in module.KINDS.items()
}
