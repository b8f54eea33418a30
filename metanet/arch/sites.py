"""Where the channels of a template can be multiplied by a factor that nothing downstream sees.

Every node has a site, an unknown factor, before and after each step of its space. Steps, blocks and links say which
sites are equal; what no rule file names is pinned to no factor, so that an unknown operation costs symmetry,
never soundness. The classes that are left are the free factors of an action.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metanet.arch import rules
from metanet.arch.template import Block, Operation, Space, Template

_NORMS = {"batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"}
_VECTORS = {kind: {kind} for kind in ("bias", "scale", "shift")} | {"prelu": {"slope"}}
_VECTORS |= {"batch_norm": {"mean", "variance", "scale", "shift"}}
_BLOCKS = {"conv", "conv_transpose", "linear", "flatten"}

Nodes = Int64[np.ndarray, " nodes"]  # the number of a site for each node


@dataclass
class Effect:
    """What becomes of one entry: times the factors at the sites `times`, divided by those at `over`; see Change."""

    entry: str
    times: np.ndarray
    over: np.ndarray
    block: Block | None = None
    eps: float | None = None


@dataclass
class Sites:
    """Sites (one unknown factor per node before and after each step), what holds between them, and what they change.

    Site 0 is no factor: whatever equals it is pinned.
    """

    template: Template
    name: str
    changes: list[Effect] = field(default_factory=list)
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

    def _fresh(self, size: int) -> Nodes:
        self.count += size
        return np.arange(self.count - size, self.count)

    def _pin(self, sites: np.ndarray) -> None:
        self.equal.append((sites, np.zeros_like(sites)))

    def _walk(self, space: Space, sites: Nodes) -> Nodes:
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

    def _step(self, operation: Operation, own: Mapping[str, str], sites: Nodes) -> Nodes:
        one = np.zeros_like(sites)
        if operation.kind in _NORMS:
            return self._norm(operation, own, sites)
        if operation.kind in rules.STOPS[self.name]:
            return one
        if operation.kind == "scale" and "scale" in own:  # a parameter that multiplies takes any factor
            after = self._fresh(len(sites))
            self.changes.append(Effect(own["scale"], after, sites))
            return after
        if operation.kind not in rules.PASSES[self.name] and not self._odd_or_zero(operation):
            self._pin(sites)
        self.changes += [Effect(own[role], sites, one) for role in ("bias", "shift") if role in own]
        return sites

    def _odd_or_zero(self, operation: Operation) -> bool:
        numbers = operation.attributes
        if operation.kind == "hardtanh":
            return self.name == "sign" and numbers["min_val"] == -numbers["max_val"]
        return operation.kind in ("add", "pad") and numbers["value"] == 0

    def _norm(self, operation: Operation, own: Mapping[str, str], sites: Nodes) -> Nodes:
        """A batch norm's statistics follow their channel; other norms mix channels, or keep signs. Scales are free."""
        one = np.zeros_like(sites)
        if operation.kind == "batch_norm":
            eps = operation.attributes["eps"]
            self.changes += [Effect(own[role], sites, one, eps=e) for role, e in (("mean", None), ("variance", eps))]
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
        self.changes.append(Effect(own["scale"], after, normed))
        if "shift" in own:
            self.changes.append(Effect(own["shift"], after, one))
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
        self.changes.append(Effect(block.name, target, reads, block))

    def _link(self) -> None:
        from metanet.views.wiring import link_ends  # which needs a second to import

        operands: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for link, ends in zip(self.template.links, link_ends(self.template), strict=True):
            sources, targets = ends.numpy().T
            pair = self.leaving[link.source][sources], self.entering[link.target][targets]
            if link.kind in rules.COPIES:
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
