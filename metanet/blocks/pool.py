"""Pooling of a set by several statistics at once."""

import torch
from jaxtyping import Float
from torch import Tensor

STATISTICS = ("mean", "std", "max", "min")


def pool(x: Float[Tensor, "*shape features"], dims: tuple[int, ...], statistics: tuple[str, ...]) -> Tensor:
    """The chosen STATISTICS over `dims`, side by side on the last axis: [*rest, len(statistics) * features].

    `std` of a single element is 1e-3, not 0: its gradient stays finite.
    """
    if "std" in statistics:
        variance, mean = torch.var_mean(x, dim=dims, correction=0)
    else:
        variance, mean = None, x.mean(dims)
    pooled = []
    for statistic in statistics:
        if statistic == "mean":
            pooled.append(mean)
        elif statistic == "std":
            assert variance is not None
            pooled.append((variance + 1e-6).sqrt())
        elif statistic == "max":
            pooled.append(x.amax(dims))
        elif statistic == "min":
            pooled.append(x.amin(dims))
        else:
            raise ValueError(f"statistic {statistic!r}: expected some of {', '.join(STATISTICS)}")
    return torch.cat(pooled, -1)
