"""Early stopping: when a net ends, by its accuracy on images that it does not train on, measured after every epoch.

With tolerance t a net ends once it has been measured 4 t times or more, first of all before training, and
t times in a row was lower than the time before, or 6 t times in all lower than the running mean (halved with each
time), or 6 t times in a row the same. A time that is the same does not interrupt those that are lower.
Source: the code of Eilertsen et al. (2020), arXiv:2002.05688, which has 5, 20, 30 and 30.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

LEAST, MOST = 4, 6  # times the tolerance
VALIDATION = 10  # one of so many training images is for validation


def split(train_images: int, tolerance: int, epochs: int, where: str) -> int:
    """How many of a net's training images, the last ones, are kept for validation.

    Raises:
        ValueError: none of them, or too few epochs to stop before their end.
    """
    if not tolerance:
        return 0
    if epochs < LEAST * tolerance:
        raise ValueError(
            f"{where}: early_stopping {tolerance} measures a net {LEAST * tolerance} times before it may end, after "
            f"{LEAST * tolerance - 1} epochs at the earliest; found {epochs} epochs, expected more"
        )
    if train_images < VALIDATION:
        raise ValueError(
            f"{where}: early_stopping {tolerance} needs one training image in {VALIDATION} for validation; found "
            f"{train_images} images"
        )
    return train_images // VALIDATION


class EarlyStopping:
    """Of the nets of a stack, each by itself.

    Args:
        tolerance: each net's, at least 1; 0 never ends.
    """

    def __init__(self, tolerance: Int64[Tensor, " nets"]):
        self.tolerance = tolerance
        self.ended = torch.full_like(tolerance, -1)  # after so many steps; -1 while it goes on
        self._counts = {name: torch.zeros_like(tolerance) for name in ("measured", "falls", "below", "same")}
        self._accuracy = torch.zeros(len(tolerance), dtype=torch.float64, device=tolerance.device)
        self._mean = self._accuracy.clone()

    @property
    def going(self) -> Bool[Tensor, " nets"]:
        return self.ended < 0

    def measure(self, accuracy: Float[Tensor, " nets"], step: int) -> None:
        """What the nets have after `step` steps."""
        measured, falls, below, same = self._counts.values()
        first = measured == 0
        lower = (accuracy < self._accuracy) & ~first
        equal = (accuracy == self._accuracy) & ~first
        self._mean.copy_(torch.where(first, accuracy, (self._mean + accuracy) / 2))
        measured += 1
        below += accuracy < self._mean
        falls.copy_(torch.where(lower, falls + 1, torch.where(equal, falls, 0)))
        same.copy_(torch.where(equal, same + 1, 0))
        self._accuracy.copy_(accuracy)
        enough = (falls >= self.tolerance) | (torch.maximum(below, same) >= MOST * self.tolerance)
        ends = enough & (measured >= LEAST * self.tolerance) & (self.tolerance > 0)
        self.ended.copy_(torch.where(self.going & ends, step, self.ended))

    def state(self) -> dict[str, Tensor]:
        """All that a measurement changes, as it is (not copied)."""
        return {"ended": self.ended, "accuracy": self._accuracy, "mean": self._mean} | self._counts
