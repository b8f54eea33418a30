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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from einops import rearrange
from jaxtyping import Float, Int64

from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import WHERE, LeftOut, Source, Stack
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
BLOCK_BYTES = 16 << 20  # of weights that become a shard
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
    """The nets in the order of their rows, a stack for those of a block and of images of one size."""
    columns, wrong = _columns(table, image_set, known)
    yield from (LeftOut.of(f"weights.npy, row {row}", wrong[row]) for row in sorted(wrong))
    images = columns["image_set"].combine_chunks()
    known_sides = np.array([SIDES.get(name, 0) for name in images.dictionary.to_pylist()], np.int64)
    sides = known_sides[images.indices.to_numpy()]
    sides[list(wrong)] = 0
    layout, block = _layout(layers), max(BLOCK_BYTES // max(4 * weights.shape[1], 1), 1)
    for start in range(0, len(table), block):
        some, own = columns.slice(start, block), sides[start : start + block]
        for side in sorted(set(own.tolist()) - {0}):
            places = start + np.flatnonzero(own == side)
            rows = some if len(places) == len(some) else some.take(places - start)
            rows = rows.append_column(WHERE, [[f"weights.npy, row {place}" for place in places.tolist()]])
            yield Stack(rows, _architecture(layers, side), weights, places, layout)


def _columns(
    table: pa.Table, image_set: str | None, known: Mapping[str, type]
) -> tuple[pa.Table, dict[int, Exception]]:
    """What metrics.csv says of nets, by the manifest's names; and row -> why a net has values that are none.

    Columns of the file stay places of different values, which take a tenth of the memory.
    """
    count, columns = len(table), {f"source.{name}": table[name].combine_chunks() for name in table.column_names}
    of_table = "config.dataset" in table.column_names and not image_set
    told: list[tuple[str, pa.Array, Callable[[str], Any], pa.DataType]] = [
        (
            "image_set",
            columns["source.config.dataset"] if of_table else pa.repeat(image_set or "", count).dictionary_encode(),
            _image_set,
            pa.string(),
        ),
        *(
            (name, columns[f"source.{own}"], functools.partial(_value, own, kind), manifest.TYPES[kind])
            for name, (own, kind) in HYPERPARAMETERS.items()
            if name in known
        ),
        ("epoch", columns["source.step"], _number, pa.float64()),
        *((name, columns[f"source.{name}"], _measured, pa.float64()) for name in METRICS),
    ]
    wrong: dict[int, Exception] = {}
    for name, texts, convert, kind in told:
        columns[name], errors = _converted(texts, convert, kind)
        if name == "epoch" and errors:
            raise errors[min(errors)]
        wrong = errors | wrong
    run, epoch = columns["source.modeldir"], columns["epoch"].dictionary_decode().to_numpy()
    for row in np.flatnonzero(np.abs(epoch) >= 2.0**63).tolist():
        wrong.setdefault(row, ValueError(f"metrics.csv: found the step {epoch[row]}, expected a number of 64 bits"))
    step = np.where(np.abs(epoch) < 2.0**63, epoch, 0).astype(np.int64)
    last = np.zeros(len(run.dictionary))  # of every run
    np.maximum.at(last, run.indices.to_numpy(), epoch)
    columns |= {
        "run": run,
        "step": pa.array(step),
        "epoch": pa.array(step.astype(float)),
        "snapshot_fraction": pa.array(step / np.maximum(last, 1)[run.indices.to_numpy()]),
        "dropout": columns.get("dropout", pa.nulls(count, pa.float64())),
    }
    return pa.table(columns), wrong


def _converted(
    texts: pa.DictionaryArray, convert: Callable[[str], Any], kind: pa.DataType
) -> tuple[pa.DictionaryArray, dict[int, ValueError]]:
    """A column, each different text of which is converted once; and row -> why one could not be."""
    values, wrong = [], {}
    for place, text in enumerate(texts.dictionary.to_pylist()):
        try:
            values.append(convert(text))
        except ValueError as error:
            values.append(None)
            wrong[place] = error
    places = texts.indices.to_pylist() if wrong else ()
    errors = {row: wrong[place] for row, place in enumerate(places) if place in wrong}
    return pa.DictionaryArray.from_arrays(texts.indices, pa.array(values, kind)), errors


def _image_set(text: str) -> str:
    images = TFDS_NAMES.get(text, text)
    if images not in SIDES:
        raise ValueError(f"found the image set {images!r}, expected image_set= one of {', '.join(SIDES)}")
    return images


def _layout(layers: Layers) -> dict[str, Int64[np.ndarray, "..."]]:
    """Tensor -> the columns of its numbers: torch has kernels as [out, in, height, width] and [out, in]."""
    found = {}
    for number, layer in enumerate(layers, 1):
        name = f"conv{number}" if number < len(layers) else "head"
        for part, (start, shape) in layer.items():
            columns = start + np.arange(math.prod(shape)).reshape(shape)
            if part == "kernel":
                columns = rearrange(columns, "... channels out -> out channels ...")
            found[f"{name}.{'weight' if part == 'kernel' else 'bias'}"] = columns
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
