"""From the edges of a block back to its weight tensor; metanet/views/entries.py goes the other way."""

import re
from collections.abc import Sequence

from einops import rearrange
from torch import Tensor

from metanet.arch.template import Block


def weight_of(block: Block, edges: Tensor, shape: Sequence[int]) -> Tensor:
    """Numbers [*nets, out, in, taps] of the block's edges in the layout of its part of the weight, of this shape."""
    weight_axes, edge_axes = (side.strip() for side in block.pattern.split("->"))
    sizes = zip(re.findall(r"\([^)]*\)|\S+", weight_axes), shape, strict=True)
    known = {axis: size for axis, size in sizes if axis.isidentifier()} | dict(block.axes)
    return rearrange(edges, f"... {edge_axes} -> ... {weight_axes}", **known)
