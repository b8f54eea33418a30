"""What is predicted: a manifest column with its classes or scale, its loss, and how to read a prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

MEASURED = (
    "test_accuracy",
    "generalisation_gap",
    "psnr",
    "snapshot_fraction",
)  # real numbers of a snapshot, never classes
MOST_CLASSES = 8  # a number with more distinct values is regressed
LOG_DECADES = 1.5  # a positive number that spans as many is regressed on its log10
LEAST_ENTROPY = 0.1  # nats; keeps a target whose classes are nearly all the same from ruling the mean loss


@dataclass(frozen=True)
class Target:
    """One thing to predict. A model has one head per target with `width` outputs."""

    name: str
    kind: str  # "classification" | "regression"
    classes: tuple[str, ...] = ()  # classification: the names, sorted; a prediction is logits over them
    log: bool = False  # regression: standardised after log10
    mean: float = 0.0  # regression: of the training nets, after log10 if log
    std: float = 1.0
    shares: tuple[float, ...] = ()  # classification: of the training nets in each class

    @property
    def width(self) -> int:
        return len(self.classes) if self.kind == "classification" else 1

    def encode(self, values: np.ndarray) -> Float[np.ndarray, " nets"]:
        """Manifest values as numbers: the place in `classes` (-1 for none of them), or the value itself."""
        if self.kind == "regression":
            return values.astype(np.float64)
        places = {name: place for place, name in enumerate(self.classes)}
        return np.array([places.get(_text(value), -1) for value in values.tolist()], dtype=np.float64)

    def truth(self, encoded: Float[np.ndarray, " nets"]) -> Tensor:
        """What the loss compares with: class numbers (int64), or standardised values (float32)."""
        if self.kind == "classification":
            return torch.from_numpy(encoded.astype(np.int64))
        return torch.from_numpy((self.scaled(encoded) - self.mean) / self.std).float()

    def scaled(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """A regression target's values on the scale that it is scored on: log10 if `log`."""
        return np.log10(values) if self.log else values

    def read(self, output: Tensor) -> tuple[Float[np.ndarray, " nets"], Float[np.ndarray, "nets classes"] | None]:
        """A model's output as (class numbers, probabilities), or as (values in the target's own units, None)."""
        output = output.detach().double().cpu()
        if self.kind == "classification":
            probabilities = output.softmax(-1)
            return probabilities.argmax(-1).double().numpy(), probabilities.numpy()
        values = output.numpy() * self.std + self.mean
        return 10**values if self.log else values, None

    def loss(self, output: Tensor, truth: Tensor) -> Float[Tensor, ""]:
        """Cross-entropy or squared error, divided by that of the best constant prediction on the training nets.

        So 1 is a model that knows nothing and 0 a perfect one, and targets of different kinds can be averaged.
        """
        if self.kind == "classification":
            return F.cross_entropy(output.float(), truth) / self._entropy
        return F.mse_loss(output.float(), truth)

    @property
    def _entropy(self) -> float:
        shares = self.shares or [1 / self.width] * self.width
        return max(-sum(share * math.log(share) for share in shares if share), LEAST_ENTROPY)


def mean_loss(
    targets: Iterable[Target], outputs: Mapping[str, Tensor], truths: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """The mean over targets of `Target.loss`: what models are trained on and stopped by."""
    return torch.stack([target.loss(outputs[target.name], truths[target.name]) for target in targets]).mean()


def candidates(manifest: pa.Table, hyperparameters: Iterable[str]) -> dict[str, pa.ChunkedArray | pa.Array]:
    """Every column that could be a target: hyperparameters, the image set, and what was measured on a snapshot."""
    columns = {name: manifest[name] for name in (*hyperparameters, "image_set") if name in manifest.column_names}
    measured = set(manifest.column_names)
    if "test_accuracy" in measured:
        columns["test_accuracy"] = manifest["test_accuracy"]
    if {"train_accuracy", "test_accuracy"} <= measured:
        gap = pc.call_function("subtract", [manifest["train_accuracy"], manifest["test_accuracy"]])
        columns["generalisation_gap"] = gap  # unknown where either is
    for name in ("label", "psnr"):  # of implicit representations: what the image shows, and how well
        if name in measured:
            columns[name] = manifest[name]
    if "snapshot_fraction" in measured:
        columns["snapshot_fraction"] = manifest["snapshot_fraction"]
    return columns


def choose(names: str | Iterable[str], known: Iterable[str]) -> list[str]:
    """The known names that `target=` asks for: `all`, one name, or a list.

    Raises:
        ValueError: a name that the zoo does not have, one given twice, or none.
    """
    known = list(known)
    if names == "all":
        return known
    chosen = [names] if isinstance(names, str) else list(names)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"target={chosen}: expected all, a name, or a list of different names of {', '.join(known)}")
    for name in chosen:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"target {name!r}: this zoo has {', '.join(known)}{hint}")
    return chosen


def find(
    table: pa.Table,
    columns: Mapping[str, pa.ChunkedArray | pa.Array],
    names: str | Iterable[str],
    train: Bool[np.ndarray, " nets"],
    held_out: str | None,
) -> tuple[tuple[Target, ...], dict[str, str]]:
    """The targets that `target=` asks for, out of the candidates, and why others of them are left out.

    `table` is the manifest of these nets; `held_out` is the column that the split goes by.

    Raises:
        ValueError: a name that is no candidate, or that was asked for by name and cannot be a target.
    """
    arch = np.unique(table["arch"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    lineage = table["lineage"].to_numpy()
    found, left_out = [], {}
    for name in choose(names, columns):
        target = "held out by the split" if name == held_out else describe(name, columns[name], arch, lineage, train)
        if isinstance(target, Target):
            found.append(target)
        elif names == "all":
            left_out[name] = target
        else:
            raise ValueError(f"{name} cannot be a target: {target}")
    return tuple(found), left_out


def known(
    columns: Mapping[str, pa.ChunkedArray | pa.Array], wanted: Iterable[Target]
) -> tuple[tuple[Target, ...], dict[str, str]]:
    """The targets of a run that another zoo has too, and why others are left out."""
    found, left_out = [], {}
    for target in wanted:
        if target.name not in columns:
            left_out[target.name] = "this zoo has no such column"
        elif columns[target.name].null_count:
            left_out[target.name] = f"{columns[target.name].null_count} nets have no value"
        else:
            found.append(target)
    return tuple(found), left_out


def describe(
    name: str,
    values: pa.ChunkedArray | pa.Array,
    arch: Int64[np.ndarray, " nets"],
    lineage: Int64[np.ndarray, " nets"],
    train: Bool[np.ndarray, " nets"],
) -> Target | str:
    """The target in a column, or why it is none: constant, incomplete, or given away by the architecture.

    `arch` and `lineage` number each net's architecture and training run. Text, booleans, and numbers with few distinct
    values that repeat are classes. Other numbers are regressed, on log10 where they are all positive and span
    `LOG_DECADES`; a range that touches zero stays linear. Mean, std and shares are of the nets in `train`.
    """
    if values.null_count:
        return f"{values.null_count} nets have no value"
    column = values.to_numpy(zero_copy_only=False)
    distinct, place = np.unique(column, return_inverse=True)
    if len(distinct) == 1:
        return f"the same for every net ({_text(distinct[0])})"
    if len(np.unique(place[train])) == 1:
        return "the same for every training net"
    if name not in MEASURED and _given_away(place, arch, lineage):
        return "every architecture has one value of it"
    numeric = np.issubdtype(column.dtype, np.number)
    repeated = 2 * len(distinct) <= len(np.unique(lineage))
    if not numeric and not repeated and len(distinct) > MOST_CLASSES:
        return f"{len(distinct)} different texts, which hardly two training runs share"
    if not numeric or (name not in MEASURED and len(distinct) <= MOST_CLASSES and repeated):
        shares = np.bincount(place[train], minlength=len(distinct)) / train.sum()
        classes = tuple(_text(value) for value in distinct.tolist())
        return Target(name, "classification", classes, shares=tuple(shares.tolist()))
    column = column.astype(np.float64)
    log = bool(column.min() > 0 and column.max() >= column.min() * 10**LOG_DECADES)
    scaled = np.log10(column[train]) if log else column[train]
    return Target(name, "regression", log=log, mean=float(scaled.mean()), std=float(scaled.std()))


def _given_away(
    place: Int64[np.ndarray, " nets"], arch: Int64[np.ndarray, " nets"], lineage: Int64[np.ndarray, " nets"]
) -> bool:
    """Whether each architecture that two training runs share has a single value, and there is such an architecture."""
    runs = np.unique(np.stack([arch, lineage]), axis=1)[0]
    shared = np.flatnonzero(np.bincount(runs) > 1)
    seen = np.isin(arch, shared)
    pairs = np.unique(np.stack([arch[seen], place[seen]]), axis=1)
    return len(shared) > 0 and pairs.shape[1] == len(shared)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
