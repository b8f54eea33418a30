"""The token view: one token per output channel, as in SANE (Schuerholt, Mahoney and Borth, 2024, section 3)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from metanet.arch.template import Template
from metanet.views.entries import edges_of, vector_of
from metanet.views.sequence import VECTOR_ORDER


class Tokens(NamedTuple):
    """The tokens of stacked nets of one architecture, in order of computation."""

    values: Float[Tensor, "nets tokens size"]  # 0 where a token is padded
    real: Bool[Tensor, "tokens size"]  # false where a token is padded
    positions: Int64[Tensor, "tokens 3"]  # of a token in the net, of its layer in the net, of its channel in the layer


def tokens(template: Template, params: Mapping[str, Tensor], size: int) -> Tokens:
    """A channel's incoming weights, bias and norm vectors in a row, cut into tokens of `size`, the last one padded.

    All tokens of a channel bear the channel's position. A space that no weight writes gives tokens of its vectors.
    """
    values, real, positions = [], [], []
    for layer, rows in enumerate(_rows(template, params)):
        length = rows.shape[-1]
        padding = -length % size
        cut = rearrange(
            F.pad(rows, (0, padding)), "nets channels (chunks size) -> nets (channels chunks) size", size=size
        )
        channels, chunks = rows.shape[1], (length + padding) // size
        values.append(cut)
        inside = (torch.arange(chunks * size, device=rows.device) < length).view(chunks, size)
        real.append(inside.repeat(channels, 1))
        channel = torch.arange(channels, device=rows.device).repeat_interleave(chunks)
        positions.append(torch.stack([torch.full_like(channel, layer), channel], dim=-1))
    place = torch.cat(positions)
    count = torch.arange(len(place), device=place.device).unsqueeze(-1)
    return Tokens(torch.cat(values, dim=1), torch.cat(real), torch.cat([count, place], dim=-1))


def _rows(template: Template, params: Mapping[str, Tensor]) -> list[Float[Tensor, "nets channels length"]]:
    """Per space with parameters: all that belongs to a channel in a row. Tied tensors appear at each use."""
    layers = []
    for number, space in enumerate(template.spaces):
        parts = [edges_of(block, params).flatten(2) for block in template.blocks if block.target == number]
        parts += [vector_of(space, role, params).unsqueeze(-1) for role in VECTOR_ORDER if role in space.vectors]
        if parts:
            layers.append(torch.cat(parts, dim=-1))
    return layers
