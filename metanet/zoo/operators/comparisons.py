"""Comparisons, choices by them, and the larger or smaller of two values."""

from typing import Literal

import torch
from torch import Tensor

Relation = Literal["lt", "le", "eq", "ge", "gt"]


def compare(x: Tensor, other: Tensor, *, relation: Relation) -> Tensor:
    """Whether it holds, place by place."""
    return getattr(torch, relation)(x, other)


def compare_number(x: Tensor, *, relation: Relation, value: float) -> Tensor:
    return getattr(torch, relation)(x, value)


def logical_not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


def logical_and(x: Tensor, other: Tensor) -> Tensor:
    return torch.logical_and(x, other)


def logical_or(x: Tensor, other: Tensor) -> Tensor:
    return torch.logical_or(x, other)


def maximum(x: Tensor, other: Tensor) -> Tensor:
    return torch.maximum(x, other)


def minimum(x: Tensor, other: Tensor) -> Tensor:
    return torch.minimum(x, other)


def where(condition: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """x where the condition holds, else the other; each may be a constant of the program."""
    return torch.where(condition, x, other)


def masked(x: Tensor, condition: Tensor) -> Tensor:
    """x where the condition holds, else minus infinity, which a softmax takes for nothing."""
    return torch.where(condition, x, -torch.inf)
