"""Source: what a format gives of a foreign zoo: its columns beforehand, and then its nets, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from metanet.errors import RefusedError
from metanet.importers.intake.folder import release

WHERE = "source.where"
PIECE_BYTES = 1 << 21  # of weights that are worked on together: they stay in the processor's cache

MOST_DETAIL = 2000  # characters of what is told of a file, which may be the file's own


Layout = Mapping[str, Int64[np.ndarray, "..."]]  # tensor -> where each of its numbers stands in a row of numbers


@dataclass(frozen=True)
class Numbers:
    """The numbers of a net side by side as they lie in the source, which takes less time than tensor by tensor."""

    row: Float32[Tensor, " numbers"]
    layout: Layout  # the same object for nets that have the same


@dataclass(frozen=True)
class Foreign:
    """One net at one snapshot, with tensors in torch's layout under the names of `nets.build(arch).state_dict()`."""

    where: str  # in the source: file, or file and row
    run: str  # the training run, by the source's own name: its snapshots share a side of every split
    step: int  # the snapshot's number by the source's own count
    arch: Mapping[str, Any]  # what metanet.zoo.nets.build takes
    tensors: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor] | Numbers]  # called if they are needed
    activation: str = "relu"
    dropout: float = 0.0
    net: str | None = None  # where a run has several nets
    epoch: float | None = None
    snapshot_fraction: float | None = None
    image_set: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)  # hyperparameters by our names; None: not known
    metrics: Mapping[str, Any] = field(default_factory=dict)  # accuracies are fractions
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the source's own words, as they stand there


@dataclass(frozen=True)
class Stack:
    """Nets of one architecture whose numbers lie side by side in the source, many times as fast as one by one.

    They are read piece by piece where they are checked and where they are written, and may be larger than memory.
    """

    columns: pa.Table  # a row per net, by the manifest's names: source.where, run, step, activation, ..., source.NAME
    arch: Mapping[str, Any]
    numbers: Shaped[np.ndarray, "all numbers"]  # may be mapped from a file
    places: Int64[np.ndarray, " nets"]  # of the nets among its rows, ascending
    layout: Layout

    def __len__(self) -> int:
        return len(self.places)

    @property
    def where(self) -> list[str]:
        """Of every net, its place in the source."""
        return self.columns[WHERE].to_pylist()

    def rows(self, rows: Sequence[int] | np.ndarray) -> Stack:
        """Some of the nets."""
        chosen = np.asarray(rows, np.int64)
        return replace(self, columns=self.columns.take(chosen), places=self.places[chosen])

    def pieces(self) -> Iterator[tuple[int, Float32[Tensor, "rows numbers"]]]:
        """The nets' numbers, some of them at a time, each with the row of its first net; a piece is gone after it."""
        numbers = np.asarray(self.numbers)  # a memmap makes another of every slice
        count = max(PIECE_BYTES // (4 * numbers.shape[1]), 1)
        for start in range(0, len(self), count):
            places = self.places[start : start + count]
            first, end = int(places[0]), int(places[-1]) + 1
            piece = numbers[first:end] if end - first == len(places) else numbers[places]
            with np.errstate(over="ignore"):  # to infinity, which is left out as such
                yield start, torch.from_numpy(piece.astype(np.float32, copy=False))
            release(self.numbers, first, end)


@dataclass(frozen=True)
class LeftOut:
    """A net that is not imported."""

    where: str
    reason: str  # short, the same for all nets that share it
    detail: str = ""
    refused: bool = False  # it would not have been safe to read

    @staticmethod
    def of(where: str, error: Exception) -> LeftOut:
        """What is told of a file that could not be read."""
        refused = isinstance(error, RefusedError)
        detail = str(error) if where in str(error) else f"{where}: {error}"
        detail = "".join(char if char.isprintable() else repr(char)[1:-1] for char in detail)  # on one line
        detail = detail if len(detail) <= MOST_DETAIL else f"{detail[:MOST_DETAIL]} ..."
        return LeftOut(where, "not safe to read" if refused else "not readable", detail, refused)


@dataclass(frozen=True)
class Source:
    """A foreign zoo."""

    families: Sequence[str]  # of its architectures
    total: int  # snapshots that the stream will speak of
    nets: Iterator[Foreign | Stack | LeftOut]
    hyperparameters: Mapping[str, type] = field(
        default_factory=dict
    )  # those that nets have values of: columns, targets
    metrics: Mapping[str, type] = field(default_factory=dict)
    metadata: Sequence[str] = ()  # columns source.NAME, text
