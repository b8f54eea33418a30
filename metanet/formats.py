"""Formats that are found by being there: the modules of a folder, by their names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from types import ModuleType
from typing import Any


def names(package: ModuleType) -> list[str]:
    """The names of all formats of a package; its sub-packages are what they share."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)


def find(package: ModuleType, name: str) -> ModuleType:
    """The module of a format.

    Raises:
        ValueError: no such format.
    """
    known = names(package)
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"format={name}: expected one of {', '.join(known)}{hint}")
    return importlib.import_module(f"{package.__name__}.{name}")


def options(function: Callable[..., Any]) -> list[str]:
    """The names of a format's options: the keyword-only arguments of its function."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def check_options(name: str, function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Raises ValueError where a format does not take one of the options `given`."""
    known = options(function)
    for option in given:
        if option not in known:
            raise ValueError(f"format={name} takes no {option}=; it takes {', '.join(known) or 'no options'}")
