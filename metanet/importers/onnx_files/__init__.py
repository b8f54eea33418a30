"""ONNX files -> programs (metanet/zoo/families/program.py) and their tensors. Runs in the child process of the intake.

reading.py     the bytes of a file, and its tensors with every claimed size checked against the bytes that are there
lowering.py    nodes -> steps, in order; what depends on shapes alone is computed
call.py        what a rule sees of a node
rules/         what the nodes of an operator become
check.py       the program against onnx's own evaluator
reference.py   what that evaluator lacks
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from metanet.importers.intake.containers import check_size
from metanet.importers.onnx_files import check, lowering, reading
from metanet.zoo.families import program


def parse(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the net in an .onnx file, and beside them its architecture, as `arch`, and what the file says.

    Raises:
        RefusedError: data outside the file's folder.
        ValueError: damaged, a node that has no rule, or a program that computes something else than onnx's own
            evaluator.
    """
    check_size(path)
    file = reading.read(path)

    def accept(lowered: lowering.Lowering) -> None:
        program.architecture(lowered.program)
        check.independent(lowered)
        check.equal(file, lowered)

    lowered = lowering.lower(file, accept)
    arch = program.architecture(lowered.program)
    return lowered.tensors, {**reading.about(file), "floats": lowered.account(), "arch": arch}
