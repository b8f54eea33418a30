"""The families of nets that a zoo trains: each is one module of this folder, found by being here.

Its docstring says what its nets are and names the paper. It defines

    FIELDS                            {name: Field}: what tells its architectures apart, in the order of their names
    layers(arch, activation, dropout) the net's layers in order, as pairs (name, module); `activation` makes one
    expects(arch)                     in words, what sizes that are allowed one by one must keep to; None if they do

and, where it needs them,

    TASK                              what its nets are trained to do, a name of tasks.TASKS; "classification" otherwise
    OWN_ACTIVATION                    True where its nets bring their activation along, and `activation` is ignored
    LAYER                             the net's only layer, where that is a module of somebody else, with its own names
    STACKS                            how many times more nets than usual make a group, where one is little work
    input_shape(arch)                 of what its nets read, where that is no image and TASK does not say it
    vocabulary(arch)                  how many words its nets know, where they read words by their numbers; else 0
    settle(arch)                      the one name of an architecture, where several draws of a spec mean the same net

An architecture is a flat dict that fits into JSON: "family", "image_shape" [channels, height, width], "num_classes" and
the fields of the family. Its net takes images [batch, channels, height, width] and gives logits [batch, num_classes],
or takes and gives what its task says.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

FAMILIES: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
}


def task(arch: Mapping[str, Any]) -> str:
    """What nets of an architecture are trained to do."""
    return getattr(FAMILIES[arch["family"]], "TASK", "classification")


def settled(arch: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture under its one name."""
    settle = getattr(FAMILIES[arch["family"]], "settle", dict)
    return dict(settle(arch))
