"""Operators that move numbers and change none."""

import torch
from torch import Tensor

Sizes = list[int]


def flatten(x: Tensor, *, start: int = 1, end: int = -1) -> Tensor:
    return x.flatten(start, end)


def reshape(x: Tensor, *, shape: Sizes) -> Tensor:
    """To sizes one of which may be -1, which says nothing: that of the samples."""
    return x.reshape(shape)


def permute(x: Tensor, *, axes: Sizes) -> Tensor:
    return x.permute(axes)


def unsqueeze(x: Tensor, *, axis: int) -> Tensor:
    return x.unsqueeze(axis)


def squeeze(x: Tensor, *, axis: int) -> Tensor:
    if x.shape[axis] != 1:
        raise ValueError(f"axis {axis} of {tuple(x.shape)} is not of size 1")
    return x.squeeze(axis)


def expand(x: Tensor, like: Tensor | None = None, *, shape: Sizes) -> Tensor:
    """To sizes, -1 where one stays; a first size of 0 is that of `like`, the number of samples."""
    sizes = [like.shape[0], *shape[1:]] if like is not None and shape[:1] == [0] else shape
    return x.expand(sizes)


def cat(*x: Tensor, axis: int) -> Tensor:
    return torch.cat(x, axis)


def stack(*x: Tensor, axis: int) -> Tensor:
    return torch.stack(x, axis)


def narrow(x: Tensor, *, axis: int, start: int, end: int, step: int = 1) -> Tensor:
    """The places start, start + step, ... below end."""
    if not 0 <= start < end <= x.shape[axis] or step < 1:
        raise ValueError(f"found places {start} to {end} in steps of {step} of {x.shape[axis]}")
    return x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]


def select(x: Tensor, *, axis: int, place: int) -> Tensor:
    return x.select(axis, place)


def index_select(x: Tensor, places: Tensor, *, axis: int) -> Tensor:
    """The places, whole numbers [places], of an axis."""
    return x.index_select(axis, places)


def flip(x: Tensor, *, axes: Sizes) -> Tensor:
    return x.flip(axes)


def roll(x: Tensor, *, axes: Sizes, shifts: Sizes) -> Tensor:
    return x.roll(shifts, axes)
