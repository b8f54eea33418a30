"""Many nets of one architecture run as one program, [nets, ...] in front of every tensor.

An ordinary module is traced with torch.fx, and each layer is run by the rule that stands for it, so a new family
of nets needs new rules only for layers that none had before. No rule reduces across nets: a net's values are its own.

The rules, and how values lie in memory, are in stack_rules.py.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, fx, nn

from metanet.zoo import convolutions
from metanet.zoo.nets import ACTIVATIONS, OWN
from metanet.zoo.stack_functions import Cat, Split
from metanet.zoo.stack_memory import FUSED, Memory, activated
from metanet.zoo.stack_rules import FRESH_GRADIENT, FUNCTION_RULES, LAYER_RULES, SAME_MEMORY, Call, Tensors


class Stack:
    """`module` for `len(activations)` nets at once; the module's own weights and dropout do not matter.

    Args:
        activations: each net's, a name of ACTIVATIONS; equal ones side by side cost least. OWN for all: the module's.
        dropout: each net's probability, in [0, 1).
        convolution: how convolutions are run, a name of convolutions.VARIANTS.

    Raises:
        ValueError: the module has a layer for which there is no rule, which the message names; or a way to convolve
            that is not there.
    """

    def __init__(
        self,
        module: nn.Module,
        activations: Sequence[str],
        dropout: Float[Tensor, " nets"],
        convolution: str = "grouped",
    ):
        self.nets = len(activations)
        convolutions.check(convolution, dropout.device)
        self.convolve = convolutions.VARIANTS[convolution]
        self.dropout = dropout if dropout.any() else None
        self.activations = [(name, len(list(run))) for name, run in groupby(activations)]
        nodes = list(_Tracer().trace(module).nodes)
        fused = {node: self._fused(module, node) for node in nodes}
        self._steps = [
            (
                node,
                self._rule(module, node),
                Memory(
                    spare=_is_spare(module, node),
                    own_gradient=_has_own_gradient(module, node),
                    then=fused[node],
                    done=any(fused[before] for before in node.all_input_nodes),
                ),
            )
            for node in nodes
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
        for node, rule, memory in self._steps:
            if node.op == "output":
                break
            read = [values[argument] for argument in node.args if isinstance(argument, fx.Node)] or [inputs]
            values[node] = rule(Call(self, str(node.target), read, tensors, keys, memory))
        return values[node.all_input_nodes[0]]

    def activate(self, layer: nn.Module, x: Tensor, memory: Memory) -> Tensor:
        """Each net's own activation, on runs of nets with the same one."""
        if len(self.activations) == 1:
            return activated(self._name(layer), x, memory)
        dim = 1 if x.dim() == 4 else 0
        sizes = [count * (x.shape[dim] // self.nets) for _, count in self.activations]
        pieces: tuple[Tensor, ...] = Split.apply(x, sizes, dim)  # type: ignore[assignment]
        values = [activated(name, piece, _OWN) for (name, _), piece in zip(self.activations, pieces, strict=True)]
        return Cat.apply(sizes, dim, *values)  # type: ignore[return-value]

    def _fused(self, module: nn.Module, node: fx.Node) -> str | None:
        """The activation that a convolution does too: if it alone reads the convolution, and all nets have the same."""
        if node.op != "call_module" or len(node.users) > 1 or len(self.activations) > 1:
            return None
        (reader,) = node.users
        layers = [module.get_submodule(str(each.target)) for each in (node, reader) if each.op == "call_module"]
        if (
            len(layers) < 2
            or type(layers[0]) not in (nn.Conv1d, nn.Conv2d)
            or type(layers[1]) not in ACTIVATIONS.values()
        ):
            return None
        name = self._name(layers[1])
        return name if name in FUSED else None

    def _name(self, layer: nn.Module) -> str:
        """Of the activation that all nets have in the place of a layer."""
        name = self.activations[0][0]
        return next(own for own, kind in ACTIVATIONS.items() if type(layer) is kind) if name == OWN else name

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


def _has_own_gradient(module: nn.Module, node: fx.Node) -> bool:
    """Whether a step may overwrite the gradient of what it gives: one layer reads that, and makes its gradient anew."""
    while len(node.users) == 1:
        (node,) = node.users
        reader = type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
        if reader not in SAME_MEMORY:
            return reader in FRESH_GRADIENT
    return False


_OWN = Memory(spare=True, own_gradient=True)


class _Tracer(fx.Tracer):
    """Stops at every layer that has a rule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LAYER_RULES or super().is_leaf_module(m, module_qualified_name)
