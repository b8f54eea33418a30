"""A hash of a parameter graph that no order of its nodes changes: equal graphs, equal hash.

    from metanet.views.isomorphism import canonical_hash

    canonical_hash(template.graph(a)) == canonical_hash(template.graph(permute(a)))      # for every symmetry `permute`

It finds duplicates in a population, nets that are symmetric copies of each other, and architectures that are the same
under other names (the hash of a template's graph with all weights zero).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt64
from torch import Tensor

from metanet.views.parameter_graph import ParameterGraph

_LANES = 2  # 64 bits each
_WORD = np.uint64
_MULTIPLIERS = (_WORD(0xBF58476D1CE4E5B9), _WORD(0x94D049BB133111EB))  # of splitmix64; see metanet/seeding.py

Colours = UInt64[np.ndarray, "... lanes"]


def canonical_hash(graph: ParameterGraph) -> str:
    """32 hexadecimal digits that depend on the graph alone, not on the order of its nodes and edges, or on names.

    Weisfeiler-Lehman colour refinement: a node's colour is hashed with those of its neighbours, in and out, and of the
    edges to them, until no class of nodes divides any more. Every bit of the features counts: a scaled net has another
    hash. Graphs with different hashes are not isomorphic; graphs with one hash are, but for what colour refinement
    cannot tell apart: nets with many equal weights, such as fresh ones that are all zero. Cost: a few passes over the
    edges.

    Source: Weisfeiler and Leman (1968); Shervashidze et al. (2011), JMLR 12, 2539-2561.
    """
    source, target = graph["edge_index"].cpu().numpy()
    edges = _mix(_rows(graph["edge_attr"], 1) + _rows(graph["relation_codes"], 4)[graph["edge_relation"].cpu().numpy()])
    spaces = _rows(graph["space_codes"], 5)[graph["node_space"].cpu().numpy()]
    colours = _mix(_rows(graph["x"], 2) + spaces + _rows(graph["place"][:, None].double(), 6))
    classes = len(np.unique(colours[:, 0]))
    while True:
        incoming = _summed(_mix(colours[source] + edges), target, len(colours))
        outgoing = _summed(_mix(colours[target] ^ edges), source, len(colours))
        colours = _mix(_mix(colours + _mix(incoming)) ^ outgoing)
        before, classes = classes, len(np.unique(colours[:, 0]))
        if classes == before:
            break
    whole = _mix(_mix(colours.sum(0, dtype=_WORD)) + _rows(graph["u"], 3).sum(0, dtype=_WORD))
    return "".join(f"{lane:016x}" for lane in whole.tolist())


def _rows(values: Tensor, purpose: int) -> Colours:
    """A hash of each row of floating-point numbers, bit by bit; -0.0 counts as 0.0."""
    words = np.ascontiguousarray((values + 0.0).detach().cpu().numpy()).view(np.uint32)
    keys = np.random.default_rng(purpose).integers(0, 1 << 64, (words.shape[1] + 1, _LANES), dtype=_WORD)
    hashed = np.tile(keys[-1], (len(words), 1))
    for column, key in zip(words.T, keys, strict=False):
        hashed += (column.astype(_WORD)[:, None] + _WORD(1)) * (key | _WORD(1))
    return _mix(hashed)


def _mix(word: Colours) -> Colours:
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        word = (word ^ (word >> _WORD(shift))) * multiplier
    return word ^ (word >> _WORD(31))


def _summed(messages: Colours, ends: np.ndarray, nodes: int) -> Colours:
    """The sum of the messages at each node, modulo 2^64: the same in every order."""
    total = np.zeros((nodes, _LANES), dtype=_WORD)
    np.add.at(total, ends, messages)
    return total
