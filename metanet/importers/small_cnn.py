"""Unterthiner's small CNN zoos: all nets of an image set in one array, weights.npy [nets, 4970].

Unterthiner et al. (2020), "Predicting neural network accuracy from weights", arXiv:2002.11448. Point `path` at a folder
with weights.npy, layout.csv (which variable has which columns, and its shape) and metrics.csv.gz or metrics.csv (a row
per net). The variables are Keras's: kernels [height, width, in, out] and [in, out], a layer's bias before its kernel.
The nets are those of family small_cnn: 3 x 3 convolutions of stride 2 without padding, each -> activation, then the
average over pixels and a dense layer. They were fed with grey images in [-1, 1].

A row is a snapshot: its `step` is the epoch, and its `modeldir` the training run. Nets whose weights are not finite,
as some of the release are, are left out and counted.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metanet.importers.intake.folder import Folder, release
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Foreign, LeftOut, Source, Stack

HYPERPARAMETERS = {  # ours: (theirs, kind)
    "optimizer": ("config.optimizer", str),
    "learning_rate": ("config.learning_rate", float),
    "activation": ("config.activation", str),
    "initialisation": ("config.w_init", str),
    "initial_std": ("config.init_std", float),
    "dropout": ("config.dropout", float),
    "weight_decay": ("config.l2reg", float),
    "train_fraction": ("config.train_fraction", float),
}
INITIALISATIONS = {
    "glorotnormal": "glorot_normal",
    "henormal": "he_normal",
    "randomnormal": "normal",
    "truncatednormal": "truncated_normal",
}
METRICS = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
NEEDED = ("modeldir", "step", "config.activation", *METRICS)
TFDS_NAMES = {"svhn_cropped": "svhn"}  # TFDS name -> ours
BLOCK_NETS = 512  # that are read together
SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32, "svhn": 32}


def read(folder: Folder, parser: Parser, *, image_set: str | None = None) -> Source:
    """The nets of one folder; `image_set` is needed where metrics.csv has no column config.dataset."""
    weights = folder.array("weights.npy")
    metrics = "metrics.csv.gz" if folder.has("metrics.csv.gz") else "metrics.csv"
    rows = folder.rows(metrics, needed=NEEDED)
    layers = _layers(folder.rows("layout.csv", needed=("varname", "start_idx", "end_idx", "shape")), weights)
    if len(rows) != len(weights):
        raise ValueError(
            f"{folder.path}: found {len(rows):,} rows in {metrics}, expected {len(weights):,}, one per net"
        )
    theirs = list(rows[0]) if rows else list(NEEDED)
    known = {name: kind for name, (column, kind) in HYPERPARAMETERS.items() if column in theirs}
    stream = _nets(weights, rows, layers, image_set, known)
    return Source(["small_cnn"], len(rows), stream, known, dict.fromkeys(METRICS, float), theirs)


def _nets(
    weights: Float[np.ndarray, "nets numbers"],
    rows: list[dict[str, str]],
    layers: list[dict[str, tuple[int, tuple[int, ...]]]],
    image_set: str | None,
    known: Mapping[str, type],
) -> Iterator[Stack | LeftOut]:
    last: dict[str, float] = {}  # run -> its last epoch
    for row in rows:
        last[row["modeldir"]] = max(last.get(row["modeldir"], 0), _number(row["step"]))
    for start in range(0, len(rows), BLOCK_NETS):
        members, places = [], []
        for place, row in enumerate(rows[start : start + BLOCK_NETS], start):
            where = f"weights.npy, row {place}"
            try:
                members.append(_net(where, row, layers, image_set, known, last[row["modeldir"]]))
                places.append(place)
            except ValueError as error:
                yield LeftOut.of(where, error)
        yield Stack(members, functools.partial(tensors, weights, places, layers))


def _net(
    where: str,
    row: dict[str, str],
    layers: list[dict[str, tuple[int, tuple[int, ...]]]],
    image_set: str | None,
    known: Mapping[str, type],
    last: float,
) -> Foreign:
    """What metrics.csv says of a net.

    Raises:
        ValueError: no image set, or values that are none.
    """
    images = image_set or row.get("config.dataset")
    images = TFDS_NAMES.get(images or "", images)
    if images not in SIDES:
        raise ValueError(f"{where}: found the image set {images!r}, expected image_set= one of {', '.join(SIDES)}")
    values = {name: _value(row, *HYPERPARAMETERS[name]) for name in known}
    epoch = int(_number(row["step"]))
    return Foreign(
        where=where,
        run=row["modeldir"],
        step=epoch,
        arch=_architecture(layers, SIDES[images]),
        tensors={},
        activation=values["activation"],
        dropout=values.get("dropout") or 0.0,
        epoch=float(epoch),
        snapshot_fraction=epoch / max(last, 1),
        image_set=images,
        values=values,
        metrics={name: _measured(row[name]) for name in METRICS},
        metadata=row,
    )


def tensors(
    weights: Float[np.ndarray, "all numbers"], places: list[int], layers: list[dict[str, tuple[int, tuple[int, ...]]]]
) -> dict[str, Tensor]:
    """The state_dicts in rows of weights.npy, stacked."""
    flat = torch.from_numpy(weights[places].astype(np.float32))
    release(weights)
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(layers, 1):
        name = f"conv{number}" if number < len(layers) else "head"
        for part, (start, shape) in layer.items():
            tensor = flat[:, start : start + math.prod(shape)].view(len(flat), *shape)
            if part == "kernel":
                tensor = tensor.permute(0, 4, 3, 1, 2) if len(shape) == 4 else tensor.mT
            found[f"{name}.{'weight' if part == 'kernel' else 'bias'}"] = tensor.contiguous()
    return found


def _layers(rows: list[dict[str, str]], weights: np.ndarray) -> list[dict[str, tuple[int, tuple[int, ...]]]]:
    """For each layer {"kernel": (first column, shape), "bias": ...}, in order.

    Raises:
        ValueError: the layout does not tile the columns, or is not that of convolutions and a dense layer.
    """
    if weights.ndim != 2 or weights.dtype.kind != "f":
        raise ValueError(f"weights.npy: found {weights.dtype} {weights.shape}, expected floating-point [nets, numbers]")
    layers: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {}
    end = 0
    for row in sorted(rows, key=lambda row: int(row["start_idx"])):
        try:
            shape = ast.literal_eval(row["shape"])
            sizes = tuple(int(size) for size in (shape if isinstance(shape, tuple | list) else (shape,)))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"layout.csv: {row['varname']}: found the shape {row['shape']!r}, expected (3, 3)"
            ) from error
        start, stop = int(row["start_idx"]), int(row["end_idx"])
        if start != end or min(sizes, default=0) < 1 or stop - start != math.prod(sizes):
            raise ValueError(
                f"layout.csv: {row['varname']}: found columns {start} to {stop} for the shape {sizes}, expected "
                f"{math.prod(sizes)} columns from {end} on"
            )
        layer, _, variable = row["varname"].rpartition("/")
        layers.setdefault(layer, {})[variable.split(":")[0]] = (start, sizes)
        end = stop
    if end != weights.shape[1]:
        raise ValueError(f"layout.csv: found {end:,} columns, expected the {weights.shape[1]:,} of weights.npy")
    found = list(layers.values())
    ranks = [len(layer["kernel"][1]) if set(layer) == {"kernel", "bias"} else 0 for layer in found]
    if len(found) < 2 or ranks != [4] * (len(found) - 1) + [2]:
        raise ValueError(f"layout.csv: found the layers {list(layers)}, expected convolutions and then a dense layer")
    return found


def _architecture(layers: list[dict[str, tuple[int, tuple[int, ...]]]], side: int) -> dict[str, Any]:
    _, _, channels, width = layers[0]["kernel"][1]
    sizes = {"conv_depth": len(layers) - 1, "conv_width": width, "batch_norm": False}
    shape = [channels, side, side]
    return {"family": "small_cnn", **sizes, "image_shape": shape, "num_classes": layers[-1]["bias"][1][0]}


def _value(row: Mapping[str, str], column: str, kind: type) -> Any:
    text = row[column]
    if not text:
        return None
    if column == "config.w_init":
        return INITIALISATIONS.get(text.lower().replace("_", ""), text)
    return text if kind is str else _number(text)


def _measured(text: str) -> float | None:
    """A metric; none where it is not finite, as the loss of a net that diverges."""
    return _number(text) if text and math.isfinite(float(text)) else None


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError as error:
        raise ValueError(f"metrics.csv: found {text!r}, expected a number") from error
    if not math.isfinite(found):
        raise ValueError(f"metrics.csv: found {text!r}, expected a finite number")
    return found
