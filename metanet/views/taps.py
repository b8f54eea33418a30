"""Where a block's taps lie on the fixed grid that every edge of the graph carries, however large its kernel is."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from metanet.arch.template import Block
from metanet.views.once import once_per_object

GRID = 7  # edges carry their taps on a GRID x GRID grid


def tap_grid(block: Block) -> tuple[int, int]:
    """Height and width of a block's taps: (1, 1) without taps, (1, k) for a 1-D kernel.

    Raises:
        ValueError: taps of more than two axes.
    """
    if len(block.taps) > 2:
        raise ValueError(f"block {block.name!r}: taps {block.taps} have {len(block.taps)} axes, expected at most 2")
    height, width = (1, 1, *block.taps)[-2:]
    return height, width


@once_per_object
def tap_slots(block: Block, device: torch.device | str | None = None) -> Int64[Tensor, " taps"]:
    """The slot of each tap on the GRID x GRID grid, row-major, in 0 ... GRID^2 - 1.

    A side of up to GRID taps is centre-aligned: tap (size - 1) // 2, which reads the output's own position under
    "same" padding, lies in the middle. A longer side is cut into GRID bins, so that taps share a slot; `tap_layers`
    tells those apart.
    """
    height, width = tap_grid(block)
    return (_slots(height)[:, None] * GRID + _slots(width)).flatten().to(device)


@once_per_object
def tap_layers(block: Block, device: torch.device | str | None = None) -> Int64[Tensor, "taps 2"]:
    """Row and column of each tap within its bin; zeros where the grid holds the whole kernel.

    (slot, row, column) is unique, so nothing is lost however large a kernel or a flattened grid is.
    """
    rows, columns = (_rank_in_bin(_slots(size)) for size in tap_grid(block))
    return torch.cartesian_prod(rows, columns).view(-1, 2).to(device)


def _slots(size: int) -> Int64[Tensor, " size"]:
    position = torch.arange(size)
    return position - (size - 1) // 2 + GRID // 2 if size <= GRID else (2 * position + 1) * GRID // (2 * size)


def _rank_in_bin(slots: Int64[Tensor, " size"]) -> Int64[Tensor, " size"]:
    return torch.arange(len(slots)) - torch.searchsorted(slots, slots)
