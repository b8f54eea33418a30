"""Source: what a format gives of a foreign zoo: its columns beforehand, and then its nets, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from torch import Tensor

from metanet.commandline import RefusedError


@dataclass(frozen=True)
class Foreign:
    """One net at one snapshot, with tensors in torch's layout under the names of `nets.build(arch).state_dict()`."""

    where: str  # in the source: file, or file and row
    run: str  # the training run, by the source's own name: its snapshots share a side of every split
    step: int  # the snapshot's number by the source's own count
    arch: Mapping[str, Any]  # what metanet.zoo.nets.build takes
    tensors: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]  # called if they are needed
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
    """Nets of one architecture whose tensors lie stacked in the source, a column for what a `Foreign` has a value of.

    Many times as fast as one by one.
    """

    where: Sequence[str]
    run: Sequence[str]
    step: Sequence[int]
    arch: Mapping[str, Any]
    tensors: Callable[[], Mapping[str, Tensor]]  # [nets, *shape]; called if they are needed
    columns: Mapping[str, pa.Array]  # by the manifest's names: activation, dropout, ..., metrics, source.NAME

    def __len__(self) -> int:
        return len(self.where)

    def rows(self, rows: Sequence[int], tensors: Callable[[], Mapping[str, Tensor]]) -> Stack:
        """Some of the nets, with their own tensors."""
        columns = {name: column.take(pa.array(rows, pa.int64())) for name, column in self.columns.items()}
        where, run, step = (
            [self.where[row] for row in rows],
            [self.run[row] for row in rows],
            [self.step[row] for row in rows],
        )
        return Stack(where, run, step, self.arch, tensors, columns)


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
