"""Many nets of one architecture run as one program, [nets, ...] in front of every tensor.

An ordinary module is traced with torch.fx, and each layer is run by the rule that stands for it here, so a new family
of nets needs new rules only for layers that none had before. No rule reduces across nets: a net's values are its own.

Layouts: values with pixels are [batch, nets * channels, height, width], so that a convolution is one grouped
convolution and a batch norm is the ordinary one; values without are [nets, features, batch], so that a dense layer is
one batched product and a batch norm reduces over contiguous numbers.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, fx, nn

from metanet import seeding
from metanet.zoo import nets as families

Tensors = Mapping[str, Tensor]  # by state_dict name, each [nets, *shape]


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
        self.dropout = dropout
        self.drops = bool(dropout.any())
        self.activations = [
            (families.ACTIVATIONS[name](), len(list(run))) for name, run in groupby(activations)
        ]  # runs of rows
        graph = fx.symbolic_trace(module).graph
        self.layers = [(node, self._rule(module, node)) for node in graph.nodes]

    def __call__(
        self,
        tensors: Tensors,
        images: Float[Tensor, "nets batch channels height width"],
        keys: Int64[Tensor, " nets"] | None = None,
    ) -> Float[Tensor, "nets classes batch"]:
        """Logits. With `keys` the nets train: these draw the dropout masks, and running statistics move."""
        values: dict[fx.Node, Any] = {}
        for node, rule in self.layers:
            if node.op == "placeholder":
                values[node] = images
            elif node.op == "output":
                return values[node.args[0]]  # type: ignore[index]
            else:
                inputs = [values[argument] for argument in node.args if isinstance(argument, fx.Node)]
                values[node] = rule(inputs, tensors, keys)
            for argument in node.all_input_nodes:  # frees a value after its last use
                if next(reversed(argument.users)) is node:
                    del values[argument]
        raise AssertionError("a traced module ends with its output")

    def _rule(self, module: nn.Module, node: fx.Node) -> Callable[[list[Tensor], Tensors, Tensor | None], Tensor]:
        """What runs `node`: (inputs, tensors, keys) -> value."""
        if node.op in ("placeholder", "output"):
            return lambda inputs, tensors, keys: inputs[0]
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            for kind, rule in _LAYER_RULES.items():
                if isinstance(layer, kind):
                    return lambda inputs, tensors, keys: rule(self, layer, str(node.target), inputs[0], tensors, keys)
            found = f"layer {node.target!r}, {type(layer).__name__}"
        elif node.op == "call_function" and node.target in _FUNCTION_RULES:
            rule_of_function = _FUNCTION_RULES[node.target]
            return lambda inputs, tensors, keys: rule_of_function(self, *inputs)
        else:
            found = f"{node.op} {node.target!r} at {node.name!r}"
        raise ValueError(
            f"{type(module).__name__}: {found} cannot be stacked: no rule. "
            f"Rules are in {__name__}: {', '.join(kind.__name__ for kind in _LAYER_RULES)}"
        )

    def activate(self, x: Tensor) -> Tensor:
        """Each net's own activation, on runs of rows."""
        if len(self.activations) == 1:
            return self.activations[0][0](x)
        dim = 1 if x.dim() == 4 else 0
        pieces = x.split([count * (x.shape[dim] // self.nets) for _, count in self.activations], dim)
        return torch.cat([act(piece) for (act, _), piece in zip(self.activations, pieces, strict=True)], dim)


def dropout_mask(
    keys: Int64[Tensor, " nets"], layer: str, probability: Float[Tensor, " nets"], batch: int, *shape: int
) -> Float[Tensor, "nets batch ..."]:
    """What each net multiplies a layer's values [batch, *shape] with: 0, or 1 / (1 - probability)."""
    column = probability.view(-1, *[1] * (1 + len(shape)))
    return (seeding.uniform(seeding.fold(keys, layer), batch, *shape) >= column) / (1 - column)


def _pixels(stack: Stack, x: Tensor) -> Tensor:
    """Images [nets, batch, c, h, w] in the layout of values with pixels; other values as they are."""
    return x.transpose(0, 1).flatten(1, 2) if x.dim() == 5 else x


def _conv(stack: Stack, layer: nn.Conv2d, name: str, x: Tensor, tensors: Tensors, keys: Tensor | None) -> Tensor:
    bias = tensors[f"{name}.bias"].flatten() if layer.bias is not None else None
    weight = tensors[f"{name}.weight"].flatten(0, 1)  # [nets * out, in, *taps]
    x, padding = _pixels(stack, x), layer.padding
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, stack.nets * layer.groups)


def _linear(stack: Stack, layer: nn.Linear, name: str, x: Tensor, tensors: Tensors, keys: Tensor | None) -> Tensor:
    assert x.dim() == 3, "a dense layer follows a flatten"
    weight = tensors[f"{name}.weight"]  # [nets, out, in]
    if layer.bias is None:
        return torch.bmm(weight, x)
    return torch.baddbmm(tensors[f"{name}.bias"][:, :, None], weight, x)


def _batch_norm(
    stack: Stack,
    layer: nn.BatchNorm1d | nn.BatchNorm2d,
    name: str,
    x: Tensor,
    tensors: Tensors,
    keys: Tensor | None,
) -> Tensor:
    mean, variance = (tensors[f"{name}.running_{kind}"].view(-1) for kind in ("mean", "var"))  # moved in place
    weight, bias = (tensors[f"{name}.{kind}"].flatten() if layer.affine else None for kind in ("weight", "bias"))
    y = x if x.dim() == 4 else x.reshape(1, -1, x.shape[2])
    y = F.batch_norm(y, mean, variance, weight, bias, keys is not None, layer.momentum or 0.0, layer.eps)
    return y.view_as(x)


def _dropout(stack: Stack, layer: nn.Dropout, name: str, x: Tensor, tensors: Tensors, keys: Tensor | None) -> Tensor:
    if keys is None or not stack.drops:
        return x
    if x.dim() == 4:
        mask = dropout_mask(keys, name, stack.dropout, len(x), x.shape[1] // stack.nets, *x.shape[2:])
        return x * _pixels(stack, mask)
    return x * dropout_mask(keys, name, stack.dropout, x.shape[2], x.shape[1]).mT


def _flatten(stack: Stack, x: Tensor) -> Tensor:
    if x.dim() == 5:
        return x.flatten(2).mT
    return x.view(len(x), stack.nets, -1).permute(1, 2, 0) if x.dim() == 4 else x


_LAYER_RULES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Dropout: _dropout,
    nn.MaxPool2d: lambda stack, layer, name, x, tensors, keys: layer(_pixels(stack, x)),
    nn.Flatten: lambda stack, layer, name, x, tensors, keys: _flatten(stack, x),
    **{kind: lambda stack, layer, name, x, tensors, keys: stack.activate(x) for kind in families.ACTIVATIONS.values()},
}
_FUNCTION_RULES: dict[Any, Callable[..., Tensor]] = {
    operator.add: lambda stack, x, y: x + y,
    torch.flatten: _flatten,
}
