"""Functions of one value, and sums and products of several."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def leaky_relu(x: Tensor, *, negative_slope: float) -> Tensor:
    return F.leaky_relu(x, negative_slope)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def softplus(x: Tensor, *, beta: float = 1.0) -> Tensor:
    return F.softplus(x, beta)  # type: ignore[arg-type]


def softshrink(x: Tensor, *, lambd: float = 0.5) -> Tensor:
    return F.softshrink(x, lambd)


def hardshrink(x: Tensor, *, lambd: float = 0.5) -> Tensor:
    return F.hardshrink(x, lambd)


def threshold(x: Tensor, *, threshold: float, value: float) -> Tensor:
    """x where it is above the threshold, elsewhere the value."""
    return F.threshold(x, threshold, value)


def clamp(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    return x if min is None and max is None else x.clamp(min, max)


def pow(x: Tensor, *, exponent: float) -> Tensor:
    return x.pow(int(exponent) if exponent == int(exponent) else exponent)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x [batch, channels, ...], weight [channels] or [1]."""
    return F.prelu(x, weight)


def add(x: Tensor, other: Tensor) -> Tensor:
    return x + other


def sub(x: Tensor, other: Tensor) -> Tensor:
    return x - other


def mul(x: Tensor, other: Tensor) -> Tensor:
    return x * other


def div(x: Tensor, other: Tensor) -> Tensor:
    return x / other


def add_number(x: Tensor, *, value: float) -> Tensor:
    return x + value


def sub_from_number(x: Tensor, *, value: float) -> Tensor:
    """value - x."""
    return torch.rsub(x, value)


def mul_number(x: Tensor, *, value: float) -> Tensor:
    return x * value


def div_number(x: Tensor, *, value: float) -> Tensor:
    return x / value
