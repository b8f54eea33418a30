"""Matching: the symmetric copy of one net that lies closest to another, by their weights, activations or loss.

    aligned = metanet.match(template, a, b)(b)        # computes what b computes, channel by channel like a

Source: Ainsworth, Hayase and Srinivasa (2023), "Git Re-Basin", arXiv:2209.04836: its three methods, for every template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor, nn
from torch.func import functional_call

from metanet.arch.assignment import Search, Tables, closest
from metanet.arch.check import copied
from metanet.arch.responses import responses
from metanet.arch.symmetry import StateDict, Symmetry
from metanet.arch.template import Template

Batches = Sequence[tuple[Tensor, Tensor]]  # (inputs, what the loss compares the outputs with)
Loss = Callable[[Tensor, Tensor], Tensor]

_STATISTICS = ("mean", "variance")  # of norms: they follow from weights and data, and their size says nothing


@dataclass(frozen=True)
class Alignment:
    """One element of a symmetry, as a function from a state_dict to the copy that computes the same function."""

    symmetry: Symmetry
    tables: Mapping[int, Tensor]  # factor -> int64 [*key sizes, size]

    def __call__(self, state_dict: StateDict) -> dict[str, Tensor]:
        return self.symmetry.apply(self.tables, state_dict)


def match(template: Template, a: StateDict, b: StateDict, method: str = "weights", **evidence: Any) -> Alignment:
    """The alignment of `b` to `a`, two nets of the template, by "weights", "activations" or "straight_through".

    `evidence` is what `match_activations` and `match_straight_through` need: the module, and data to run it on.

    Raises:
        ValueError: an unknown method, or a state_dict that is not of the template.
    """
    if method not in METHODS:
        raise ValueError(f"found method {method!r}, expected one of {', '.join(METHODS)}")
    return METHODS[method](template, a, b, **evidence)


def match_weights(template: Template, a: StateDict, b: StateDict) -> Alignment:
    """The copy of `b` whose learned weights are closest to those of `a` (section 3.2); see `closest` for the climb.

    Never farther from `a` than `b` is. Running statistics move along but do not count.

    Raises:
        ValueError: a state_dict that is not of the template.
    """
    a, b = _learned(template, a), _learned(template, b)
    return Alignment(template.symmetry, closest(template.symmetry, a, b))


def distance(template: Template, a: StateDict, b: StateDict) -> float:
    """The Euclidean distance between the learned weights of two nets: what `match_weights` makes small."""
    a, b = _learned(template, a), _learned(template, b)
    return math.sqrt(math.fsum((a[name].double() - b[name].double()).square().sum().item() for name in a))


def match_activations(
    template: Template, a: StateDict, b: StateDict, module: nn.Module, inputs: Sequence[Tensor]
) -> Alignment:
    """The copy of `b` whose channels respond to data most like those of `a`, in least squares (section 3.1).

    Channels are compared where a matrix product, convolution or embedding writes them, before norm and activation,
    over all batches of `inputs` and all positions.

    Raises:
        ValueError: a state_dict that is not of the template, no input, responses that are not finite, or a factor
            whose channels none of these operators writes.
    """
    for state in (a, b):
        _learned(template, state)
    symmetry = template.symmetry
    compared = _products(module, a, b, inputs)
    axes = {name: (symmetry.axes[name][axis], ()) for (name, axis) in compared if symmetry.axes.get(name)}
    seen = {f for parts, _ in axes.values() for part in parts for f in part.factors}
    for factor in symmetry.permutations.keys() - seen:
        acts = ", ".join(f"{name} (axis {axis})" for name, axis in symmetry.tensors(factor))
        raise ValueError(f"no matrix product, convolution or embedding writes the channels of {acts}; match by weights")
    products = {name: product for (name, _), product in compared.items() if name in axes}
    ones = {name: torch.eye(len(matrix), dtype=torch.float64) for name, matrix in products.items()}
    return Alignment(symmetry, closest(replace(symmetry, axes=axes), products, ones))


def match_straight_through(
    template: Template,
    a: StateDict,
    b: StateDict,
    module: nn.Module,
    batches: Batches,
    loss: Loss = F.cross_entropy,
    learning_rate: float = 1e-3,
    epochs: int = 5,
) -> Alignment:
    """The copy of `b` with the lowest loss halfway to `a`, by straight-through gradients (section 3.3).

    Weights that start at `a` are trained by Adam as if they were the copy of `b` closest to them. Of the copies at the
    end of each epoch, and the one that `match_weights` finds, the best over all batches is returned. Norms use the
    statistics of each batch, everything else is in eval mode.

    Raises:
        ValueError: a state_dict that is not of the template, or no batch.
    """
    if not batches:
        raise ValueError("straight-through matching needs at least one batch of (inputs, targets)")
    learned = _learned(template, a)
    net = _with_batch_statistics(module)
    fixed = {name: value.detach() for name, value in a.items()}
    free = {name: value.detach().clone().requires_grad_() for name, value in learned.items()}
    optimiser = torch.optim.Adam(free.values(), learning_rate)

    def loss_between(copy_of_b: StateDict, batch: tuple[Tensor, Tensor]) -> Tensor:
        middle = {name: (fixed[name] + copy_of_b[name]) / 2 for name in learned}
        state = {name: middle.get(name, value.clone()) for name, value in fixed.items()}
        return loss(functional_call(net, state, (batch[0],)), batch[1])

    best = match_weights(template, a, b)

    def whole_loss(alignment: Alignment) -> float:
        with torch.no_grad():
            return sum(loss_between(alignment(b), batch).item() for batch in batches)

    lowest, tables = whole_loss(best), best.tables
    for _ in range(epochs):
        for batch in batches:
            tables = _closer(template, free, b, tables)
            nearest = Alignment(template.symmetry, tables)(b)
            # forward: the copy of b; backward: as if it were the free weights
            through = {name: nearest[name].detach() + (value - value.detach()) for name, value in free.items()}
            optimiser.zero_grad()
            loss_between(through, batch).backward()
            optimiser.step()
        candidate = Alignment(template.symmetry, _closer(template, free, b, tables))
        if (reached := whole_loss(candidate)) < lowest:
            lowest, best = reached, candidate
    return best


METHODS: dict[str, Callable[..., Alignment]] = {
    "weights": match_weights,
    "activations": match_activations,
    "straight_through": match_straight_through,
}


def _learned(template: Template, state_dict: StateDict) -> dict[str, Tensor]:
    """The entries of the template but for running statistics.

    Raises:
        ValueError: an entry that is missing or of another shape.
    """
    for name, shape in template.shapes.items():
        if name not in state_dict or tuple(state_dict[name].shape) != tuple(shape):
            found = f"shape {list(state_dict[name].shape)}" if name in state_dict else "none"
            raise ValueError(f"entry {name!r}: found {found}, the template expects {list(shape)}; is it of this net?")
    statistics = {name for space in template.spaces for role, name in space.vectors.items() if role in _STATISTICS}
    return {name: state_dict[name] for name in template.shapes if name not in statistics}


def _closer(template: Template, goal: StateDict, b: StateDict, tables: Mapping[int, Tensor]) -> Tables:
    """The tables after a climb from where they are towards `goal`."""
    moved = template.symmetry.apply(tables, b)
    sides = [{name: side[name].detach().cpu().double() for name in goal} for side in (goal, moved)]
    search = Search(template.symmetry, sides[0], sides[1], dict(tables))
    search.climb()
    return search.tables


def _products(
    module: nn.Module, a: StateDict, b: StateDict, inputs: Sequence[Tensor]
) -> dict[tuple[str, int], Float64[Tensor, "channels channels"]]:
    """(weight, axis of its channels) -> mean product of each channel of `a` with each of `b`."""
    if not inputs:
        raise ValueError("matching by activations needs at least one batch of inputs")
    net, sums, count = copied(module).eval(), {}, 0
    for batch in inputs:
        left_side, right_side = (responses(net, state, batch) for state in (a, b))
        count += len(batch)
        for key, left in left_side.items():
            sums[key] = sums.get(key, 0) + left @ right_side[key].T
    for (name, _), total in sums.items():
        if not total.isfinite().all():
            raise ValueError(f"what {name!r} writes is not finite for these inputs, so channels cannot be compared")
    return {key: total / count for key, total in sums.items()}


def _with_batch_statistics(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose norms use, and forget, the statistics of the batch."""
    net = copied(module).eval()
    for layer in net.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.train()
    return net
