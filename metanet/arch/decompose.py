"""What an operator without a rule consists of: the smaller operators that torch itself decomposes it into."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch.func import functionalize
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from metanet.arch.functional import writes_into_views


def decomposed(node: Node) -> fx.GraphModule | None:
    """A graph of smaller operators that computes the node from its input nodes, in order; None if torch knows none."""
    target, tensors = node.target, node.all_input_nodes
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return None
    examples = [_example(one) for one in tensors]
    if any(example is None for example in examples):
        return None

    def function(*given: Tensor) -> Any:
        known = dict(zip(tensors, given, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), lambda one: known[one])
        return target(*args, **kwargs)

    table = {target: decomposition_table[target]} if target in decomposition_table else {}
    try:
        with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
            # without oneDNN, whose kernel for a recurrent layer would be one of the parts
            module = make_fx(function, decomposition_table=table, tracing_mode="fake")(*examples)
        if writes_into_views(module.graph):  # of the parts: torch cannot do it of the operator itself
            module = make_fx(functionalize(module), tracing_mode="fake")(*examples)
    except Exception:  # whatever stops torch, the operator is then one that has no rule
        return None
    _leave_out_unread(module.graph, node)
    news = _is_news(module.graph.nodes, target) and not writes_into_views(module.graph)
    return module if news else None


def _leave_out_unread(graph: fx.Graph, node: Node) -> None:
    """Drops the results that no reader of the node takes, and what only they need: which could tie channels."""
    output = next(reversed(graph.nodes))
    if isinstance(output.args[0], list | tuple) and all(user.target is operator.getitem for user in node.users):
        read = [user.args[1] for user in node.users if user.users]
        output.args = (type(output.args[0])(one if k in read else None for k, one in enumerate(output.args[0])),)
        graph.eliminate_dead_code()


def _example(node: Node) -> Tensor | None:
    """A tensor of the shape and type that the node has."""
    value = node.meta.get("val")
    return torch.zeros(tuple(value.shape), dtype=value.dtype) if isinstance(value, Tensor) else None


def _is_news(nodes: Sequence[Node] | Any, target: Any) -> bool:
    calls = [inner.target for inner in nodes if inner.op == "call_function"]
    return target not in calls and all(isinstance(one, torch._ops.OpOverload) or callable(one) for one in calls)
