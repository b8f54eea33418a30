"""Operators that read weights."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = list[int]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [*, in], weight [out, in], bias [out]."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, other: Tensor) -> Tensor:
    return x @ other


def einsum(*x: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *x)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention of [..., tokens, channels]."""
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal, scale=scale)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
) -> Tensor:
    """x [batch, in, *grid], weight [out, in / groups, *kernel]; a grid of 1, 2 or 3 axes, as many as strides."""
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[len(stride) - 1]
    return function(x, weight, bias, stride, padding, dilation, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
) -> Tensor:
    """x [batch, in, *grid], weight [in, out / groups, *kernel]."""
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(stride) - 1]
    return function(x, weight, bias, stride, padding, output_padding, groups, dilation)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *, eps: float
) -> Tensor:
    """x [batch, channels, *grid], by the statistics that were learned."""
    return F.batch_norm(x, mean, variance, weight, bias, eps=eps)


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    return F.instance_norm(x, weight=weight, bias=bias, eps=eps)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, shape: Sizes, eps: float):
    """Over the last axes, which have that shape."""
    return F.layer_norm(x, shape, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor | None = None, *, shape: Sizes, eps: float) -> Tensor:
    return F.rms_norm(x, shape, weight, eps)


def group_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, groups: int, eps: float):
    return F.group_norm(x, groups, weight, bias, eps)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [rows, channels] by whole numbers."""
    return F.embedding(ids, weight)


def recurrent(
    x: Tensor,
    *weights: Tensor,
    kind: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"],
    layers: int = 1,
    bias: bool = True,
    bidirectional: bool = False,
    batch_first: bool = True,
) -> tuple[Tensor, ...]:
    """x [batch, time, in] -> all states of the last layer, the last states [cells, batch, units], the LSTM's cells.

    `weights` as torch lists them: for each layer and direction weight_ih, weight_hh, bias_ih, bias_hh. States start
    at 0.
    """
    zeros = x.new_zeros(layers * (1 + bidirectional), x.shape[0 if batch_first else 1], weights[1].shape[1])
    start: Any = (zeros, zeros) if kind == "lstm" else zeros
    function: Any = {"lstm": torch.lstm, "gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu}[kind]
    return function(x, start, list(weights), bias, layers, 0.0, False, bidirectional, batch_first)


def item(parts: tuple[Tensor, ...], *, place: int) -> Tensor:
    """One of several results."""
    return parts[place]
