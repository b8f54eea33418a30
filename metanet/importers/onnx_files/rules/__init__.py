"""Rules: what a node becomes, {operator: rule} in the RULES of every module here.

A rule is a function of a `Call` (call.py). It reads inputs and attributes, adds steps, and returns the value of the
node's first output, or a list of values. What it does not know it refuses.
"""

import importlib
import pkgutil
from collections.abc import Callable

from metanet.importers.onnx_files.call import Call, Value

Rule = Callable[[Call], Value | list[Value]]

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
RULES: dict[str, Rule] = {name: rule for module in _MODULES for name, rule in module.RULES.items()}
