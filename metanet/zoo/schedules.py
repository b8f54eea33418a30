"""Schedules: by what factor each epoch's learning rate differs from the first. torch.optim has each of them."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def _step(epoch: int, epochs: int) -> float:
    """Tenfold down after half and after three quarters of the epochs, as in He et al. (2016)."""
    return 0.1 ** ((epoch >= epochs // 2) + (epoch >= 3 * epochs // 4))


# (epoch from 0, epochs) -> factor; None is the spec's learning_rate_decay after every epoch
SCHEDULES: dict[str, Callable[[int, int], float] | None] = {
    "exponential": None,
    "constant": lambda epoch, epochs: 1.0,
    "linear": lambda epoch, epochs: 1 - epoch / epochs,
    "cosine": lambda epoch, epochs: (1 + math.cos(math.pi * epoch / epochs)) / 2,  # Loshchilov and Hutter (2017)
    "step": _step,
}


def factors(names: Sequence[str], decay: Float[Tensor, " nets"], epoch: int, epochs: int) -> Float[Tensor, " nets"]:
    """The factor of every net in an epoch, which counts from 0."""
    found = decay**epoch
    for name in set(names):
        schedule = SCHEDULES[name]
        if schedule is not None:
            rows = torch.tensor([chosen == name for chosen in names], device=decay.device)
            found = torch.where(rows, schedule(epoch, epochs), found)
    return found
