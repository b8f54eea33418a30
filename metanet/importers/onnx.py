"""ONNX: a folder of .onnx files, or a single one; weights and architecture are in the files themselves.

A net becomes one of the family `program` (metanet/zoo/families/program.py), which needs no library to be opened. Files
with equal graphs, apart from their weights, share an architecture. Initialisers and Constants of floats keep their
names and their layout as tensors of the net; single numbers that an operator needs as such (a bound, an exponent) and
what shapes decide belong to the architecture. `source.file` counts all floats of the file and says where they are.

Read are opset 7 and later, float16, bfloat16, float32 and float64 inside the file or in files beside it, one input
[samples, ...], and the operators in metanet/importers/onnx_files/rules. Every net is run beside onnx's reference
evaluator on random input, and left out if it differs. Needs the package onnx: pip install metanet[onnx].

A table beside the files says how they were trained, as in format `state_dicts`.
"""

from __future__ import annotations

import importlib.util

from metanet.importers.intake import described
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Source


def read(folder: Folder, parser: Parser, *, labels: str | None = None) -> Source:
    """Every file of the folder, with the labels that the table has of it."""
    if importlib.util.find_spec("onnx") is None:
        raise ValueError("format=onnx needs the package onnx, which is not installed: pip install metanet[onnx]")
    return described.source(folder, parser, folder.names("**/*.onnx"), "onnx", labels)
