"""The sequence view: the raw weights of a net, one number after another in order of computation."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metanet.arch.template import Template

# Within a layer as in the NWS release (Eilertsen et al., 2020): W, b, beta, gamma, moving mean, moving variance.
VECTOR_ORDER = ("bias", "shift", "scale", "mean", "variance", "slope")


class Entry(NamedTuple):
    """A tensor of the state_dict and its part in the net: a block's kind ("conv") or a vector's role ("bias")."""

    name: str
    part: str


def entries(template: Template) -> tuple[Entry, ...]:
    """Every tensor of the graph once, layer by layer: the weights that write a space, then the space's vectors.

    A tied tensor stands where it is used first.
    """
    found: dict[str, str] = {}
    for number, space in enumerate(template.spaces):
        for block in template.blocks:
            if block.target == number:
                found.setdefault(block.name, block.kind)
        for role in VECTOR_ORDER:
            if role in space.vectors:
                found.setdefault(space.vectors[role], role)
    return tuple(Entry(name, part) for name, part in found.items())


def sequence(template: Template, params: Mapping[str, Tensor]) -> Float[Tensor, "nets length"]:
    """The consecutive weights of stacked nets in torch's own (row-major) order: one cat, whatever the nets."""
    return torch.cat([params[entry.name].flatten(1) for entry in entries(template)], dim=1)
