"""The named function-preserving actions of a template: permutation, scaling and sign.

    actions = template.actions                                  # {"permutation": ..., "scaling": ..., "sign": ...}
    rescale = actions["scaling"].sample(generator)              # as template.symmetry.sample: a random element,
    rescaled = rescale(module.state_dict())                     # a function between state_dicts of one function

Scaling multiplies what a channel holds by a positive number and undoes it where the channel is read; sign multiplies by
1 or -1. A channel may be multiplied where everything between writing and reading commutes with it: positively
homogeneous operations (ReLU, pools) for scaling, odd ones (tanh, average pools) for sign. A norm that has a scale of
its own takes any factor back; a batch norm's running statistics follow their channel. Whatever is not in the tables
below keeps its channels as they are, so that an unknown operation costs symmetry, never soundness.

Sources: scaling: Neyshabur et al. (2015), "Path-SGD", arXiv:1506.02617; sign: Chen, Lu and Hecht-Nielsen (1993),
"On the geometry of feedforward neural network error surfaces"; both on graphs: Kalogeropoulos et al. (2024), "Scale
equivariant graph metanetworks", arXiv:2406.10685.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from metanet.arch.symmetry import StateDict, Symmetry
from metanet.arch.template import Block, Operation, Space, Template

OCTAVES = 2.0  # scales are drawn from 1/4 to 4, evenly in their logarithm

_LINEAR = {"bias", "neg", "mul", "div", "avg_pool", "adaptive_avg_pool", "pad_reflect", "pad_replicate", "pad_circular"}
_LINEAR |= {"upsample_nearest", "upsample_nearest_exact", "upsample_linear", "upsample_cubic", "mean", "sum", "roll"}
_LINEAR |= {"shift"}  # a parameter that is added, which follows as a bias does
_PASSES = {
    "scaling": _LINEAR | {"relu", "leaky_relu", "prelu", "abs", "max_pool", "adaptive_max_pool", "amax", "amin"},
    "sign": _LINEAR | {"tanh", "sin", "softshrink", "hardshrink", "erf", "atan", "asinh", "sinh", "softsign"},
}
_STOPS = {"scaling": set[str](), "sign": {"abs", "square", "cos"}}  # even: what comes out does not know the sign
_NORMS = {"batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"}
_VECTORS = {kind: {kind} for kind in ("bias", "scale", "shift")} | {"prelu": {"slope"}}
_VECTORS |= {"batch_norm": {"mean", "variance", "scale", "shift"}}
_BLOCKS = {"conv", "conv_transpose", "linear", "flatten"}
_LINKS = {"identity", "add", "cat", "slice", "flatten"}  # node by node, what is read is what is written

Sites = Int64[np.ndarray, " nodes"]  # an unknown factor per node


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
    return {"permutation": template.symmetry} | {name: rescaling(template, name) for name in _PASSES}


def rescaling(template: Template, name: str) -> Rescaling:
    """The action "scaling" or "sign" of a template, derived from its spaces, blocks and links."""
    draft = _Draft(template, name)
    labels = draft.solve()
    used = np.unique(np.concatenate([np.empty(0, np.int64), *(labels[sites] for sites in draft.sites())]))
    number = np.full(labels.max(initial=0) + 2, -1)  # of each label; the last is that of pinned sites, -1
    number[used[used >= 0]] = np.arange((used >= 0).sum())
    changes = []
    for change in draft.changes:
        times, over = (torch.from_numpy(number[labels[sites]]) for sites in (change.times, change.over))
        if (times >= 0).any() or (over >= 0).any():
            shape = tuple(template.shapes[change.entry])
            changes.append(Change(change.entry, shape, times, over, change.block, change.eps))
    return Rescaling(name, int((used >= 0).sum()), tuple(changes))


@dataclass
class _Change:
    """A Change whose factors are still sites."""

    entry: str
    times: np.ndarray
    over: np.ndarray
    block: Block | None = None
    eps: float | None = None


@dataclass
class _Draft:
    """Sites (one unknown factor per node before and after each step), what holds between them, and what they change.

    Site 0 is no factor: whatever equals it is pinned.
    """

    template: Template
    name: str
    changes: list[_Change] = field(default_factory=list)
    equal: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    products: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)  # two operands, result
    count: int = 1

    def __post_init__(self) -> None:
        blocks, spaces = self.template.blocks, self.template.spaces
        self.uses = Counter([b.name for b in blocks] + [entry for s in spaces for entry in s.vectors.values()])
        self.entering = [self._fresh(space.size) for space in spaces]
        self.leaving = [self._walk(space, sites) for space, sites in zip(spaces, self.entering, strict=True)]
        for space, leaving in zip(spaces, self.leaving, strict=True):
            if space.role != "hidden":
                self._pin(leaving)
        for space, entering in zip(spaces, self.entering, strict=True):
            if space.role not in ("hidden", "output"):
                self._pin(entering)
        for block in blocks:
            self._read(block)
        self._link()

    def sites(self) -> list[np.ndarray]:
        return [sites.reshape(-1) for change in self.changes for sites in (change.times, change.over)]

    def solve(self) -> Int64[np.ndarray, " sites"]:
        """The class of every site, -1 for pinned ones. A product passes a factor through one of its operands."""
        waiting = self.products
        while True:
            labels = self._labels()
            if not waiting:
                return labels
            left = []
            for one, other, result in waiting:
                pinned = [(labels[sites] < 0).all() for sites in (one, other)]
                if any(pinned):
                    self.equal.append((one if pinned[1] else other, result))
                else:
                    left.append((one, other, result))
            if len(left) == len(waiting):
                self._pin(left[0][1])  # both could carry one; the first does
            waiting = left

    def _labels(self) -> Int64[np.ndarray, " sites"]:
        ends = [np.concatenate([np.zeros(0, np.int64), *side]) for side in zip(*self.equal, strict=True)] or [[], []]
        graph = coo_array((np.ones(len(ends[0])), (ends[0], ends[1])), shape=(self.count, self.count))
        labels = connected_components(graph, directed=False)[1].astype(np.int64)
        return np.where(labels == labels[0], -1, labels)

    def _fresh(self, size: int) -> Sites:
        self.count += size
        return np.arange(self.count - size, self.count)

    def _pin(self, sites: np.ndarray) -> None:
        self.equal.append((sites, np.zeros_like(sites)))

    def _walk(self, space: Space, sites: Sites) -> Sites:
        """The factors that leave a space, and what its operations make of its vectors."""
        left, start = dict(space.vectors), sites
        plain = all(self._plain(entry, space.size) for entry in left.values())
        for operation in space.operations:
            roles = _VECTORS.get(operation.kind, {"scale", "shift"} if operation.kind in _NORMS else set())
            own = {role: left.pop(role) for role in sorted(roles & left.keys())}
            sites = self._step(operation, own, sites)
        if left or not plain:  # an entry of which it is not clear what it does
            self.changes = [change for change in self.changes if change.entry not in space.vectors.values()]
            for pinned in (start, sites):
                self._pin(pinned)
        return sites

    def _step(self, operation: Operation, own: Mapping[str, str], sites: Sites) -> Sites:
        one = np.zeros_like(sites)
        if operation.kind in _NORMS:
            return self._norm(operation, own, sites)
        if operation.kind in _STOPS[self.name]:
            return one
        if operation.kind == "scale" and "scale" in own:  # a parameter that multiplies takes any factor
            after = self._fresh(len(sites))
            self.changes.append(_Change(own["scale"], after, sites))
            return after
        if operation.kind not in _PASSES[self.name] and not self._odd_or_zero(operation):
            self._pin(sites)
        self.changes += [_Change(own[role], sites, one) for role in ("bias", "shift") if role in own]
        return sites

    def _odd_or_zero(self, operation: Operation) -> bool:
        numbers = operation.attributes
        if operation.kind == "hardtanh":
            return self.name == "sign" and numbers["min_val"] == -numbers["max_val"]
        return operation.kind in ("add", "pad") and numbers["value"] == 0

    def _norm(self, operation: Operation, own: Mapping[str, str], sites: Sites) -> Sites:
        """A batch norm's statistics follow their channel; other norms mix channels, or keep signs. Scales are free."""
        one = np.zeros_like(sites)
        if operation.kind == "batch_norm":
            eps = operation.attributes["eps"]
            self.changes += [_Change(own[role], sites, one, eps=e) for role, e in (("mean", None), ("variance", eps))]
            normed = one if self.name == "scaling" else sites
        elif self.name == "sign" and operation.kind in ("rms_norm", "instance_norm"):
            normed = sites
        else:
            self._pin(sites)
            normed = one
        if "scale" not in own:
            if "shift" in own:
                self._pin(normed)
            return normed
        after = self._fresh(len(sites))
        self.changes.append(_Change(own["scale"], after, normed))
        if "shift" in own:
            self.changes.append(_Change(own["shift"], after, one))
        return after

    def _plain(self, entry: str, *size: int) -> bool:
        """Whether one space or block alone has the entry, and all of it."""
        return self.uses[entry] == 1 and math.prod(self.template.shapes[entry]) == math.prod(size)

    def _read(self, block: Block) -> None:
        out, inputs, _ = block.shape
        target, source = self.entering[block.target], self.leaving[block.source]
        if block.kind not in _BLOCKS or not self._plain(block.name, *block.shape):
            self._pin(target)
            self._pin(source)
            return
        group = np.arange(out) // (out // block.groups)
        reads = source[group[:, None] * inputs + np.arange(inputs)] if block.groups > 1 else source[None]
        self.changes.append(_Change(block.name, target, reads, block))

    def _link(self) -> None:
        from metanet.views.wiring import link_ends  # which needs a second to import

        operands: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for link, ends in zip(self.template.links, link_ends(self.template), strict=True):
            sources, targets = ends.numpy().T
            pair = self.leaving[link.source][sources], self.entering[link.target][targets]
            if link.kind in _LINKS:
                self.equal.append(pair)
            elif link.kind == "mul":
                operands.setdefault(link.target, []).append(pair)
            else:
                self._pin(pair[0])
                self._pin(pair[1])
        for pairs in operands.values():
            if len(pairs) == 2 and np.array_equal(pairs[0][1], pairs[1][1]):
                self.products.append((pairs[0][0], pairs[1][0], pairs[0][1]))
            else:
                for sites in (site for pair in pairs for site in pair):
                    self._pin(sites)


def _changed(change: Change, factors: Tensor, state_dict: StateDict) -> Tensor:
    value = state_dict[change.entry]
    factors = factors.to(value.device)
    times, over = factors[..., change.times.to(value.device)], factors[..., change.over.to(value.device)]
    if change.block is None:
        factor = (times / over).unflatten(-1, change.shape)
    else:
        factor = _on_weight(change.block, times[..., None] / over, value)
    if change.eps is not None:
        return ((value + change.eps) * factor.square() - change.eps).to(value.dtype)
    return (value * factor).to(value.dtype)


def _on_weight(block: Block, factor: Tensor, weight: Tensor) -> Tensor:
    """Factors [*(nets), out, in] in the weight's own layout."""
    weight_axes, edge_axes = (side.strip() for side in block.pattern.split("->"))
    names = re.findall(r"\([^)]*\)|\S+", weight_axes)
    sizes = zip(names, weight.shape[weight.ndim - len(names) :], strict=True)
    known = {axis: size for axis, size in sizes if axis.isidentifier()} | dict(block.axes)
    spread = factor[..., None].expand(*factor.shape[:-2], *block.shape)
    return rearrange(spread, f"... {edge_axes} -> ... {weight_axes}", **known)
