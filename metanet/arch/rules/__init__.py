"""Operator rules, one family per file, found by being in this folder.

A file defines `RULES`: a mapping from an ATen operator ("aten.conv2d", all overloads) to a function of a `Call` that
returns the output's `Value`; the in-place form ("aten.relu_") uses the same rule. A rule raises `call.unsupported(why)`
for every use that it does not know. `EXAMPLES` maps the same names to a function that returns a small module that calls
the operator between two layers, and an input for it: tests/test_every_rule.py checks soundness on it.
"""

import importlib
import pkgutil
from collections.abc import Callable

from metanet.arch.record import Call, Value

Rule = Callable[[Call], Value]

MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
BY_OPERATOR: dict[str, Rule] = {operator: rule for module in MODULES for operator, rule in module.RULES.items()}
