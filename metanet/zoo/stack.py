"""Many nets of one architecture run as one program, [nets, ...] in front of every tensor.

An ordinary module is traced with torch.fx, and each layer is run by the rule that stands for it, so a new family
of nets needs new rules only for layers that none had before. No rule reduces across nets: a net's values are its own.

The rules, and how values lie in memory, are in stack_rules.py.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, fx, nn

from metanet.zoo.nets import ACTIVATIONS
from metanet.zoo.stack_rules import FUNCTION_RULES, LAYER_RULES, SAME_MEMORY, Call, Tensors


class Stack:
    """`module` for `len(activations)` nets at once; the module's own weights, activation and dropout do not matter.

    Args:
        activations: each net's, a name of ACTIVATIONS; equal ones side by side cost least.
        dropout: each net's probability, in [0, 1).

    Raises:
        ValueError: the module has a layer for which there is no rule; the message names it.
    """

    def __init__(self, module: nn.Module, activations: Sequence[str], dropout: Float[Tensor, " nets"]):
        self.nets = len(activations)
        self.dropout = dropout if dropout.any() else None
        self.activations = [(name, len(list(run))) for name, run in groupby(activations)]
        self._steps = [
            (node, self._rule(module, node), _is_spare(module, node)) for node in _Tracer().trace(module).nodes
        ]

    def __call__(
        self,
        tensors: Tensors,
        inputs: Float[Tensor, "nets ..."],
        keys: Int64[Tensor, " nets"] | None = None,
    ) -> Float[Tensor, "nets outputs batch"]:
        """What each net makes of its images [nets, batch, channels, height, width] or features [nets, features, batch].

        With `keys` the nets train: these draw the dropout masks, and running statistics move.
        """
        values: dict[fx.Node, Any] = {}
        for node, rule, spare in self._steps:
            if node.op == "output":
                break
            read = [values[argument] for argument in node.args if isinstance(argument, fx.Node)] or [inputs]
            values[node] = rule(Call(self, str(node.target), read, tensors, keys, spare))
        return values[node.all_input_nodes[0]]

    def activate(self, x: Tensor, spare: bool) -> Tensor:
        """Each net's own activation, on runs of nets with the same one; overwrites x if that is spare."""
        if len(self.activations) == 1:
            return _activated(self.activations[0][0], x, spare)
        dim = 1 if x.dim() == 4 else 0
        sizes = [count * (x.shape[dim] // self.nets) for _, count in self.activations]
        pieces: tuple[Tensor, ...] = _Split.apply(x, sizes, dim)  # type: ignore[assignment]
        activated = [_activated(name, piece, True) for (name, _), piece in zip(self.activations, pieces, strict=True)]
        return _Cat.apply(sizes, dim, *activated)  # type: ignore[return-value]

    @staticmethod
    def _rule(module: nn.Module, node: fx.Node) -> Callable[[Call], Tensor]:
        if node.op in ("placeholder", "output"):
            return lambda call: call.x
        if node.op == "call_function" and node.target in FUNCTION_RULES:
            return FUNCTION_RULES[node.target]
        found = f"{node.op} {node.target!r} at {node.name!r}"
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if type(layer) in LAYER_RULES:
                rule = LAYER_RULES[type(layer)]
                return lambda call: rule(layer, call)
            found = f"layer {node.target!r}, {type(layer).__name__},"
        raise ValueError(
            f"{type(module).__name__}: {found} cannot be stacked: no rule. "
            f"Rules are in {__name__}_rules: {', '.join(kind.__name__ for kind in LAYER_RULES)}"
        )


# half the memory traffic; not elu, whose slope is lost where it is nearly -1
_OVERWRITING: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "leaky_relu": F.leaky_relu_,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}


def _activated(name: str, x: Tensor, spare: bool) -> Tensor:
    if spare and name in _OVERWRITING and not x._is_view():  # autograd copies what a view of is overwritten
        return _OVERWRITING[name](x)
    return ACTIVATIONS[name]()(x)


def _is_spare(module: nn.Module, node: fx.Node) -> bool:
    """Whether a step may overwrite its first input: a layer has made it, and nothing else reads that memory."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        if len(node.users) > 1 or node.op == "placeholder":
            return False
        maker = type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
        if maker not in SAME_MEMORY:
            return True
    return False


class _Split(torch.autograd.Function):
    """torch.split into dense copies: exp and tanh are 3-10 times slower on strided values than on copied ones."""

    @staticmethod
    def forward(ctx, x: Tensor, sizes: list[int], dim: int) -> tuple[Tensor, ...]:
        ctx.dim = dim
        return tuple(piece.clone() for piece in x.split(sizes, dim))

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        return torch.cat(gradients, ctx.dim), None, None


class _Cat(torch.autograd.Function):
    """torch.cat whose gradients are dense copies."""

    @staticmethod
    def forward(ctx, sizes: list[int], dim: int, *pieces: Tensor) -> Tensor:
        ctx.sizes, ctx.dim = sizes, dim
        return torch.cat(pieces, dim)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, None, *(piece.clone() for piece in gradient.split(ctx.sizes, ctx.dim))


class _Tracer(fx.Tracer):
    """Stops at every layer that has a rule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LAYER_RULES or super().is_leaf_module(m, module_qualified_name)
