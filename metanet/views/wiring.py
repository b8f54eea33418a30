"""The sparse graph of an architecture without its weights: index arrays that gather any of its nets into PyG graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
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
    link_codes,
    places,
    space_codes,
)
from metanet.views.once import once_per_object
from metanet.views.taps import GRID, bins, grid_of, slots, tap_layers, tap_slots

EDGE_TYPES = ("weight", "weight_reversed", *(f"{k}{way}" for k in LINKS for way in ("", "_reversed")))
TAP_COLUMNS = tuple(f"tap.{row}.{column}" for row in range(GRID) for column in range(GRID))
RELATION_COLUMNS = (*BLOCK_COLUMNS, "plane", "row_in_bin", "column_in_bin", *(f"type.{name}" for name in EDGE_TYPES))
LINK_EDGE_CODES = len(BLOCK_COLUMNS) + GRID * GRID + 3
GRAPH_COLUMNS = ("log2_params", "log2_nodes", "log2_edges", "log2_depth")
NODE_COLUMNS = (*VECTOR_ROLES, *SPACE_COLUMNS, *(f"position.bit{i}" for i in range(POSITION_CODES)))  # once widened
EDGE_COLUMNS = (*TAP_COLUMNS, *RELATION_COLUMNS)  # once widened


@dataclass(frozen=True)
class Wiring:
    """The sparse graph of one net of an architecture without its weights, and where they belong.

    A relation is a block or a link in one direction. A block whose kernel is larger than the grid has several parallel
    edges between two nodes, each with a relation of its own; so has a link that flattens many positions.
    """

    edge_index: Int64[Tensor, "2 edges"]  # source, destination; sorted by destination
    edge_relation: Int64[Tensor, " edges"]
    relation_codes: Float32[Tensor, "relations relation_columns"]  # RELATION_COLUMNS
    relation_type: Int64[Tensor, " relations"]  # place in EDGE_TYPES
    relation_block: Int64[Tensor, " relations"]  # number of the block; blocks come first, then links
    weights: Int64[Tensor, "ways params"]  # where each belongs, in block order, in the flattened taps; forward first
    ones: Int64[Tensor, " _"]  # where the flattened taps are 1 in every net: the positions of links that flatten
    node_space: Int64[Tensor, " nodes"]
    place: Int64[Tensor, " nodes"]  # of a node that is not exchangeable; else -1
    space_codes: Float32[Tensor, "spaces space_columns"]  # SPACE_COLUMNS
    u: Float32[Tensor, "1 graph_columns"]  # GRAPH_COLUMNS


class _Edges(NamedTuple):
    """The edges of a block, in the order of its weights, or of a link."""

    ends: Int64[Tensor, "edges 2"]  # source node, target node
    layer: Int64[Tensor, " edges"]  # row of `within`
    within: Int64[Tensor, "layers 3"]  # plane, row and column within the bin
    slot: Int64[Tensor, " edges"]  # of the tap that is 1 in every net; -1 if there is none
    codes: Float32[Tensor, " codes"]  # BLOCK_COLUMNS
    kind: int  # place in EDGE_TYPES


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
    parts = [_block_edges(block, codes[i], first) for i, block in enumerate(blocks)]
    starts = list(accumulate((len(part.ends) for part in parts), initial=0))
    parts += [_link_edges(link, row, template, first) for link, row in zip(links, link_codes(template), strict=True)]
    one_way = sum(len(part.ends) for part in parts)
    numbers = list(range(len(parts)))
    if bidirectional:
        parts += [part._replace(ends=part.ends.flip(1), kind=part.kind + 1) for part in parts]
        numbers *= 2

    layers = [len(part.within) for part in parts]
    ends = torch.cat([part.ends for part in parts])
    counted = accumulate(layers, initial=0)
    relation = torch.cat([part.layer + start for part, start in zip(parts, counted, strict=False)])
    order = ends[:, 1].argsort(stable=True)
    row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))  # of each edge once they are sorted
    edge = torch.cat([start + _edge_of_weight(block) for start, block in zip(starts, blocks, strict=False)])
    slot = torch.cat([tap_slots(block).repeat(block.shape[0] * block.shape[1]) for block in blocks])
    ways = (edge, edge + one_way) if bidirectional else (edge,)
    one = torch.cat([part.slot for part in parts])
    params = sum(math.prod(shape) for shape in template.shapes.values())
    quantities = (params, sizes.sum().item(), starts[len(blocks)], max(depths(template)))
    wires = Wiring(
        edge_index=ends[order].T.contiguous(),
        edge_relation=relation[order],
        relation_codes=torch.cat([_relations(part) for part in parts]),
        relation_type=torch.tensor([part.kind for part in parts]).repeat_interleave(torch.tensor(layers)),
        relation_block=torch.tensor(numbers).repeat_interleave(torch.tensor(layers)),
        weights=torch.stack([row[way] * len(TAP_COLUMNS) + slot for way in ways]),
        ones=(row * len(TAP_COLUMNS) + one)[one >= 0],
        node_space=torch.arange(len(sizes)).repeat_interleave(sizes),
        place=places(template),
        space_codes=space_codes(template),
        u=torch.tensor([[math.log2(1 + quantity) for quantity in quantities]]),
    )
    return Wiring(**{name: tensor.to(device) for name, tensor in vars(wires).items()})


def _relations(part: _Edges) -> Float32[Tensor, "layers relation_columns"]:
    count = len(part.within)
    kind = torch.eye(len(EDGE_TYPES))[part.kind]
    return torch.cat([part.codes.expand(count, -1), part.within.float(), kind.expand(count, -1)], dim=1)


def _block_edges(block: Block, codes: Tensor, first: Tensor) -> _Edges:
    """An edge per pair of channels, or several in parallel where the taps do not fit the grid."""
    out, inputs, _ = block.shape
    layers = tap_layers(block).unique(dim=0)
    target, source = torch.cartesian_prod(torch.arange(out), torch.arange(inputs)).T
    source = source + target // (out // block.groups) * inputs  # each group reads its own inputs
    ends = torch.stack([source, target], dim=1).repeat_interleave(len(layers), dim=0)
    layer, none = torch.arange(len(layers)).repeat(out * inputs), torch.full((len(ends),), -1)
    ends = ends + first[[block.source, block.target]]
    return _Edges(ends, layer, layers, none, codes, EDGE_TYPES.index("weight"))


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


def _link_taps(link: Link) -> tuple[Int64[Tensor, " edges"], Int64[Tensor, "edges 3"]]:
    """The slot of the position that each edge of a link with taps stands for, and `bins` of it."""
    grid = grid_of(link.attributes["taps"], f"link {link.kind!r}")
    position = torch.tensor(link.attributes["places"])
    return slots(*grid)[position], bins(*grid)[position]


@once_per_object
def link_edge_codes(template: Template, device: Device = None) -> list[Float32[Tensor, "_ codes"]]:
    """Of each link [edges, LINK_EDGE_CODES], the edges as in `link_ends`: `link_codes`, then the position of the edge.

    A position is a 1 in its slot of the GRID x GRID grid and its `bins`; zeros where edges stand for no position.
    """
    tables = []
    for link, ends, codes in zip(template.links, link_ends(template), link_codes(template), strict=True):
        table = torch.zeros(len(ends), LINK_EDGE_CODES)
        table[:, : len(codes)] = codes
        if "taps" in link.attributes:
            slot, bin = _link_taps(link)
            table[torch.arange(len(ends)), len(codes) + slot] = 1.0
            table[:, -3:] = bin.float()
        tables.append(table.to(device))
    return tables


def _link_edges(link: Link, codes: Tensor, template: Template, first: Tensor) -> _Edges:
    """The edges of a link; those of one with taps ("flatten") have a tap of 1 where their position lies."""
    ends = _ends(link, template)
    slot = torch.full((len(ends),), -1)
    within, layer = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(len(ends), dtype=torch.int64)
    if "taps" in link.attributes:
        slot, bin = _link_taps(link)
        within, layer = bin.unique(dim=0, return_inverse=True)
    ends = ends + first[[link.source, link.target]]
    return _Edges(ends, layer, within, slot, codes, EDGE_TYPES.index(link.kind))
