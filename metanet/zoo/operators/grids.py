"""Poolings, reductions, and what changes a grid."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = list[int]


def max_pool(
    x: Tensor, *, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool = False
) -> Tensor:
    """x [batch, channels, *grid]; a grid of as many axes as the kernel."""
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    return function(x, kernel, stride, padding, dilation, ceil_mode)


def avg_pool(
    x: Tensor,
    *,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    return function(x, kernel, stride, padding, ceil_mode, count_include_pad)


def adaptive_avg_pool(x: Tensor, *, size: Sizes) -> Tensor:
    function: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    return function(x, size)


def adaptive_max_pool(x: Tensor, *, size: Sizes) -> Tensor:
    function: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[len(size) - 1]
    return function(x, size)


def mean(x: Tensor, *, axes: Sizes, keep: bool = False) -> Tensor:
    return x.mean(axes, keepdim=keep)


def sum(x: Tensor, *, axes: Sizes, keep: bool = False) -> Tensor:
    return x.sum(axes, keepdim=keep)


def amax(x: Tensor, *, axes: Sizes, keep: bool = False) -> Tensor:
    return x.amax(axes, keepdim=keep)


def amin(x: Tensor, *, axes: Sizes, keep: bool = False) -> Tensor:
    return x.amin(axes, keepdim=keep)


def var(x: Tensor, *, axes: Sizes, keep: bool = False, correction: int = 0) -> Tensor:
    return x.var(axes, keepdim=keep, correction=correction)


def norm(x: Tensor, *, axes: Sizes, keep: bool = False) -> Tensor:
    """The root of the sum of squares."""
    return torch.linalg.vector_norm(x, 2, axes, keep)


def softmax(x: Tensor, *, axis: int) -> Tensor:
    return x.softmax(axis)


def log_softmax(x: Tensor, *, axis: int) -> Tensor:
    return x.log_softmax(axis)


def pad(
    x: Tensor,
    *,
    sides: Sizes,
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant",
    value: float = 0.0,
) -> Tensor:
    """`sides` before and after the last axis, then the one before it, ..."""
    return F.pad(x, sides, mode, value if mode == "constant" else None)


def resize(
    x: Tensor,
    *,
    mode: Literal["nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic"],
    size: Sizes | None = None,
    scale: list[float] | None = None,
    align_corners: bool | None = None,
) -> Tensor:
    """x [batch, channels, *grid] to another grid."""
    return F.interpolate(x, size, scale, mode, align_corners)  # type: ignore[arg-type]


def pixel_shuffle(x: Tensor, *, factor: int) -> Tensor:
    return F.pixel_shuffle(x, factor)


def pixel_unshuffle(x: Tensor, *, factor: int) -> Tensor:
    return F.pixel_unshuffle(x, factor)
