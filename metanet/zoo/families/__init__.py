"""The families of nets that a zoo trains: each is one module of this folder, found by being here.

Its docstring says what its nets are and names the paper. It defines

    FIELDS                            {name: Field}: what tells its architectures apart, in the order of their names
    layers(arch, activation, dropout) the net's layers in order, as pairs (name, module); `activation` makes one
    expects(arch)                     in words, what sizes that are allowed one by one must keep to; None if they do

An architecture is a flat dict that fits into JSON: "family", "image_shape" [channels, height, width], "num_classes" and
the fields of the family. Its net takes images [batch, channels, height, width] and gives logits [batch, num_classes].
"""

import importlib
import pkgutil
from types import ModuleType

FAMILIES: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
}
