"""Nets as graphs with one edge per scalar parameter, instead of one per pair of channels with its taps.

A weight of a kernel is an edge between its channels that knows its tap, so a pair of channels has parallel edges. Each
vector of a space (bias, scale, running mean, ...) has a node of its own, with an edge to every channel. Connections
without parameters keep their edges. Everything but the values is shared by all nets of an architecture.

Source: Lim et al. (2023), "Graph metanetworks for processing diverse neural architectures", arXiv:2312.04501.
Departure: norm statistics have edges too, and a linear layer that reads a flattened image has its positions as taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from metanet.arch.template import VECTOR_ROLES, Template
from metanet.views import graph as pairs
from metanet.views.codes import Device
from metanet.views.once import once_per_object
from metanet.views.parameter_graph import ParameterGraph
from metanet.views.taps import GRID
from metanet.views.wiring import EDGE_TYPES, RELATION_COLUMNS, TAP_COLUMNS, wiring

_CENTRE = len(TAP_COLUMNS) // 2
_VECTORS = tuple(f"parameter.{role}{way}" for role in VECTOR_ROLES for way in ("", "_reversed"))

SCALAR_NODE_COLUMNS = tuple(f"parameter.{role}" for role in VECTOR_ROLES)  # of a parameter's node; zeros for a channel
SCALAR_EDGE_COLUMNS = ("value", "tap_row", "tap_column")  # the tap's place from the middle of the grid, in -3 ... 3
SCALAR_EDGE_TYPES = (*EDGE_TYPES, *_VECTORS)
SCALAR_RELATION_COLUMNS = (*RELATION_COLUMNS, *(f"type.{name}" for name in _VECTORS))


@dataclass(frozen=True)
class ScalarWiring:
    """The graph of one net of an architecture without its values."""

    edge_index: Int64[Tensor, "2 edges"]  # source, destination; sorted by destination
    edge_relation: Int64[Tensor, " edges"]
    taps: Float32[Tensor, "edges 2"]  # SCALAR_EDGE_COLUMNS after the value
    fixed_values: Float32[Tensor, " edges"]  # of the links: 1 where it is a position; 0 where a parameter belongs
    relation_codes: Float32[Tensor, "relations relation_columns"]  # SCALAR_RELATION_COLUMNS
    relation_type: Int64[Tensor, " relations"]  # place in SCALAR_EDGE_TYPES
    relation_block: Int64[Tensor, " relations"]  # number of the block; then of the link; then of the vector
    rows: Int64[Tensor, "ways scalars"]  # of each weight in block order, then of each vector's values; forward first
    node_space: Int64[Tensor, " nodes"]  # a parameter's node belongs to the space of its vector
    place: Int64[Tensor, " nodes"]
    x: Float32[Tensor, "nodes roles"]  # SCALAR_NODE_COLUMNS
    space_codes: Float32[Tensor, "spaces space_columns"]
    u: Float32[Tensor, "1 graph_columns"]


@once_per_object
def scalar_wiring(template: Template, bidirectional: bool = False, device: Device = None) -> ScalarWiring:
    """The index arrays of `template`; with `bidirectional` every edge has a reverse edge with a type of its own.

    Raises:
        ValueError: an operation, attribute or link that the graph cannot express.
    """
    wires = wiring(template, bidirectional)
    edge, slot = wires.weights // len(TAP_COLUMNS), wires.weights % len(TAP_COLUMNS)  # [ways, weights]
    ways, weights = edge.shape
    vectors = _vectors(template)
    spaces = torch.tensor([i for i, _ in vectors], dtype=torch.int64)
    roles = torch.tensor([VECTOR_ROLES.index(role) for _, role in vectors], dtype=torch.int64)
    sizes = torch.tensor([space.size for space in template.spaces])
    first, nodes = sizes.cumsum(0) - sizes, int(sizes.sum())

    links = (wires.relation_block[wires.edge_relation] >= len(template.blocks)).nonzero()[:, 0]
    fixed_slot = torch.full((len(wires.edge_relation),), _CENTRE)  # of the tap that is 1 on a link that flattens
    fixed_value = torch.zeros(len(wires.edge_relation))
    fixed_slot[wires.ones // len(TAP_COLUMNS)] = wires.ones % len(TAP_COLUMNS)
    fixed_value[wires.ones // len(TAP_COLUMNS)] = 1.0

    number = torch.arange(len(vectors)).repeat_interleave(sizes[spaces])  # of the vector, of each of its values
    channel = torch.arange(len(number)) - (sizes[spaces].cumsum(0) - sizes[spaces])[number] + first[spaces[number]]
    ends = torch.stack([nodes + number, channel])
    both = [ends, ends.flip(0)][:ways]
    kinds = torch.cat([len(EDGE_TYPES) + 2 * roles + way for way in range(ways)])
    codes = torch.zeros(len(kinds), len(SCALAR_RELATION_COLUMNS)).scatter_(
        1, len(RELATION_COLUMNS) - len(EDGE_TYPES) + kinds[:, None], 1.0
    )

    old = torch.cat([edge.flatten(), links])  # edges of the pair graph, then those of vectors
    edge_index = torch.cat([wires.edge_index[:, old], *both], dim=1)
    own = torch.cat([len(wires.relation_codes) + way * len(vectors) + number for way in range(ways)])
    places = torch.cat([slot.flatten(), fixed_slot[links], torch.full((len(own),), _CENTRE)])
    values = torch.cat([torch.zeros(ways * weights), fixed_value[links], torch.zeros(len(own))])
    order = edge_index[1].argsort(stable=True)
    row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    found = ScalarWiring(
        edge_index=edge_index[:, order].contiguous(),
        edge_relation=torch.cat([wires.edge_relation[old], own])[order],
        taps=torch.stack([places // GRID, places % GRID], dim=1)[order].float() - GRID // 2,
        fixed_values=values[order],
        relation_codes=torch.cat([torch.nn.functional.pad(wires.relation_codes, (0, len(_VECTORS))), codes]),
        relation_type=torch.cat([wires.relation_type, kinds]),
        relation_block=torch.cat(
            [wires.relation_block, len(template.blocks) + len(template.links) + torch.arange(len(vectors)).repeat(ways)]
        ),
        rows=torch.cat([row[: ways * weights].view(ways, -1), row[len(old) :].view(ways, -1)], dim=1),
        node_space=torch.cat([wires.node_space, spaces]),
        place=torch.cat([wires.place, torch.full_like(spaces, -1)]),
        x=torch.cat([torch.zeros(nodes, len(VECTOR_ROLES)), torch.eye(len(VECTOR_ROLES))[roles]]),
        space_codes=wires.space_codes,
        u=wires.u,
    )
    return ScalarWiring(**{name: tensor.to(device) for name, tensor in vars(found).items()})


def edge_values(
    template: Template, params: Mapping[str, Tensor], bidirectional: bool = False
) -> Float[Tensor, "nets edges"]:
    """The column "value" of stacked nets, on the params' device: all that differs between nets of an architecture.

    Raises:
        ValueError: as `metanet.views.graph.blocked` and `scalar_wiring`.
    """
    view = pairs.blocked(template, params)
    like = view.nodes[0]
    wires = scalar_wiring(template, bidirectional, like.device)
    vectors = [view.nodes[i][..., VECTOR_ROLES.index(role)] for i, role in _vectors(template)]
    scalars = torch.cat([*(block.flatten(1) for block in view.edges), *vectors], dim=1)
    values = wires.fixed_values.to(like.dtype).repeat(len(like), 1)
    for rows in wires.rows:
        values.index_copy_(1, rows, scalars)
    return values


def graph_of(template: Template, state_dict: Mapping[str, Tensor], bidirectional: bool = False) -> ParameterGraph:
    """The scalar graph of one net: as the sparse graph, but `x` [nodes, SCALAR_NODE_COLUMNS], `edge_attr` [edges,
    SCALAR_EDGE_COLUMNS], `relation_codes` [relations, SCALAR_RELATION_COLUMNS], types of SCALAR_EDGE_TYPES.

    Raises:
        ValueError: as `edge_values`.
    """
    params = {name: tensor.detach().unsqueeze(0) for name, tensor in state_dict.items()}
    values = edge_values(template, params, bidirectional)[0]
    wires = scalar_wiring(template, bidirectional, values.device)
    return ParameterGraph(
        x=wires.x.to(values.dtype),
        node_space=wires.node_space,
        place=wires.place,
        space_codes=wires.space_codes.to(values.dtype),
        edge_index=wires.edge_index,
        edge_attr=torch.cat([values[:, None], wires.taps.to(values.dtype)], dim=1),
        edge_relation=wires.edge_relation,
        relation_codes=wires.relation_codes.to(values.dtype),
        relation_type=wires.relation_type,
        relation_block=wires.relation_block,
        u=wires.u.to(values.dtype),
    )


def state_dict_of(template: Template, graph: ParameterGraph) -> dict[str, Tensor]:
    """The state_dict that a scalar graph was built from: every entry of `template.shapes`, bit for bit."""
    bidirectional, device = pairs.is_bidirectional(graph), graph["x"].device
    wires = wiring(template, bidirectional, device)
    scalars = graph["edge_attr"][:, 0][scalar_wiring(template, bidirectional, device).rows[0]]
    weights = wires.weights.shape[1]
    x = scalars.new_zeros(len(wires.node_space), len(VECTOR_ROLES))
    taps = scalars.new_zeros(len(wires.edge_relation), len(TAP_COLUMNS))
    taps.view(-1)[wires.weights[0]] = scalars[:weights]
    sizes = [template.spaces[i].size for i, _ in _vectors(template)]
    for (i, role), values in zip(_vectors(template), scalars[weights:].split(sizes), strict=True):
        x[wires.node_space == i, VECTOR_ROLES.index(role)] = values
    return pairs.state_dict_of(template, ParameterGraph(x=x, edge_attr=taps, relation_type=wires.relation_type))


def _vectors(template: Template) -> list[tuple[int, str]]:
    """(space, role) of every vector, in the order of their nodes."""
    return [(i, role) for i, space in enumerate(template.spaces) for role in VECTOR_ROLES if role in space.vectors]
