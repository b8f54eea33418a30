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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from metanet.importers.intake.folder import Folder, release
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import LeftOut, Source, Stack
from metanet.zoo import manifest

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
BLOCK_BYTES = 8 << 20  # of weights that are read together
SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32, "svhn": 32}
Layers = list[dict[str, tuple[int, tuple[int, ...]]]]


def read(folder: Folder, parser: Parser, *, image_set: str | None = None) -> Source:
    """The nets of one folder; `image_set` is needed where metrics.csv has no column config.dataset."""
    weights = folder.array("weights.npy")
    metrics = "metrics.csv.gz" if folder.has("metrics.csv.gz") else "metrics.csv"
    table = folder.table(metrics, needed=NEEDED)
    layers = _layers(folder.rows("layout.csv", needed=("varname", "start_idx", "end_idx", "shape")), weights)
    if len(table) != len(weights):
        raise ValueError(
            f"{folder.path}: found {len(table):,} rows in {metrics}, expected {len(weights):,}, one per net"
        )
    known = {name: kind for name, (column, kind) in HYPERPARAMETERS.items() if column in table.column_names}
    stream = _nets(weights, table, layers, image_set, known)
    return Source(["small_cnn"], len(table), stream, known, dict.fromkeys(METRICS, float), table.column_names)


def _nets(
    weights: Float[np.ndarray, "nets numbers"],
    table: pa.Table,
    layers: Layers,
    image_set: str | None,
    known: Mapping[str, type],
) -> Iterator[Stack | LeftOut]:
    epochs, wrong = _converted(table["step"].combine_chunks(), _number, pa.float64())
    if wrong:
        raise wrong[min(wrong)]
    last: dict[str, float] = {}  # run -> its last epoch
    for run, epoch in zip(table["modeldir"].to_pylist(), epochs.to_pylist(), strict=True):
        last[run] = max(last.get(run, 0), epoch)
    block = max(BLOCK_BYTES // max(4 * weights.shape[1], 1), 1)
    for start in range(0, len(table), block):
        rows = table.slice(start, block).combine_chunks()
        yield from _block(weights, rows, start, layers, image_set, known, last)


def _block(
    weights: Float[np.ndarray, "nets numbers"],
    table: pa.Table,
    start: int,
    layers: Layers,
    image_set: str | None,
    known: Mapping[str, type],
    last: Mapping[str, float],
) -> Iterator[Stack | LeftOut]:
    """The nets from row `start` on that `table` speaks of, a stack for those of images of one size."""
    columns, wrong = _columns(table, image_set, known)
    where = [f"weights.npy, row {place}" for place in range(start, start + len(table))]
    yield from (LeftOut.of(where[row], wrong[row]) for row in sorted(wrong))
    run = table["modeldir"].to_pylist()
    step = [int(epoch) for epoch in columns["epoch"].to_pylist()]
    fractions = [epoch / max(last[own], 1) for own, epoch in zip(run, step, strict=True)]
    columns |= {"epoch": pa.array(map(float, step)), "snapshot_fraction": pa.array(fractions)}
    sides = [None if row in wrong else SIDES[name] for row, name in enumerate(columns["image_set"].to_pylist())]
    for side in sorted({side for side in sides if side}):
        inside = [row for row, own in enumerate(sides) if own == side]
        whole = len(inside) == len(table)
        places = range(start, start + len(table)) if whole else [start + row for row in inside]
        load = functools.partial(tensors, weights, places, layers)
        stack = Stack(where, run, step, _architecture(layers, side), load, columns)
        yield stack if whole else stack.rows(inside, load)


def _columns(
    table: pa.Table, image_set: str | None, known: Mapping[str, type]
) -> tuple[dict[str, pa.Array], dict[int, ValueError]]:
    """What metrics.csv says of nets, by the manifest's names; and row -> why a net has values that are none."""
    hyperparameters = [(name, HYPERPARAMETERS[name]) for name in known]
    columns = {f"source.{name}": table[name].combine_chunks() for name in table.column_names}
    of_table = "config.dataset" in table.column_names and not image_set
    images = table["config.dataset"] if of_table else pa.chunked_array([[image_set or ""] * len(table)])
    told: list[tuple[str, pa.ChunkedArray, Callable[[str], Any], pa.DataType]] = [
        ("image_set", images, _image_set, pa.string()),
        *(
            (name, table[own], functools.partial(_value, own, kind), manifest.TYPES[kind])
            for name, (own, kind) in hyperparameters
        ),
        ("epoch", table["step"], _number, pa.float64()),
        *((name, table[name], _measured, pa.float64()) for name in METRICS),
    ]
    wrong: dict[int, ValueError] = {}
    for name, texts, convert, kind in told:
        columns[name], errors = _converted(texts.combine_chunks(), convert, kind)
        wrong = errors | wrong
    dropout = columns.get("dropout", pa.nulls(len(table), pa.float64()))
    return columns | {"dropout": dropout.fill_null(0.0)}, wrong


def _converted(
    texts: pa.StringArray, convert: Callable[[str], Any], kind: pa.DataType
) -> tuple[pa.Array, dict[int, ValueError]]:
    """A column, each different text of which is converted once; and row -> why one could not be."""
    encoded = texts.dictionary_encode()
    values, wrong = [], {}
    for place, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            values.append(convert(text))
        except ValueError as error:
            values.append(None)
            wrong[place] = error
    places = encoded.indices.to_pylist() if wrong else ()
    errors = {row: wrong[place] for row, place in enumerate(places) if place in wrong}
    return pa.array(values, kind).take(encoded.indices), errors


def _image_set(text: str) -> str:
    images = TFDS_NAMES.get(text, text)
    if images not in SIDES:
        raise ValueError(f"found the image set {images!r}, expected image_set= one of {', '.join(SIDES)}")
    return images


def tensors(weights: Float[np.ndarray, "all numbers"], places: Sequence[int], layers: Layers) -> dict[str, Tensor]:
    """The state_dicts in rows of weights.npy, stacked."""
    rows = weights[places.start : places.stop] if isinstance(places, range) else weights[places]
    flat = torch.from_numpy(rows.astype(np.float32, copy=False))
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(layers, 1):
        name = f"conv{number}" if number < len(layers) else "head"
        for part, (start, shape) in layer.items():
            tensor = flat[:, start : start + math.prod(shape)]
            if part == "kernel":  # three axes in place of five are twice as fast
                *taps, channels, out = shape
                tensor = tensor.view(len(flat), math.prod(taps), channels, out).permute(0, 3, 2, 1)
                shape = (out, channels, *taps)
            own = tensor.clone(memory_format=torch.contiguous_format)
            found[f"{name}.{'weight' if part == 'kernel' else 'bias'}"] = own.view(len(flat), *shape)
    release(weights)
    return found


def _layers(rows: list[dict[str, str]], weights: np.ndarray) -> Layers:
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


def _architecture(layers: Layers, side: int) -> dict[str, Any]:
    _, _, channels, width = layers[0]["kernel"][1]
    sizes = {"conv_depth": len(layers) - 1, "conv_width": width, "batch_norm": False}
    shape = [channels, side, side]
    return {"family": "small_cnn", **sizes, "image_shape": shape, "num_classes": layers[-1]["bias"][1][0]}


def _value(column: str, kind: type, text: str) -> Any:
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
