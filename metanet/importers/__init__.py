"""Importers: one foreign format of zoos or checkpoints per module of this folder, found by being here.

A format's docstring says what its files are, whose they are, and how their layout becomes torch's. It defines

    read(folder, parser, **options) -> Source    (metanet.importers.intake.source)

`folder` guards every path and counts every byte that is read, `parser` reads containers in a process of its own; a
format opens no file in any other way. Its keyword-only arguments are the options it takes on the command line. `Source`
names the columns of metadata and streams nets in torch's layout, one snapshot at a time, or the reason why one is left
out. Everything else (checks against the module, shards, manifest, rejection report) is done by intake/writing.py.
A tiny source of the format belongs into EXAMPLES of tests/importers/examples.py, which puts it under the shared tests.
"""

import importlib
import inspect
import pkgutil
from difflib import get_close_matches
from types import ModuleType


def formats() -> list[str]:
    """The names of all formats."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def find(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        ValueError: no such format.
    """
    if name not in formats():
        close = get_close_matches(name, formats(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"format={name}: expected one of {', '.join(formats())}{hint}")
    return importlib.import_module(f"{__name__}.{name}")


def options(format: ModuleType) -> list[str]:
    """The names of the options that a format takes."""
    parameters = inspect.signature(format.read).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
