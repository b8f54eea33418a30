"""Nets as parameter graphs, in two layouts of the same graph.

- `blocked`: for nets of one architecture, one dense tensor per space and per block. Mostly views: building is nearly
  free, and aggregation is a reduction over an axis. The fast path.
- `sparse`: a PyG Batch of ParameterGraphs, for any mix of architectures and other tools. The reference.

Neither loops over nets: `blocked` reshapes stacked weights, `sparse` copies them through a template's index arrays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import networkx
import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Batch, Data

from metanet.arch.pattern import weight_of
from metanet.arch.template import VECTOR_DEFAULTS, VECTOR_ROLES, Template
from metanet.views.codes import BLOCK_CODES, POSITION_CODES, SPACE_CODES, block_codes, fixed_positions, space_codes
from metanet.views.entries import edges_of, vector_of
from metanet.views.parameter_graph import ParameterGraph
from metanet.views.taps import GRID, tap_layers, tap_slots
from metanet.views.wiring import (
    EDGE_COLUMNS,
    EDGE_TYPES,
    GRAPH_COLUMNS,
    LINK_EDGE_CODES,
    NODE_COLUMNS,
    RELATION_COLUMNS,
    TAP_COLUMNS,
    link_edge_codes,
    link_ends,
    wiring,
)

__all__ = [
    "BLOCK_CODES",
    "EDGE_COLUMNS",
    "EDGE_TYPES",
    "GRAPH_COLUMNS",
    "GRID",
    "LINK_EDGE_CODES",
    "NODE_COLUMNS",
    "POSITION_CODES",
    "RELATION_COLUMNS",
    "SPACE_CODES",
    "TAP_COLUMNS",
    "Blocked",
    "ParameterGraph",
    "block_codes",
    "blocked",
    "fixed_positions",
    "graph_of",
    "is_bidirectional",
    "link_edge_codes",
    "link_ends",
    "networkx_of",
    "space_codes",
    "sparse",
    "state_dict_of",
    "tap_layers",
    "tap_slots",
]

CHUNK_BYTES = 2 << 20  # of taps that a CPU's thread fills at once


@dataclass(frozen=True)
class Blocked:
    """Some nets of one architecture as dense tensors, one per space and per block of the template."""

    template: Template
    nodes: list[Float[Tensor, "nets _ roles"]]  # per space: [nets, size, len(VECTOR_ROLES)]
    edges: list[Float[Tensor, "nets _ _ _"]]  # per block: [nets, out, in (per group), taps]


def blocked(template: Template, params: Mapping[str, Tensor]) -> Blocked:
    """The blocked layout of stacked nets; `params` maps each name of `template.shapes` to [nets, *shape].

    Edges are views of the weights wherever their memory order allows it. Nodes hold VECTOR_ROLES, with the value that
    does nothing (VECTOR_DEFAULTS) where a space has no such vector. `num_batches_tracked` entries are passed over.

    Raises:
        ValueError: an entry that is missing, unknown, or of another shape, by its name.
    """
    like = _checked(template, params)
    nodes = []
    for space in template.spaces:
        values = _neutral(like.dtype, like.device).expand(len(like), space.size, -1).clone()
        for role in space.vectors:
            values[..., VECTOR_ROLES.index(role)] = vector_of(space, role, params)
        nodes.append(values)
    edges = [edges_of(block, params) for block in template.blocks]
    return Blocked(template, nodes, edges)


def sparse(template: Template, params: Mapping[str, Tensor], bidirectional: bool = False) -> Batch:
    """The sparse layout of stacked nets: a PyG Batch of ParameterGraphs, on the params' device, in their type.

    With `bidirectional` every edge has a reverse edge, with a type of its own.

    Raises:
        ValueError: as `blocked` and `wiring`.
    """
    view = blocked(template, params)
    like = view.nodes[0]
    nets, device = len(like), like.device
    wires = wiring(template, bidirectional, device)
    nodes, edges = len(wires.node_space), len(wires.edge_relation)

    taps = like.new_empty(nets, edges * len(TAP_COLUMNS))
    at_once = nets  # on a GPU; a CPU's caches keep the taps of fewer nets until they are filled
    if device.type == "cpu":
        at_once = max(1, CHUNK_BYTES // max(1, taps[:1].nbytes)) * torch.get_num_threads()
    weights = [block.flatten(1).split(at_once) for block in view.edges]
    for rows, *parts in zip(taps.split(at_once), *weights, strict=True):
        rows.zero_()
        values = torch.cat(parts, dim=1)
        for places in wires.weights:
            rows.scatter_(1, places.expand(len(rows), -1), values)
        if len(wires.ones):
            rows.index_fill_(1, wires.ones, 1.0)
    net = torch.arange(nets, device=device)

    def counted(numbers: Tensor, per_net: int) -> Tensor:
        """Of every net, its numbers counting on from those of the nets before."""
        return (numbers[..., None, :] + per_net * net[:, None]).flatten(-2)

    fields = {
        "x": torch.cat(view.nodes, dim=1).flatten(0, 1),
        "node_space": counted(wires.node_space, len(wires.space_codes)),
        "place": wires.place.repeat(nets),
        "space_codes": wires.space_codes.to(like.dtype).repeat(nets, 1),
        "edge_index": counted(wires.edge_index, nodes),
        "edge_attr": taps.view(nets * edges, -1),
        "edge_relation": counted(wires.edge_relation, len(wires.relation_codes)),
        "relation_codes": wires.relation_codes.to(like.dtype).repeat(nets, 1),
        "relation_type": wires.relation_type.repeat(nets),
        "relation_block": wires.relation_block.repeat(nets),
        "u": wires.u.to(like.dtype).repeat(nets, 1),
    }
    ptr = torch.arange(nets + 1, device=device) * nodes
    batch = Batch(_base_cls=ParameterGraph, **fields, batch=net.repeat_interleave(nodes), ptr=ptr)
    # What Batch.from_data_list would have recorded, so that to_data_list and indexing work.
    one, counts = torch.arange(nets + 1), {"edge_index": nodes, "node_space": len(wires.space_codes)}
    counts["edge_relation"] = len(wires.relation_codes)
    batch._num_graphs = nets
    batch._slice_dict = {name: one * (tensor.shape[name == "edge_index"] // nets) for name, tensor in fields.items()}
    batch._inc_dict = {name: one[:-1] * counts.get(name, 0) for name in fields}
    return batch


def state_dict_of(template: Template, graph: Data) -> dict[str, Tensor]:
    """The state_dict that one sparse graph was built from: every entry of `template.shapes`, bit for bit."""
    places = wiring(template, is_bidirectional(graph), graph["x"].device).weights[0]
    sizes = [math.prod(block.shape) for block in template.blocks]
    like = graph["x"]
    entries = {name: like.new_empty(shape) for name, shape in template.shapes.items()}
    for block, values in zip(template.blocks, graph["edge_attr"].flatten()[places].split(sizes), strict=True):
        part = entries[block.name][tuple(slice(*ends) for ends in block.slices)]
        part.copy_(weight_of(block, values.view(block.shape), part.shape))
    for space, values in zip(template.spaces, graph["x"].split([s.size for s in template.spaces]), strict=True):
        for role, name in space.vectors.items():
            column, entry, start = (
                values[:, VECTOR_ROLES.index(role)],
                entries[name].view(-1),
                space.starts.get(role, 0),
            )
            entry[start : start + space.size] = column[: len(entry)]
    return entries


def is_bidirectional(graph: Data) -> bool:
    """Whether the graph has reverse edges: those of odd types."""
    return bool((graph["relation_type"] % 2).any())


def graph_of(template: Template, state_dict: Mapping[str, Tensor], bidirectional: bool = False) -> ParameterGraph:
    """The sparse graph of one net, from its ordinary state_dict.

    Raises:
        ValueError: as `sparse`.
    """
    return cast(ParameterGraph, sparse(template, _one_net(state_dict), bidirectional).get_example(0))


def networkx_of(template: Template, state_dict: Mapping[str, Tensor]) -> networkx.MultiDiGraph:
    """The graph of one net for networkx, its nodes numbered as in the sparse graph.

    Nodes have `space`, `place` (within the space), `operations` and their vectors ("bias", ...). The edge of a block
    has the block's name as its key, `kind` and `taps` (the weights, row-major over the kernel); that of a link, `kind`.

    Raises:
        ValueError: as `sparse`.
    """
    view = blocked(template, _one_net(state_dict))
    first = [sum(space.size for space in template.spaces[:i]) for i in range(len(template.spaces))]
    graph = networkx.MultiDiGraph()
    for space, start, nodes in zip(template.spaces, first, view.nodes, strict=True):
        operations = tuple(operation.kind for operation in space.operations)
        for place, values in enumerate(nodes[0].tolist()):
            vectors = {role: value for role, value in zip(VECTOR_ROLES, values, strict=True) if role in space.vectors}
            graph.add_node(start + place, space=space.name, place=place, operations=operations, **vectors)
    for block, edges in zip(template.blocks, view.edges, strict=True):
        per_group = block.shape[0] // block.groups
        for target, sources in enumerate(edges[0].tolist()):
            for inner, taps in enumerate(sources):
                source = first[block.source] + target // per_group * block.shape[1] + inner
                ends = source, first[block.target] + target
                graph.add_edge(*ends, key=block.name, kind=block.kind, taps=taps)
    wires = wiring(template)
    edge_block = wires.relation_block[wires.edge_relation]
    for number, link in enumerate(template.links, start=len(template.blocks)):
        for source, target in wires.edge_index[:, edge_block == number].T.tolist():
            graph.add_edge(source, target, key=f"{link.kind}:{number}", kind=link.kind)
    return graph


@functools.cache
def _neutral(dtype: torch.dtype, device: torch.device) -> Float[Tensor, " roles"]:
    """The values of a node that has no vectors."""
    return torch.tensor(list(VECTOR_DEFAULTS.values()), dtype=dtype, device=device)


def _one_net(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().unsqueeze(0) for name, tensor in state_dict.items()}


def _checked(template: Template, params: Mapping[str, Tensor]) -> Tensor:
    """Any one of the entries, once all of them are known to have the template's names and shapes."""
    missing = [name for name in template.shapes if name not in params]
    known = template.shapes.keys() | template.tied.keys()
    left_out = {name for name, value in params.items() if name.endswith("num_batches_tracked") or not value.numel()}
    unknown = [name for name in params if name not in known and name not in left_out]
    if missing or unknown:
        lists = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise ValueError(f"entries do not fit the template: {'; '.join(lists)}. Were they saved by this architecture?")
    like = params[next(iter(template.shapes))]
    for name, shape in template.shapes.items():
        if params[name].shape != (len(like), *shape):
            expected = f"[{len(like)} nets, {', '.join(map(str, shape))}]"
            raise ValueError(f"entry {name}: shape {list(params[name].shape)}, the template expects {expected}")
    return like
