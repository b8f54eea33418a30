"""Splits: which training runs (lineages) a model learns from, is stopped by, and is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int64

from metanet import seeding

PARTS = ("train", "valid", "test")


def split(
    manifest: pa.Table,
    column: str | None = None,
    values: Sequence[Any] | str | None = None,
    valid: float | int = 0.15,
    test: float | int | None = 0.15,
    seed: int = 0,
) -> Int64[np.ndarray, " rows"]:
    """For every row the place in PARTS of its part; all snapshots of a lineage go to the same one.

    With `column`, the test part is the nets whose value there is among `values` ("last": the largest one in the zoo),
    `test` is null, and `valid` is a fraction of the others. Otherwise both fractions are drawn. The order of the draw
    depends on the seed and the lineages' numbers only: the same zoo gives the same split everywhere.

    Raises:
        ValueError: no such column or value, a column that varies within a lineage, fractions out of range, or a part
            that stays empty.
    """
    if (column is None) != (values is None) or (column is None) != (test is not None):
        raise ValueError(
            f"split: found column={column}, values={values}, test={test}, expected column and values, or test alone"
        )
    fractions = [valid] if test is None else [valid, test]
    if not all(0 < part < 1 for part in fractions) or sum(fractions) >= 1:
        raise ValueError(f"split: found valid={valid} and test={test}, expected fractions above 0 with a sum below 1")
    lineages, place = np.unique(manifest["lineage"].to_numpy(), return_inverse=True)
    held_out = np.zeros(len(lineages), dtype=bool)
    if column is not None:
        held_out = _held_out(manifest, column, values, place)
    order = np.argsort(seeding.keys(seed, torch.from_numpy(lineages), "split").numpy(), kind="stable")
    order = order[~held_out[order]]
    num_test = 0 if test is None else max(1, round(test * len(order)))
    num_valid = max(1, round(valid * len(order)))
    part = np.zeros(len(lineages), dtype=np.int64)
    part[order[:num_test]] = PARTS.index("test")
    part[order[num_test : num_test + num_valid]] = PARTS.index("valid")
    part[held_out] = PARTS.index("test")
    empty = [name for number, name in enumerate(PARTS) if not (part == number).any()]
    if empty:
        held = "" if column is None else f" when {column} in {values} is held out"
        raise ValueError(
            f"split: {len(lineages)} training runs leave the {' and '.join(empty)} part empty{held}. "
            f"Take a larger zoo or another split."
        )
    return part[place]


def _held_out(
    manifest: pa.Table, column: str, values: Sequence[Any] | str | None, place: Int64[np.ndarray, " rows"]
) -> Bool[np.ndarray, " lineages"]:
    names = manifest.column_names
    if column not in names:
        close = get_close_matches(column, names, n=1)
        raise ValueError(
            f"split.column={column}: no such column in the manifest, which has {', '.join(names)}"
            + (f"; did you mean {close[0]}?" if close else "")
        )
    found = manifest[column].to_pylist()
    known = sorted({value for value in found if value is not None})
    if values == "last":
        values = known[-1:]
    if not values or isinstance(values, str):
        raise ValueError(f"split.values={values}: expected last, or a list of values of {column}: {known}")
    unknown = [value for value in values if value not in known]
    if unknown or len(known) < 2:
        raise ValueError(
            f"split: cannot hold out {column} in {list(values)}, because this zoo's nets have {column} in {known}. "
            f"Choose others with split.values=[...], or another split."
        )
    chosen = set(values)
    match = np.array([value in chosen for value in found])
    share = np.bincount(place, weights=match) / np.bincount(place)
    if ((share > 0) & (share < 1)).any():
        raise ValueError(f"split.column={column} varies within a training run, whose snapshots have to stay together")
    return share == 1
