"""Nets as parameter graphs, in two layouts of the same graph.

- `blocked`: for nets of one architecture, one dense tensor per space and per block. Mostly views: building is nearly
  free, and aggregation is a reduction over an axis. The fast path.
- `sparse`: a PyG Batch with edges sorted by destination, for any mix of architectures and for other tools.
  The reference.

Neither loops over nets: `blocked` reshapes stacked weights, `sparse` gathers them through a template's index arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch_geometric.data import Batch, Data

from metanet.arch.template import VECTOR_DEFAULTS, VECTOR_ROLES, Block, Template
from metanet.views.codes import (
    BLOCK_COLUMNS,
    GRID,
    POSITION_CODES,
    SPACE_COLUMNS,
    block_codes,
    depths,
    fixed_positions,
    space_codes,
    tap_layers,
    tap_slots,
)

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
        columns = [
            params[space.vectors[role]] if role in space.vectors else like.new_full((len(like), space.size), default)
            for role, default in VECTOR_DEFAULTS.items()
        ]
        nodes.append(torch.stack(columns, dim=-1))
    edges = [rearrange(params[block.name], _stacked(block.pattern), **block.axes) for block in template.blocks]
    return Blocked(template, nodes, edges)


@dataclass(frozen=True)
class Wiring:
    """The index arrays of one architecture: where each node and edge of one net's sparse graph comes from."""

    edge_index: Int64[Tensor, "2 edges"]  # sorted by destination
    slots: Int64[Tensor, "edges grid"]  # place of each tap among the net's weights (in block order), -1 where none
    edge_block: Int64[Tensor, " edges"]  # number of the block; blocks come first, then links
    edge_type: Int64[Tensor, " edges"]  # place in EDGE_TYPES
    node_space: Int64[Tensor, " nodes"]
    node_codes: Float[Tensor, "nodes node_codes"]
    edge_codes: Float[Tensor, "edges edge_codes"]
    graph_codes: Float[Tensor, "1 graph_codes"]

    def to(self, device: torch.device | str) -> Wiring:
        """The same arrays on a device."""
        return Wiring(**{name: value.to(device) for name, value in vars(self).items()})


def wiring(template: Template, bidirectional: bool = False) -> Wiring:
    """The index arrays of `template`; with `bidirectional` every edge has a reverse edge with a type of its own.

    Raises:
        ValueError: an operation, attribute or link that the graph cannot express.
    """
    sizes = [space.size for space in template.spaces]
    first = [sum(sizes[:i]) for i in range(len(sizes))]
    codes = block_codes(template)
    parts, slot = [], 0
    for number, block in enumerate(template.blocks):
        source, target, slots, layers = _block_edges(block, slot)
        ends = torch.stack([source + first[block.source], target + first[block.target]])
        parts.append((ends, slots, number, 0, torch.cat([codes[number].expand(len(slots), -1), layers], dim=1)))
        slot += math.prod(block.shape)
    for number, link in enumerate(template.links, start=len(template.blocks)):
        size = sizes[link.source]
        if link.kind not in LINKS or size != sizes[link.target] or link.attributes:
            raise ValueError(f"link {link}: expected one of {', '.join(LINKS)} between spaces of equal size")
        ends = torch.arange(size) + torch.tensor([[first[link.source]], [first[link.target]]])
        blank = torch.full((size, GRID * GRID), -1), torch.zeros(size, len(BLOCK_COLUMNS) + 2)
        parts.append((ends, blank[0], number, EDGE_TYPES.index(link.kind), blank[1]))
    if bidirectional:
        parts += [(ends.flip(0), slots, number, kind + 1, rest) for ends, slots, number, kind, rest in parts]

    edge_index = torch.cat([ends for ends, *_ in parts], dim=1)
    order = edge_index[1].argsort(stable=True)
    counts = torch.tensor([len(slots) for _, slots, *_ in parts])
    edge_type = torch.tensor([kind for *_, kind, _ in parts]).repeat_interleave(counts)[order]
    one_hot = torch.eye(len(EDGE_TYPES))[edge_type]
    node_space = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    positions = torch.cat(fixed_positions(template))
    quantities = (sum(math.prod(s) for s in template.shapes.values()), sum(sizes), len(order), max(depths(template)))
    return Wiring(
        edge_index=edge_index[:, order],
        slots=torch.cat([slots for _, slots, *_ in parts])[order],
        edge_block=torch.tensor([number for _, _, number, *_ in parts]).repeat_interleave(counts)[order],
        edge_type=edge_type,
        node_space=node_space,
        node_codes=torch.cat([space_codes(template)[node_space], positions], dim=1),
        edge_codes=torch.cat([torch.cat([rest for *_, rest in parts])[order], one_hot], dim=1),
        graph_codes=torch.tensor([[math.log2(1 + quantity) for quantity in quantities]]),
    )


def sparse(
    template: Template, params: Mapping[str, Tensor], bidirectional: bool = False, wires: Wiring | None = None
) -> Batch:
    """The sparse layout of stacked nets: one graph per net, on the params' device, in their floating-point type.

    `x` [nodes, NODE_COLUMNS], `edge_index` [2, edges] (source, destination; sorted by destination), `edge_attr`
    [edges, EDGE_COLUMNS], `node_space`, `edge_block`, `edge_type` (place in EDGE_TYPES), `u` [nets, GRAPH_COLUMNS].
    Pass `wires` (from `wiring`) to make the index arrays once for many calls. Cost: one gather of the weights.

    Raises:
        ValueError: as `blocked` and `wiring`.
    """
    view = blocked(template, params)
    like = view.nodes[0]
    nets, device = len(like), like.device
    wires = (wires or wiring(template, bidirectional)).to(device)
    num_nodes, num_edges = len(wires.node_space), len(wires.edge_block)

    weights = torch.cat([*(block.flatten(1) for block in view.edges), like.new_zeros(nets, 1)], dim=1)  # slot -1 is 0
    edge_attr = like.new_empty(nets, num_edges, len(EDGE_COLUMNS))
    edge_attr[:, :, : GRID * GRID] = weights[:, wires.slots]
    edge_attr[:, :, GRID * GRID :] = wires.edge_codes
    codes = wires.node_codes.to(like.dtype).expand(nets, -1, -1)
    shift = num_nodes * torch.arange(nets, device=device)
    fields = {
        "x": torch.cat([torch.cat(view.nodes, dim=1), codes], dim=-1).flatten(0, 1),
        "edge_index": (wires.edge_index[:, None] + shift[:, None]).flatten(1),
        "edge_attr": edge_attr.flatten(0, 1),
        "node_space": wires.node_space.repeat(nets),
        "edge_block": wires.edge_block.repeat(nets),
        "edge_type": wires.edge_type.repeat(nets),
        "u": wires.graph_codes.to(like.dtype).repeat(nets, 1),
    }
    ptr = torch.arange(nets + 1, device=device) * num_nodes
    batch = Batch(
        _base_cls=Data, **fields, batch=torch.arange(nets, device=device).repeat_interleave(num_nodes), ptr=ptr
    )
    # What Batch.from_data_list would have recorded, so that to_data_list and indexing work.
    steps = {"x": num_nodes, "node_space": num_nodes, "u": 1}
    batch._num_graphs = nets
    batch._slice_dict = {name: torch.arange(nets + 1) * steps.get(name, num_edges) for name in fields}
    batch._inc_dict = {
        name: shift.cpu() if name == "edge_index" else torch.zeros(nets, dtype=torch.long) for name in fields
    }
    return batch


def state_dict_of(template: Template, graph: Data) -> dict[str, Tensor]:
    """The state_dict that one sparse graph was built from: every entry of `template.shapes`, bit for bit."""
    x, edge_attr, edge_type = graph["x"], graph["edge_attr"], graph["edge_type"]
    forward = edge_type == EDGE_TYPES.index("weight")
    wires = wiring(template).to(x.device)
    slots, own = wires.slots, wires.edge_type == EDGE_TYPES.index("weight")
    weights = x.new_empty(sum(math.prod(block.shape) for block in template.blocks))
    taken = slots[own] >= 0
    weights[slots[own][taken]] = edge_attr[forward, : GRID * GRID][taken]
    entries = {}
    for block, values in zip(
        template.blocks, weights.split([math.prod(b.shape) for b in template.blocks]), strict=True
    ):
        own_axes, ours = (side.strip() for side in block.pattern.split("->"))
        names = re.findall(r"\([^)]*\)|\S+", own_axes)
        sizes = dict(zip(names, template.shapes[block.name], strict=True))
        sizes = {name: size for name, size in sizes.items() if not name.startswith("(")} | dict(block.axes)
        entries[block.name] = rearrange(values.view(block.shape), f"{ours} -> {own_axes}", **sizes)
    for space, values in zip(template.spaces, x.split([s.size for s in template.spaces]), strict=True):
        entries |= {name: values[:, VECTOR_ROLES.index(role)] for role, name in space.vectors.items()}
    assert set(entries) == set(template.shapes), "the graph and template.shapes hold different entries"
    return entries


def _block_edges(
    block: Block, first_slot: int
) -> tuple[Int64[Tensor, " edges"], Int64[Tensor, " edges"], Int64[Tensor, "edges grid"], Float[Tensor, "edges 2"]]:
    """Source and target within their spaces, tap slots, and place within the bins, of each edge of a block."""
    out, inputs, taps = block.shape
    layers, layer = tap_layers(block).unique(dim=0, return_inverse=True)
    slots = torch.full((out * inputs, len(layers), GRID * GRID), -1)
    slots[:, layer, tap_slots(block)] = first_slot + torch.arange(out * inputs * taps).view(-1, taps)
    target, source = torch.cartesian_prod(torch.arange(out), torch.arange(inputs)).T
    source = source + target // (out // block.groups) * inputs  # each group reads its own inputs
    parallel = len(layers)
    ends = source.repeat_interleave(parallel), target.repeat_interleave(parallel)
    return *ends, slots.flatten(0, 1), layers.float().repeat(out * inputs, 1)


def _stacked(pattern: str) -> str:
    own_axes, ours = pattern.split("->")
    return f"nets {own_axes}-> nets {ours}"


def _checked(template: Template, params: Mapping[str, Tensor]) -> Tensor:
    """Any one of the entries, once all of them have the template's names and shapes."""
    like = next(iter(params.values()), torch.zeros(0))
    missing = [name for name in template.shapes if name not in params]
    extra = [name for name in params if name not in template.shapes and not name.endswith("num_batches_tracked")]
    if missing or extra:
        raise ValueError(
            f"the nets do not fit the template: missing {', '.join(missing) or 'nothing'}, unknown "
            f"{', '.join(extra) or 'nothing'}. Trace the architecture that these weights belong to."
        )
    for name, shape in template.shapes.items():
        if params[name].shape != (len(like), *shape):
            raise ValueError(
                f"{name}: shape {list(params[name].shape)}, expected [{len(like)} nets, {', '.join(map(str, shape))}]"
            )
    return like
