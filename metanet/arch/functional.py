"""Writes into parts of a tensor (`y[:, 1:] = x`), as functions: the rules see values, never memory.

What torch.vmap maps over one sample is written over all samples on the way.
"""

from __future__ import annotations

import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from metanet.arch import rules


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program, without operators that write into memory if a rule could not read them as functions.

    An in-place operator on a tensor of its own (`relu_`) stays: it is its ordinary form, whose result replaces what
    later readers see. One on a view, or on a tensor that a view shows too, would reach readers of the other.
    """
    return program.run_decompositions({}) if writes_into_views(program.graph) or _maps(program.graph) else program


def _maps(graph: Graph) -> bool:
    """Whether torch.vmap has left its marks."""
    return any(getattr(node.target, "__module__", "") == "torch._functorch.predispatch" for node in graph.nodes)


def writes_into_views(graph: Graph) -> bool:
    """Whether some operator writes into memory that other values share, or has no rule in its ordinary form."""
    return any(_is_mutable(node) and not _is_plain(node) for node in graph.nodes)


def _is_plain(node: Node) -> bool:
    target = node.args[0]
    name = ".".join(str(node.target).split(".")[:2])
    if rules.rule_of(name) is None or not isinstance(target, Node):
        return False
    return not _is_view(target) and not any(_is_view(user) for user in target.users if user is not node)


def _is_mutable(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_view(node: Node) -> bool:
    """Whether the node may show memory of what it reads."""
    if node.target is operator.getitem:
        return _is_view(node.args[0])  # type: ignore[arg-type]
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    aliases = [result.alias_info for result in node.target._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)
