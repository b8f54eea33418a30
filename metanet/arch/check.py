"""The last gate of a symmetry: sampled permutations on a real net, in float64, with random norm statistics."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from metanet.arch.precision import Double
from metanet.arch.template import Template


class UnsoundSymmetry(ValueError):  # noqa: N818 (the name says what the user meets)
    """A permutation of the template's symmetry changes the net's function; names the tensors that it acts on."""


def check_symmetry(
    template: Template,
    module: nn.Module,
    *example_inputs: Any,
    samples: int = 3,
    tolerance: float = 1e-10,
    **named_inputs: Any,
) -> float:
    """Compares the net with `samples` permuted ones; the largest error, relative to the largest output.

    Biases and norm entries get random values first: a fresh net's zeros and ones would hide a wrong permutation.
    The module itself is not changed. Cost: samples + 1 forward passes in float64,
    in which the net's own casts to lower precision count for nothing.

    Raises:
        UnsoundSymmetry: an error above `tolerance`.
        ValueError: the net's outputs are not finite.
    """
    generator = torch.Generator().manual_seed(0)
    net = copied(module).double().eval()
    state = net.state_dict() | _random_vectors(template, net.state_dict(), generator)
    state = {name: value for name, value in state.items() if name not in template.tied}
    inputs = tree_map(lambda one: _random_like(one, generator), (example_inputs, named_inputs))
    outputs = _outputs(net, state, inputs)
    size = max(one.abs().max().item() for one in outputs)
    if not all(one.isfinite().all() for one in outputs):
        raise ValueError(f"{type(module).__name__}: the outputs are not finite, so no symmetry can be checked on it")

    def error(only: list[int] | None = None) -> float:
        permuted = _outputs(net, template.symmetry.sample(generator, only=only)(state), inputs)
        return max((a - b).abs().max().item() for a, b in zip(outputs, permuted, strict=True)) / max(size, 1e-300)

    worst = max((error() for _ in range(samples)), default=0.0)
    if not worst <= tolerance:
        wrong = [factor for factor in template.symmetry.permutations if not error([factor]) <= tolerance]
        acts = [f"{name} (axis {axis})" for factor in wrong for name, axis in template.symmetry.tensors(factor)]
        raise UnsoundSymmetry(
            f"{type(module).__name__}: a permutation that should keep the function moves it by {worst:.1e} of its size "
            f"(allowed: {tolerance:.0e}). It permutes {', '.join(acts) or 'several factors at once'}. "
            "The rule of an operator that reads these tensors is wrong (metanet/arch/rules), or the template is of "
            "another architecture."
        )
    return worst


def copied(module: nn.Module) -> nn.Module:
    """A copy; tensors that the module has computed and holds (the old weight norm, pruning) are computed again."""
    held = [one for child in module.modules() for one in vars(child).values() if isinstance(one, Tensor)]
    return copy.deepcopy(module, {id(one): one.detach().clone() for one in held if not one.is_leaf})


def _outputs(net: nn.Module, state: dict[str, Tensor], inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> list[Tensor]:
    copies = {name: value.clone() for name, value in state.items()}  # a net may change its buffers
    with torch.no_grad(), Double():
        leaves = tree_leaves(functional_call(net, copies, *inputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _random_like(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)


def _random_vectors(template: Template, state: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Values in [0.5, 1.5] for every 1-D entry of the template (a variance must be positive)."""
    names = [name for space in template.spaces for name in space.vectors.values()]
    return {
        name: (torch.rand(state[name].shape, generator=generator, dtype=torch.float64) + 0.5).to(state[name].device)
        for name in names
    }
