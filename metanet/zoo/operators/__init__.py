"""Operators: what the steps of a program (families/program.py) may do. A closed table, whose names files choose from.

Every public function of the modules here is one. Its positional arguments are the step's inputs, tensors or None where
the annotation says so; its keyword-only arguments are the step's attributes, plain JSON of the annotated kind. All
compute as in eval mode, samples lie on axis 0 unless a step moves them, and all trace (tests/zoo/test_programs.py).
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Of one value, without attributes.
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in ("relu", "sigmoid", "tanh", "selu", "sin", "cos", "exp", "expm1", "log")},
    **{name: getattr(torch, name) for name in ("log1p", "erf", "atan", "asinh", "sinh", "cosh", "abs", "neg", "sign")},
    **{name: getattr(torch, name) for name in ("square", "sqrt", "rsqrt", "reciprocal")},
    **{name: getattr(F, name) for name in ("relu6", "silu", "mish", "hardswish", "hardsigmoid", "softsign")},
    "log_sigmoid": F.logsigmoid,
}
_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
OPERATORS: dict[str, Callable[..., Any]] = PLAIN | {
    name: function
    for module in _MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__
}
SEVERAL = ("recurrent",)  # operators whose result only `item` reads
