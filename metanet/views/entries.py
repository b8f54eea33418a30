"""The entries of stacked state_dicts as a template reads them: weight tensors as edges, vectors as values of nodes."""

from collections.abc import Mapping

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from metanet.arch.template import Block, Space


def edges_of(block: Block, params: Mapping[str, Tensor]) -> Float[Tensor, "nets out in taps"]:
    """The weights of a block; a view of them wherever their memory order allows it."""
    weight_axes, edge_axes = block.pattern.split("->")
    part = params[block.name][(slice(None), *(slice(*ends) for ends in block.slices))]
    return rearrange(part, f"nets {weight_axes}-> nets {edge_axes}", **block.axes)


def vector_of(space: Space, role: str, params: Mapping[str, Tensor]) -> Float[Tensor, "nets size"]:
    """The values of the space's nodes in one of its roles."""
    entry = params[space.vectors[role]].flatten(1)
    if role in space.starts:
        return entry[:, space.starts[role] : space.starts[role] + space.size]
    return entry.expand(-1, space.size) if entry.shape[1] == 1 else entry
