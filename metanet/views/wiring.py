"""The sparse graph of an architecture without its weights: index arrays that gather any of its nets into PyG graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from metanet.arch.depth import depths
from metanet.arch.rules import LINKS
from metanet.arch.template import VECTOR_ROLES, Block, Link, Template
from metanet.views.codes import (
    BLOCK_COLUMNS,
    POSITION_CODES,
    SPACE_COLUMNS,
    Device,
    block_codes,
    fixed_positions,
    link_codes,
    space_codes,
)
from metanet.views.once import once_per_object
from metanet.views.taps import GRID, bins, grid_of, slots, tap_layers, tap_slots

EDGE_TYPES = ("weight", "weight_reversed", *(f"{k}{way}" for k in LINKS for way in ("", "_reversed")))
NODE_COLUMNS = (*VECTOR_ROLES, *SPACE_COLUMNS, *(f"position.bit{i}" for i in range(POSITION_CODES)))
EDGE_COLUMNS = (
    *(f"tap.{row}.{column}" for row in range(GRID) for column in range(GRID)),
    *BLOCK_COLUMNS,
    *("plane", "row_in_bin", "column_in_bin"),
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
    """The edges of a block, in the order of its weights, or of a link."""

    ends: Int64[Tensor, "edges 2"]  # source node, target node
    codes: Float32[Tensor, "edges codes"]  # EDGE_COLUMNS before the type
    block: Int64[Tensor, " edges"]
    kind: Int64[Tensor, " edges"]


@once_per_object
def wiring(template: Template, bidirectional: bool = False, device: Device = None) -> Wiring:
    """The index arrays of `template`; with `bidirectional` every edge has a reverse edge with a type of its own.

    Raises:
        ValueError: an operation, attribute or link that the graph cannot express.
    """
    sizes = torch.tensor([space.size for space in template.spaces])
    first = sizes.cumsum(0) - sizes
    blocks, links = template.blocks, template.links
    codes = block_codes(template)
    parts = [_block_edges(block, i, codes[i], first) for i, block in enumerate(blocks)]
    weights = sum(len(part.ends) for part in parts)  # edges that carry weights
    parts += [_link_edges(link, i, template, first) for i, link in enumerate(links, start=len(blocks))]
    one_way = sum(len(part.ends) for part in parts)
    if bidirectional:
        parts += [part._replace(ends=part.ends.flip(1), kind=part.kind + 1) for part in parts]

    edges = _Edges(*(torch.cat(field) for field in zip(*parts, strict=True)))
    order = edges.ends[:, 1].argsort(stable=True)
    row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))  # of each edge once they are sorted
    edge_attr = torch.cat([edges.codes, torch.eye(len(EDGE_TYPES))[edges.kind]], dim=1)[order]
    starts = [sum(len(part.ends) for part in parts[:i]) for i in range(len(blocks))]
    edge = torch.cat([start + _edge_of_weight(block) for start, block in zip(starts, blocks, strict=True)])
    slot = torch.cat([tap_slots(block).repeat(block.shape[0] * block.shape[1]) for block in blocks])
    ways = (edge, edge + one_way) if bidirectional else (edge,)
    params = sum(math.prod(shape) for shape in template.shapes.values())
    quantities = (params, sizes.sum().item(), weights, max(depths(template)))
    node_space = torch.arange(len(sizes)).repeat_interleave(sizes)
    wires = Wiring(
        edge_index=edges.ends[order].T.contiguous(),
        edge_block=edges.block[order],
        edge_type=edges.kind[order],
        edge_attr=edge_attr,
        places=torch.stack([row[way] * len(EDGE_COLUMNS) + slot for way in ways]),
        node_space=node_space,
        node_codes=torch.cat([space_codes(template)[node_space], torch.cat(fixed_positions(template))], dim=1),
        graph_codes=torch.tensor([[math.log2(1 + quantity) for quantity in quantities]]),
    )
    return Wiring(**{name: tensor.to(device) for name, tensor in vars(wires).items()})


def _block_edges(block: Block, number: int, codes: Tensor, first: Tensor) -> _Edges:
    """An edge per pair of channels, or several in parallel where the taps do not fit the grid; all taps still zero."""
    out, inputs, _ = block.shape
    layers = tap_layers(block).unique(dim=0)
    target, source = torch.cartesian_prod(torch.arange(out), torch.arange(inputs)).T
    source = source + target // (out // block.groups) * inputs  # each group reads its own inputs
    ends = torch.stack([source, target], dim=1).repeat_interleave(len(layers), dim=0)
    rows = [torch.zeros(len(ends), GRID * GRID), codes.expand(len(ends), -1), layers.float().repeat(out * inputs, 1)]
    return _edges(ends + first[[block.source, block.target]], torch.cat(rows, dim=1), number, "weight")


def _edge_of_weight(block: Block) -> Int64[Tensor, " params"]:
    """The edge of each weight, counted within the block in the order of `_block_edges`."""
    out, inputs, _ = block.shape
    layers, layer = tap_layers(block).unique(dim=0, return_inverse=True)
    return (torch.arange(out * inputs)[:, None] * len(layers) + layer).flatten()


@once_per_object
def link_ends(template: Template, device: Device = None) -> list[Int64[Tensor, "_ 2"]]:
    """Of each link [edges, 2]: the nodes that it connects, within their spaces (source, target).

    Raises:
        ValueError: a link, or an attribute of one, that the graph cannot express.
    """
    return [_ends(link, template).to(device) for link in template.links]


def _ends(link: Link, template: Template) -> Int64[Tensor, "edges 2"]:
    if link.kind not in LINKS:
        raise ValueError(f"{link.kind!r}: the graph has no edges for this link; expected one of {', '.join(LINKS)}")
    sizes = [template.spaces[i].size for i in (link.source, link.target)]
    ends = [
        torch.tensor(given) if given else torch.arange(size)
        for given, size in zip((link.sources, link.targets), sizes, strict=True)
    ]
    if len(ends[0]) != len(ends[1]) or any(end.max() >= size for end, size in zip(ends, sizes, strict=True)):
        names = " and ".join(f"{template.spaces[i].name!r}" for i in (link.source, link.target))
        raise ValueError(
            f"link {link.kind!r} between {names}: {len(ends[0])} sources cannot meet {len(ends[1])} targets"
        )
    return torch.stack(ends, dim=1)


def _link_edges(link: Link, number: int, template: Template, first: Tensor) -> _Edges:
    """The edges of a link; those of one with taps ("flatten") have a tap of 1 where their position lies."""
    ends = _ends(link, template)
    taps, within = torch.zeros(len(ends), GRID * GRID), torch.zeros(len(ends), 3)
    if "taps" in link.attributes:
        grid = grid_of(link.attributes["taps"], f"link {number}")
        position = torch.tensor(link.attributes["places"])
        taps[torch.arange(len(ends)), slots(*grid)[position]] = 1.0
        within = bins(*grid)[position].float()
    codes = torch.cat([taps, link_codes(link).expand(len(ends), -1), within], dim=1)
    return _edges(ends + first[[link.source, link.target]], codes, number, link.kind)


def _edges(ends: Tensor, codes: Tensor, number: int, kind: str) -> _Edges:
    block, types = torch.tensor([number, EDGE_TYPES.index(kind)])[:, None].expand(-1, len(ends))
    return _Edges(ends, codes, block, types)
