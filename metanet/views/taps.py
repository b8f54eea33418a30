"""Where a block's taps lie on the fixed grid that every edge of the graph carries, however large its kernel is."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from metanet.arch.template import Block
from metanet.views.once import once_per_object

GRID = 7  # edges carry their taps on a GRID x GRID grid


def grid_of(taps: tuple[int, ...], where: str) -> tuple[int, int, int]:
    """Depth, height and width of taps: (1, 1, 1) without taps, (1, 1, k) for a 1-D kernel.

    Raises:
        ValueError: taps of more than three axes, at `where`.
    """
    if len(taps) > 3:
        raise ValueError(f"{where}: taps {tuple(taps)} have {len(taps)} axes, expected at most 3")
    depth, height, width = (1, 1, 1, *taps)[-3:]
    return depth, height, width


@once_per_object
def tap_slots(block: Block, device: torch.device | str | None = None) -> Int64[Tensor, " taps"]:
    """The slot of each tap of a block on the GRID x GRID grid, row-major, in 0 ... GRID^2 - 1; see `slots`."""
    return slots(*grid_of(block.taps, f"block {block.name!r}")).to(device)


@once_per_object
def tap_layers(block: Block, device: torch.device | str | None = None) -> Int64[Tensor, "taps 3"]:
    """Plane of each tap of a block, and its row and column within its bin; see `bins`."""
    return bins(*grid_of(block.taps, f"block {block.name!r}")).to(device)


def slots(depth: int, height: int, width: int) -> Int64[Tensor, " taps"]:
    """The slot of each position of a depth x height x width grid; all planes share their slots.

    A side of up to GRID positions is centre-aligned: position (size - 1) // 2, which reads the output's own place
    under torch's "same" padding, lies in the middle. A longer side is cut into GRID bins, so that positions share a
    slot; `bins` tells those apart.
    """
    return (_slots(height)[:, None] * GRID + _slots(width)).flatten().repeat(depth)


def bins(depth: int, height: int, width: int) -> Int64[Tensor, "taps 3"]:
    """Plane of each position, row and column within its bin. (slot, plane, row, column) is unique at any size."""
    rows, columns = (torch.arange(size) - torch.searchsorted(s, s) for size in (height, width) for s in [_slots(size)])
    return torch.cartesian_prod(torch.arange(depth), rows, columns)


def _slots(size: int) -> Int64[Tensor, " size"]:
    position = torch.arange(size)
    return position - (size - 1) // 2 + GRID // 2 if size <= GRID else (2 * position + 1) * GRID // (2 * size)
