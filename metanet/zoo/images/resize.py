"""Resizing in exact arithmetic: the same bits on every machine."""

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

_WEIGHT_BITS = 14  # of a resize weight: 8 + 14 + 14 bits and the sum over a kernel stay far below float64's 53
_CHUNK = 256  # images resized at once: their float64 copies stay in the cache


def resize(images: UInt8[Tensor, "n c h w"], shape: tuple[int, int, int]) -> UInt8[Tensor, "n channels height width"]:
    """The images at `shape` = (channels, height, width), as `metanet.zoo.images.load` has it."""
    channels, height, width = shape
    had = tuple(images.shape[1:])
    if min(shape) < 1 or (channels != had[0] and 1 not in (channels, had[0])):
        raise ValueError(
            f"image_shape {tuple(shape)} cannot be made from images of shape {had}: expected positive sizes, and "
            f"{had[0]} channels" + (" or 1" if had[0] > 1 else " or any other number to repeat the grey in")
        )
    if channels < had[0]:
        total = images.sum(1, keepdim=True)
        images = ((total + had[0] // 2) // had[0]).to(torch.uint8)
    if (height, width) != had[1:]:
        rows, columns = _weights(had[1], height), _weights(had[2], width)
        images = torch.cat([_resample(chunk, rows, columns) for chunk in images.split(_CHUNK)])
    return images.expand(-1, channels, -1, -1).contiguous()


def _resample(
    images: UInt8[Tensor, "n c h w"], rows: Float64[Tensor, "H h"], columns: Float64[Tensor, "W w"]
) -> Tensor:
    """Both axes with whole-number weights: float64 holds every partial sum exactly, in whatever order it is taken."""
    scaled = rows @ images.double() @ columns.T
    return torch.floor(scaled / 4**_WEIGHT_BITS + 0.5).to(torch.uint8)


def _weights(old: int, new: int) -> Float64[Tensor, "new old"]:
    """How each new pixel is made from the old ones, in units of 2^-14; each row sums to one exactly.

    A box where `new` divides `old` (area means), else the triangle of antialiased bilinear interpolation.
    """
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5  # of a new pixel, in old pixels
    distance = np.abs(np.arange(old)[None] - centre)
    if old % new == 0:
        weights = (distance < scale / 2).astype(np.float64)
    else:
        weights = np.maximum(0, 1 - distance / max(scale, 1))
    whole = np.rint(weights / weights.sum(1, keepdims=True) * 2**_WEIGHT_BITS)
    whole[np.arange(new), whole.argmax(1)] += 2**_WEIGHT_BITS - whole.sum(1)
    return torch.from_numpy(whole)
