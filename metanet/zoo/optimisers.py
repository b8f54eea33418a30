"""Optimizers over a population: one row per net, one column per weight, each net with its own rate and decay.

Each equals its namesake in torch.optim, to rounding, with torch's default constants where none is named. They are
elementwise, so no row touches another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 1 << 15  # numbers per pass over the columns: weights, gradients, moments and result then stay in a core's L2

Rows = Float[Tensor, "nets params"]
Column = Float[Tensor, "nets 1"]


@dataclass(frozen=True)
class Optimizer:
    """`propose(weights, gradients, moments, rate, decay, step, out)` writes the next weights to `out`.

    `step` counts from 1. Moments and gradients are overwritten, weights are not.
    """

    moments: int  # running averages per weight, zero at the start
    propose: Callable[[Rows, Rows, Sequence[Rows], Column, Column | None, int, Rows], None]


def _adam(
    weights: Rows, gradients: Rows, moments: Sequence[Rows], rate: Column, decay: Column | None, step: int, out: Rows
) -> None:
    """Kingma and Ba (2015), algorithm 1, with betas .9 and .999 and epsilon 1e-8; decay as in L2 regularisation."""
    if decay is not None:
        gradients.addcmul_(weights, decay)
    first, second = moments
    first.lerp_(gradients, 0.1)
    second.mul_(0.999).addcmul_(gradients, gradients, value=0.001)
    scale = math.sqrt(1 - 0.999**step)  # m / (sqrt(v) / scale + eps) = m * scale / (sqrt(v) + eps * scale)
    torch.sqrt(second, out=out).add_(1e-8 * scale)
    torch.div(first, out, out=out)
    torch.addcmul(weights, out, rate * (-scale / (1 - 0.9**step)), out=out)


def _adamw(
    weights: Rows, gradients: Rows, moments: Sequence[Rows], rate: Column, decay: Column | None, step: int, out: Rows
) -> None:
    """Loshchilov and Hutter (2019), algorithm 2: the decay does not pass through the moments."""
    _adam(weights, gradients, moments, rate, None, step, out)
    if decay is not None:
        out.addcmul_(weights, rate * decay, value=-1)


def _rmsprop(
    weights: Rows, gradients: Rows, moments: Sequence[Rows], rate: Column, decay: Column | None, step: int, out: Rows
) -> None:
    """Tieleman and Hinton (2012), lecture 6.5, with smoothing .99 and epsilon 1e-8."""
    if decay is not None:
        gradients.addcmul_(weights, decay)
    (second,) = moments
    second.mul_(0.99).addcmul_(gradients, gradients, value=0.01)
    torch.sqrt(second, out=out).add_(1e-8)
    torch.div(gradients, out, out=out)
    torch.addcmul(weights, out, rate, value=-1, out=out)


def _momentum(
    weights: Rows, gradients: Rows, moments: Sequence[Rows], rate: Column, decay: Column | None, step: int, out: Rows
) -> None:
    """Polyak (1964), "heavy ball", with momentum .95."""
    if decay is not None:
        gradients.addcmul_(weights, decay)
    (first,) = moments
    first.mul_(0.95).add_(gradients)
    torch.addcmul(weights, first, rate, value=-1, out=out)


def _sgd(
    weights: Rows, gradients: Rows, moments: Sequence[Rows], rate: Column, decay: Column | None, step: int, out: Rows
) -> None:
    if decay is not None:
        gradients.addcmul_(weights, decay)
    torch.addcmul(weights, gradients, rate, value=-1, out=out)


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(2, _adam),
    "adamw": Optimizer(2, _adamw),
    "rmsprop": Optimizer(1, _rmsprop),
    "momentum": Optimizer(1, _momentum),
    "sgd": Optimizer(0, _sgd),
}


class StackOptimizer:
    """The optimizers of a stack: one pass over the columns for every run of rows with the same one.

    Args:
        names: each net's, a key of OPTIMIZERS; equal ones side by side cost least.
        decay: each net's weight decay, at least 0.
        weights: gives the number of columns, the type and the device.
    """

    def __init__(self, names: Sequence[str], decay: Float[Tensor, " nets"], weights: Rows):
        self.names = list(names)
        self.runs: list[tuple[slice, Optimizer, list[Tensor], Tensor | None]] = []
        start = 0
        for name, run in groupby(names):
            rows = slice(start, start + len(list(run)))
            moments = [torch.zeros_like(weights[rows]) for _ in range(OPTIMIZERS[name].moments)]
            column = decay[rows, None].to(weights) if bool(decay[rows].any()) else None
            self.runs.append((rows, OPTIMIZERS[name], moments, column))
            start = rows.stop

    def propose(self, weights: Rows, gradients: Rows, rate: Column, step: int, out: Rows) -> None:
        """Writes the weights after step number `step` (from 1) to `out`; overwrites the gradients."""
        for rows, optimizer, moments, decay in self.runs:
            columns = max(1, _BLOCK // (rows.stop - rows.start)) if weights.device.type == "cpu" else weights.shape[1]
            blocks = zip(
                *(tensor.split(columns, 1) for tensor in (weights[rows], gradients[rows], out[rows], *moments)),
                strict=True,
            )
            for block, gradient, result, *moment in blocks:
                optimizer.propose(block, gradient, moment, rate[rows], decay, step, result)

    def state(self) -> dict[str, Tensor]:
        """The moments, as they are (not copied)."""
        return {f"{i}.{j}": m for i, (_, _, moments, _) in enumerate(self.runs) for j, m in enumerate(moments)}

    def state_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Copies of the moments of these rows, as `state` of the optimizers of these alone has them."""
        of_row = {
            row: [moment[place] for moment in moments]
            for of, _, moments, _ in self.runs
            for place, row in enumerate(range(of.start, of.stop))
        }
        runs = [list(run) for _, run in groupby(rows, key=lambda row: self.names[row])]
        moments = {i: zip(*(of_row[row] for row in run), strict=True) for i, run in enumerate(runs)}
        return {f"{i}.{j}": torch.stack(moment) for i, each in moments.items() for j, moment in enumerate(each)}
