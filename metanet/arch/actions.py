"""The named function-preserving actions of a template: permutation, scaling and sign.

    actions = template.actions                                  # {"permutation": ..., "scaling": ..., "sign": ...}
    rescale = actions["scaling"].sample(generator)              # as template.symmetry.sample: a random element,
    rescaled = rescale(module.state_dict())                     # a function between state_dicts of one function

Scaling multiplies what a channel holds by a positive number and undoes it where the channel is read; sign multiplies by
1 or -1. A channel may be multiplied where everything between writing and reading commutes with it: positively
homogeneous operations (ReLU, pools) for scaling, odd ones (tanh, average pools) for sign. A norm that has a scale of
its own takes any factor back; a batch norm's running statistics follow their channel. `sites.py` derives where.

Sources: scaling: Neyshabur et al. (2015), "Path-SGD", arXiv:1506.02617; sign: Chen, Lu and Hecht-Nielsen (1993),
"On the geometry of feedforward neural network error surfaces"; both on graphs: Kalogeropoulos et al. (2024), "Scale
equivariant graph metanetworks", arXiv:2406.10685.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metanet.arch.pattern import weight_of
from metanet.arch.rules import PASSES
from metanet.arch.sites import Sites
from metanet.arch.symmetry import StateDict, Symmetry
from metanet.arch.template import Block, Template

OCTAVES = 2.0  # scales are drawn from 1/4 to 4, evenly in their logarithm


@dataclass(frozen=True)
class Change:
    """What an action does to one entry: times the factors of `times`, divided by those of `over`; -1 is no factor.

    Of a vector both are per node. Of a block's weight, `times` is per output and `over` [outputs or 1, inputs].
    """

    entry: str
    shape: tuple[int, ...]  # of the entry
    times: Int64[Tensor, " out"]
    over: Int64[Tensor, "..."]
    block: Block | None = None
    eps: float | None = None  # of a running variance: variance + eps takes the square of the factor


@dataclass(frozen=True)
class Rescaling:
    """The group of scalings or of sign flips: `size` factors that can be chosen freely, and what they multiply."""

    name: str  # "scaling" | "sign"
    size: int
    changes: tuple[Change, ...]

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries of the state_dict that some element changes."""
        return tuple(change.entry for change in self.changes)

    def sample(self, generator: torch.Generator, nets: int | None = None) -> Callable[[StateDict], dict[str, Tensor]]:
        """One random element, as a function from a state_dict to one that computes the same function.

        Signs are fair coins; scales lie between 1/4 and 4. The function takes single tensors [*shape] and stacked ones
        [nets, *shape]; with `nets` every net of a stack gets an element of its own.
        """
        shape = (self.size,) if nets is None else (nets, self.size)
        drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        factors = (2 * OCTAVES * (drawn - 0.5)).exp2() if self.name == "scaling" else (drawn < 0.5) * 2.0 - 1
        return lambda state_dict: self.apply(factors, state_dict)

    def apply(self, factors: Float[Tensor, "*nets factors"], state_dict: StateDict) -> dict[str, Tensor]:
        """The state_dict after multiplication by `factors`: [size], or [nets, size] for a stack.

        Raises:
            ValueError: another number of factors, or ones that are no scales (above 0) or no signs (1 or -1).
        """
        fits = (factors > 0) & factors.isfinite() if self.name == "scaling" else factors.abs() == 1
        if factors.shape[-1] != self.size or not fits.all():
            kind = "positive numbers" if self.name == "scaling" else "numbers 1 and -1"
            raise ValueError(f"{self.name}: expected {self.size} {kind}, found {list(factors.shape)}: {factors}")
        known = torch.cat([factors, torch.ones_like(factors[..., :1])], dim=-1)  # the last stands for "no factor"
        return dict(state_dict) | {change.entry: _changed(change, known, state_dict) for change in self.changes}


def actions(template: Template) -> dict[str, Symmetry | Rescaling]:
    """The template's actions by name; each has `sample(generator, nets)`. Of one that is trivial the size is 0."""
    return {"permutation": template.symmetry} | {name: rescaling(template, name) for name in PASSES}


def rescaling(template: Template, name: str) -> Rescaling:
    """The action "scaling" or "sign" of a template, derived from its spaces, blocks and links."""
    found = Sites(template, name)
    labels = found.solve()
    used = np.unique(np.concatenate([np.empty(0, np.int64), *(labels[sites] for sites in found.sites())]))
    number = np.full(labels.max(initial=0) + 2, -1)  # of each label; the last is that of pinned sites, -1
    number[used[used >= 0]] = np.arange((used >= 0).sum())
    changes = []
    for change in found.changes:
        times, over = (torch.from_numpy(number[labels[sites]]) for sites in (change.times, change.over))
        if (times >= 0).any() or (over >= 0).any():
            shape = tuple(template.shapes[change.entry])
            changes.append(Change(change.entry, shape, times, over, change.block, change.eps))
    return Rescaling(name, int((used >= 0).sum()), tuple(changes))


def _changed(change: Change, factors: Tensor, state_dict: StateDict) -> Tensor:
    value = state_dict[change.entry]
    factors = factors.to(value.device)
    times, over = factors[..., change.times.to(value.device)], factors[..., change.over.to(value.device)]
    if change.block is None:
        factor = (times / over).unflatten(-1, change.shape)
    else:
        factor = times[..., None] / over  # [*nets, out, in]
        spread = factor[..., None].expand(*factor.shape[:-2], *change.block.shape)
        factor = weight_of(change.block, spread, change.shape)
    if change.eps is not None:
        return ((value + change.eps) * factor.square() - change.eps).to(value.dtype)
    return (value * factor).to(value.dtype)
