"""The sparse graph of an architecture without its weights: index arrays that gather any of its nets into PyG graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from metanet.arch.depth import depths
from metanet.arch.template import VECTOR_ROLES, Block, Template
from metanet.views.codes import (
    BLOCK_COLUMNS,
    POSITION_CODES,
    SPACE_COLUMNS,
    Device,
    block_codes,
    fixed_positions,
    space_codes,
)
from metanet.views.once import once_per_object
from metanet.views.taps import GRID, tap_layers, tap_slots

LINKS = ("identity", "add")  # parameter-free connections of node i with node i
EDGE_TYPES = ("weight", "weight_reversed", *(f"{k}{way}" for k in LINKS for way in ("", "_reversed")))
NODE_COLUMNS = (*VECTOR_ROLES, *SPACE_COLUMNS, *(f"position.bit{i}" for i in range(POSITION_CODES)))
EDGE_COLUMNS = (
    *(f"tap.{row}.{column}" for row in range(GRID) for column in range(GRID)),
    *BLOCK_COLUMNS,
    *("row_in_bin", "column_in_bin"),
    *(f"type.{name}" for name in EDGE_TYPES),
)
GRAPH_COLUMNS = ("log2_params", "log2_nodes", "log2_edges", "log2_depth")


@dataclass(frozen=True)
class Wiring:
    """The sparse graph of one net of an architecture, with every weight still zero, and where the weights belong."""

    edge_index: Int64[Tensor, "2 edges"]  # source, destination; sorted by destination
    edge_block: Int64[Tensor, " edges"]  # number of the block; blocks come first, then links
    edge_type: Int64[Tensor, " edges"]  # place in EDGE_TYPES
    edge_attr: Float32[Tensor, "edges edge_columns"]  # EDGE_COLUMNS, taps 0
    places: Int64[Tensor, "ways params"]  # of each weight, in block order, in the flattened edge_attr; forward first
    node_space: Int64[Tensor, " nodes"]
    node_codes: Float32[Tensor, "nodes node_codes"]  # NODE_COLUMNS after the vectors
    graph_codes: Float32[Tensor, "1 graph_columns"]  # GRAPH_COLUMNS


class _Edges(NamedTuple):
    """Some edges, in the order of their block's weights."""

    ends: Int64[Tensor, "edges 2"]
    block: Int64[Tensor, " edges"]
    kind: Int64[Tensor, " edges"]
    codes: Float32[Tensor, "edges codes"]


@once_per_object
def wiring(template: Template, bidirectional: bool = False, device: Device = None) -> Wiring:
    """The index arrays of `template`; with `bidirectional` every edge has a reverse edge with a type of its own.

    Raises:
        ValueError: an operation, attribute or link that the graph cannot express.
    """
    sizes = torch.tensor([space.size for space in template.spaces])
    first = sizes.cumsum(0) - sizes
    codes = block_codes(template)
    parts: list[_Edges] = []
    weight_edge, num_edges = [], 0  # per block, the edge of each weight
    for number, block in enumerate(template.blocks):
        ends, layers, edge = _block_edges(block)
        ends = ends + first[[block.source, block.target]]
        rows = torch.cat([codes[number].expand(len(ends), -1), layers.float()], dim=1)
        parts.append(_Edges(ends, *_constant(len(ends), number, "weight"), rows))
        weight_edge.append(num_edges + edge)
        num_edges += len(ends)
    for number, link in enumerate(template.links, start=len(template.blocks)):
        size = template.spaces[link.source].size
        if link.kind not in LINKS or link.attributes or template.spaces[link.target].size != size:
            raise ValueError(f"{link}: expected a link of kind {' or '.join(LINKS)} between spaces of equal size")
        ends = torch.arange(size)[:, None] + first[[link.source, link.target]]
        parts.append(_Edges(ends, *_constant(size, number, link.kind), torch.zeros(size, codes.shape[1] + 2)))
    if bidirectional:
        parts += [part._replace(ends=part.ends.flip(1), kind=part.kind + 1) for part in parts]

    edges = _Edges(*(torch.cat(field) for field in zip(*parts, strict=True)))
    order = edges.ends[:, 1].argsort(stable=True)
    row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))  # of each edge once they are sorted
    taps = torch.zeros(len(order), GRID * GRID)
    edge_attr = torch.cat([taps, edges.codes, torch.eye(len(EDGE_TYPES))[edges.kind]], dim=1)[order]
    edge = torch.cat(weight_edge)
    slot = torch.cat([tap_slots(block).repeat(block.shape[0] * block.shape[1]) for block in template.blocks])
    ways = [edge, edge + len(order) // 2] if bidirectional else [edge]
    node_space = torch.arange(len(sizes)).repeat_interleave(sizes)
    params = sum(math.prod(shape) for shape in template.shapes.values())
    quantities = (params, len(node_space), num_edges, max(depths(template)))
    wires = Wiring(
        edge_index=edges.ends[order].T.contiguous(),
        edge_block=edges.block[order],
        edge_type=edges.kind[order],
        edge_attr=edge_attr,
        places=torch.stack([row[way] * edge_attr.shape[1] + slot for way in ways]),
        node_space=node_space,
        node_codes=torch.cat([space_codes(template)[node_space], torch.cat(fixed_positions(template))], dim=1),
        graph_codes=torch.tensor([[math.log2(1 + quantity) for quantity in quantities]]),
    )
    return Wiring(**{name: tensor.to(device) for name, tensor in vars(wires).items()})


def _block_edges(
    block: Block,
) -> tuple[Int64[Tensor, "edges 2"], Int64[Tensor, "edges 2"], Int64[Tensor, " params"]]:
    """Per edge: its nodes within source and target space, and its place within the bins; per weight: its edge.

    One edge joins a pair of channels, or several in parallel where the kernel is larger than the grid.
    """
    out, inputs, _ = block.shape
    layers, layer = tap_layers(block).unique(dim=0, return_inverse=True)
    target, source = torch.cartesian_prod(torch.arange(out), torch.arange(inputs)).T
    source = source + target // (out // block.groups) * inputs  # each group reads its own inputs
    ends = torch.stack([source, target], dim=1).repeat_interleave(len(layers), dim=0)
    edge = torch.arange(out * inputs)[:, None] * len(layers) + layer
    return ends, layers.repeat(out * inputs, 1), edge.flatten()


def _constant(size: int, number: int, kind: str) -> tuple[Int64[Tensor, " size"], Int64[Tensor, " size"]]:
    return torch.full((size,), number), torch.full((size,), EDGE_TYPES.index(kind))
