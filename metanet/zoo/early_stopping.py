"""Early stopping: when a net ends, by its accuracy on images that it does not train on, measured after every epoch; and
after which epochs of its own training its snapshots lie.

With tolerance t a net ends once it has been measured 4 t times or more, first of all before training, and
t times in a row was lower than the time before, or 6 t times in all lower than the running mean (halved with each
time), or 6 t times in a row the same. A time that is the same does not interrupt those that are lower.
Source: the code of Eilertsen et al. (2020), arXiv:2002.05688, which has 5, 20, 30 and 30.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float, Int64
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


def chosen(fractions: tuple[float, ...], end: int) -> tuple[int, ...]:
    """After which epochs a training of `end` epochs has its snapshots: those nearest to its fractions, each once.

    Fractions at equal distances give round(linspace(0, end, ...)), as in the published Neural Weight Space.
    """
    return tuple(sorted({round(fraction * end) for fraction in fractions}))


@functools.lru_cache(maxsize=16)
def choosable(fractions: tuple[float, ...], tolerance: int, epoch: int, last: int) -> frozenset[int]:
    """After which epochs a net may have snapshots that has not ended after `epoch` epochs, and ends after `last` at
    the latest. Those up to `epoch` are what has to be kept.

    They are no more than epoch + 1, nor than the sum of f (last - epoch) + 2 over the fractions f: for the 20
    snapshots of the Neural Weight Space and 100 epochs 77, after the 84th, and 20 in the end.
    """
    first = min(max(epoch + 1, LEAST * tolerance - 1), last)  # the first end that is possible
    # between the snapshots of the shortest and of the longest training lies one after every epoch
    return frozenset().union(*(range(round(each * first), round(each * last) + 1) for each in fractions))


class EarlyStopping:
    """Of the nets of a group, each by itself.

    Args:
        tolerance: each net's, at least 1; 0 never ends.
    """

    def __init__(self, tolerance: Int64[Tensor, " nets"]):
        self.tolerance = tolerance
        self.ended = torch.full_like(tolerance, -1)  # after so many epochs; -1 while it goes on
        self.accuracy = torch.zeros(len(tolerance), dtype=torch.float64, device=tolerance.device)  # the last one
        self._counts = {name: torch.zeros_like(tolerance) for name in ("measured", "falls", "below", "same")}
        self._mean = self.accuracy.clone()

    def measure(self, accuracy: Float[Tensor, " nets"], epoch: int) -> None:
        """What the nets have after `epoch` epochs."""
        measured, falls, below, same = self._counts.values()
        first = measured == 0
        lower = (accuracy < self.accuracy) & ~first
        equal = (accuracy == self.accuracy) & ~first
        self._mean.copy_(torch.where(first, accuracy, (self._mean + accuracy) / 2))
        measured += 1
        below += accuracy < self._mean
        falls.copy_(torch.where(lower, falls + 1, torch.where(equal, falls, 0)))
        same.copy_(torch.where(equal, same + 1, 0))
        self.accuracy.copy_(accuracy)
        enough = (falls >= self.tolerance) | (torch.maximum(below, same) >= MOST * self.tolerance)
        ends = enough & (measured >= LEAST * self.tolerance) & (self.tolerance > 0)
        self.ended.copy_(torch.where((self.ended < 0) & ends, epoch, self.ended))

    def state(self) -> dict[str, Tensor]:
        """All that a measurement changes, as it is (not copied)."""
        return {"ended": self.ended, "accuracy": self.accuracy, "mean": self._mean} | self._counts
