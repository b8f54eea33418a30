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
from torch_geometric.data import Data

from metanet.arch.template import VECTOR_ROLES, Template
from metanet.views import graph as pairs
from metanet.views.codes import POSITION_CODES, Device, space_codes
from metanet.views.once import once_per_object
from metanet.views.taps import GRID
from metanet.views.wiring import EDGE_COLUMNS, EDGE_TYPES, NODE_COLUMNS, wiring

_TAPS, _CENTRE = GRID * GRID, GRID * GRID // 2
_VECTORS = tuple(f"{role}{way}" for role in VECTOR_ROLES for way in ("", "_reversed"))

SCALAR_EDGE_TYPES = (*EDGE_TYPES, *_VECTORS)
SCALAR_NODE_COLUMNS = (*NODE_COLUMNS[len(VECTOR_ROLES) :], *(f"parameter.{role}" for role in VECTOR_ROLES))
SCALAR_EDGE_COLUMNS = (
    *("value", "tap_row", "tap_column"),  # the tap's place from the middle of the grid, in -3 ... 3
    *EDGE_COLUMNS[_TAPS:],
    *(f"type.{name}" for name in _VECTORS),
)


@dataclass(frozen=True)
class ScalarWiring:
    """The graph of one net of an architecture without its values."""

    edge_index: Int64[Tensor, "2 edges"]  # source, destination; sorted by destination
    edge_block: Int64[Tensor, " edges"]  # number of the block; then of the link; then of the vector
    edge_type: Int64[Tensor, " edges"]  # place in SCALAR_EDGE_TYPES
    edge_codes: Float32[Tensor, "edges codes"]  # SCALAR_EDGE_COLUMNS after the value
    fixed_values: Float32[Tensor, " edges"]  # of the links: 1 where it is a position; 0 where a parameter belongs
    rows: Int64[Tensor, "ways scalars"]  # of each weight in block order, then of each vector's values; forward first
    node_space: Int64[Tensor, " nodes"]  # a parameter node belongs to the space of its vector
    node_codes: Float32[Tensor, "nodes node_codes"]  # SCALAR_NODE_COLUMNS
    graph_codes: Float32[Tensor, "1 graph_columns"]  # GRAPH_COLUMNS


@once_per_object
def scalar_wiring(template: Template, bidirectional: bool = False, device: Device = None) -> ScalarWiring:
    """The index arrays of `template`; with `bidirectional` every edge has a reverse edge with a type of its own.

    Raises:
        ValueError: an operation, attribute or link that the graph cannot express.
    """
    wires = wiring(template, bidirectional)
    edge, slot = wires.places // len(EDGE_COLUMNS), wires.places % len(EDGE_COLUMNS)  # [ways, weights]
    ways, weights = edge.shape
    vectors = _vectors(template)
    sizes = torch.tensor([space.size for space in template.spaces])
    first = sizes.cumsum(0) - sizes
    nodes = int(sizes.sum())

    links = (wires.edge_block >= len(template.blocks)).nonzero()[:, 0]
    link_taps = wires.edge_attr[links, :_TAPS]  # of "flatten" a 1 at its position
    link_slot = torch.where(link_taps.any(1), link_taps.argmax(1), _CENTRE)

    targets = torch.cat(
        [torch.empty(0, dtype=torch.int64), *(first[i] + torch.arange(template.spaces[i].size) for i, _ in vectors)]
    )
    number = torch.arange(len(vectors)).repeat_interleave(sizes[[i for i, _ in vectors]])
    kind = torch.tensor([SCALAR_EDGE_TYPES.index(role) for _, role in vectors], dtype=torch.int64)[number]
    ends = torch.stack([nodes + number, targets])
    both = [(ends, kind), (ends.flip(0), kind + 1)][:ways]

    old = torch.cat([edge.flatten(), links])  # edges of the pair graph, then those of vectors
    edge_index = torch.cat([wires.edge_index[:, old], *(way for way, _ in both)], dim=1)
    edge_type = torch.cat([wires.edge_type[old], *(kinds for _, kinds in both)])
    block = torch.cat([wires.edge_block[old], (len(template.blocks) + len(template.links) + number).repeat(ways)])
    places = torch.cat([slot.flatten(), link_slot, torch.full((ways * len(number),), _CENTRE)])
    known = torch.cat([wires.edge_attr[old, _TAPS:], torch.zeros(ways * len(number), len(EDGE_COLUMNS) - _TAPS)])
    tap = torch.stack([places // GRID - GRID // 2, places % GRID - GRID // 2], dim=1)
    own_type = torch.eye(len(SCALAR_EDGE_TYPES))[edge_type][:, len(EDGE_TYPES) :]
    values = torch.zeros(len(edge_type))
    values[ways * weights : ways * weights + len(links)] = link_taps.sum(1)

    order = edge_index[1].argsort(stable=True)
    row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    of_vectors = row[len(old) :].view(ways, -1)
    found = ScalarWiring(
        edge_index=edge_index[:, order],
        edge_block=block[order],
        edge_type=edge_type[order],
        edge_codes=torch.cat([tap.float(), known, own_type], dim=1)[order],
        fixed_values=values[order],
        rows=torch.cat([row[: ways * weights].view(ways, -1), of_vectors], dim=1),
        node_space=torch.cat([wires.node_space, torch.tensor([i for i, _ in vectors], dtype=torch.int64)]),
        node_codes=_node_codes(template, wires.node_codes, vectors),
        graph_codes=wires.graph_codes,
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


def graph_of(template: Template, state_dict: Mapping[str, Tensor], bidirectional: bool = False) -> Data:
    """The scalar graph of one net: `x` [nodes, SCALAR_NODE_COLUMNS], `edge_index`, `edge_attr` [edges,
    SCALAR_EDGE_COLUMNS], `edge_type`, `edge_block`, `node_space` and `u` as in the sparse graph.

    Raises:
        ValueError: as `edge_values`.
    """
    params = {name: tensor.detach().unsqueeze(0) for name, tensor in state_dict.items()}
    values = edge_values(template, params, bidirectional)[0]
    wires = scalar_wiring(template, bidirectional, values.device)
    return Data(
        x=wires.node_codes.to(values.dtype),
        edge_index=wires.edge_index,
        edge_attr=torch.cat([values[:, None], wires.edge_codes.to(values.dtype)], dim=1),
        edge_type=wires.edge_type,
        edge_block=wires.edge_block,
        node_space=wires.node_space,
        u=wires.graph_codes.to(values.dtype),
    )


def state_dict_of(template: Template, graph: Data) -> dict[str, Tensor]:
    """The state_dict that a scalar graph was built from: every entry of `template.shapes`, bit for bit."""
    bidirectional = bool((graph["edge_type"] % 2).any())
    device = graph["x"].device
    wires = wiring(template, bidirectional, device)
    scalar = scalar_wiring(template, bidirectional, device)
    scalars = graph["edge_attr"][:, 0][scalar.rows[0]]
    weights = wires.places.shape[1]
    x = scalars.new_zeros(len(wires.node_space), len(NODE_COLUMNS))
    edge_attr = scalars.new_zeros(wires.edge_attr.numel())
    edge_attr[wires.places[0]] = scalars[:weights]
    sizes = [template.spaces[i].size for i, _ in _vectors(template)]
    for (i, role), values in zip(_vectors(template), scalars[weights:].split(sizes), strict=True):
        x[wires.node_space == i, VECTOR_ROLES.index(role)] = values
    whole = Data(x=x, edge_attr=edge_attr.view(-1, len(EDGE_COLUMNS)), edge_type=wires.edge_type)
    return pairs.state_dict_of(template, whole)


def _vectors(template: Template) -> list[tuple[int, str]]:
    """(space, role) of every vector, in the order of their nodes."""
    return [(i, role) for i, space in enumerate(template.spaces) for role in VECTOR_ROLES if role in space.vectors]


def _node_codes(
    template: Template, channels: Float32[Tensor, "nodes codes"], vectors: list[tuple[int, str]]
) -> Float32[Tensor, "all_nodes node_codes"]:
    """Channels first; a vector's node has the codes of its space, no position, and a 1 at its role."""
    spaces = space_codes(template)[[i for i, _ in vectors]]
    roles = torch.eye(len(VECTOR_ROLES))[[VECTOR_ROLES.index(role) for _, role in vectors]]
    own = torch.cat([spaces, torch.zeros(len(vectors), POSITION_CODES), roles], dim=1)
    return torch.cat([torch.nn.functional.pad(channels, (0, len(VECTOR_ROLES))), own])
