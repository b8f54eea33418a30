"""Sizes that constants determine, as the number of edges that a mask leaves of a fixed graph: torch exports symbols."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves, tree_map


def with_numbers(program: ExportedProgram) -> ExportedProgram:
    """The program, whose sizes are numbers: those of a run on the example inputs, where torch left symbols.

    A size that depends on an input is refused by the rule of the operator that makes it, not here.
    """
    if any(_symbolic(node.meta.get("val")) for node in program.graph.nodes):
        _Sizes(program.graph_module).run(*_inputs(program))
    return program


class _Sizes(Interpreter):
    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if _symbolic(n.meta.get("val")):
            n.meta["val"] = tree_map(_seen, result)
        return result


def _seen(one: Any) -> Any:
    return torch.empty_like(one, device="meta") if isinstance(one, Tensor) else one


def _symbolic(value: Any) -> bool:
    symbols = torch.SymInt | torch.SymFloat | torch.SymBool
    sizes = [size for one in tree_leaves(value) for size in (one.shape if isinstance(one, Tensor) else [one])]
    return any(isinstance(size, symbols) for size in sizes)


def _inputs(program: ExportedProgram) -> list[Any]:
    """What the graph's placeholders stand for."""
    given = iter(tree_leaves(program.example_inputs))
    known = {**program.state_dict, **program.constants}
    return [
        next(given) if spec.kind is InputKind.USER_INPUT else known[spec.target].detach().clone()  # type: ignore[index]
        for spec in program.graph_signature.input_specs
    ]
