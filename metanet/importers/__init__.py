"""Importers: one foreign format of zoos or checkpoints per module of this folder, found by being here.

A format's docstring says what its files are, whose they are, and how their layout becomes torch's. It defines

    read(folder, parser, **options) -> Source    (metanet.importers.intake.source)

`folder` guards every path and counts every byte that is read, `parser` reads containers in a process of its own; a
format opens no file in any other way. Its keyword-only arguments are the options it takes on the command line. `Source`
names the columns of metadata and streams nets in torch's layout, one snapshot at a time, or the reason why one is left
out. Everything else (checks against the module, shards, manifest, rejection report) is done by intake/writing.py.
Tensors that cost time to read are a function, which is called only where they are needed. A net whose numbers lie side
by side comes as `Numbers`, and nets that lie stacked in the source as a `Stack`, many times as fast. A tiny source of
the format belongs into EXAMPLES of tests/importers/examples.py, which puts it under the shared tests.
"""

import sys
from types import ModuleType

from metanet import formats as by_name


def formats() -> list[str]:
    """The names of all formats."""
    return by_name.names(sys.modules[__name__])


def find(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        ValueError: no such format.
    """
    return by_name.find(sys.modules[__name__], name)
