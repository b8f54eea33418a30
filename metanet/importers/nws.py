"""The NWS release: 16,000 CNNs at 20 snapshots each, as raw float64 numbers beside CSV files.

Eilertsen et al. (2020), "Classifying the classifier", arXiv:2002.05688. Point `path` at the folder of the split CSVs,
or at one of them; their column `path` leads to a run's folder: weights/001.bin to 020.bin, error.bin and stat.bin.
A file holds for each layer the kernel, the bias and, but for the last, the norm's shift, scale, mean and variance.
Kernels stand there as [out, in, height, width] and [out, in] already; only the columns of the first dense layer come
position by position, where torch flattens channel by channel. The nets are those of family nws_cnn, with 20 outputs
whatever the image set; norms have torch's eps of 1e-5.

A row of error.bin is an epoch: (step, training, validation and test error in percent, smoothed validation error). The
snapshots are evenly spaced over a run's own epochs, so `step` is a snapshot's number 1 to 20 here, and the training
step is in source.step. The training error is the mean over the epoch's batches, and all errors were measured with the
statistics of the batch in the norms: the imported nets, with their running statistics, can differ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64

from metanet.importers.intake import fitting
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Foreign, Layout, LeftOut, Numbers, Source

SNAPSHOTS = 20
PROPERTIES = (
    *("dataset", "lrate", "batch_size", "batch_norm", "augmentation", "optimizer", "activation", "initialization"),
    *("filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc"),
)
NEEDED = (*PROPERTIES, "path", "weightn_conv", "weightn_fc")
OPTIMIZERS = ("adam", "rmsprop", "momentum")
ACTIVATIONS = ("relu", "elu", "sigmoid", "tanh")
INITIALISATIONS = ("constant", "normal", "glorot_uniform", "glorot_normal")
BOOLEANS = {"0": False, "1": True, "false": False, "true": True}
IMAGE_SETS = {"fashion": "fashion_mnist"}
HYPERPARAMETERS = {
    "optimizer": str,
    "learning_rate": float,
    "batch_size": int,
    "activation": str,
    "initialisation": str,
    "augmentation": bool,
}
METRICS = {"train_accuracy": float, "valid_accuracy": float, "test_accuracy": float}


def read(folder: Folder, parser: Parser) -> Source:
    """The nets that the split CSVs name; `parser` is not needed for raw numbers."""
    rows = [
        (name.removesuffix(".csv"), row) for name in folder.names("*.csv") for row in folder.rows(name, needed=NEEDED)
    ]
    metadata = ["split", *NEEDED, "step"]
    return Source(["nws_cnn"], len(rows) * SNAPSHOTS, _nets(folder, rows), HYPERPARAMETERS, METRICS, metadata)


def architecture(row: Mapping[str, str]) -> dict[str, Any]:
    """The architecture that a row of a CSV describes.

    Raises:
        ValueError: a size that is no number.
    """
    theirs = {"filter_size": "filter_size", "conv_depth": "depth_conv", "conv_width": "width_conv"}
    theirs |= {"dense_depth": "depth_fc", "dense_width": "width_fc"}
    sizes = {ours: int(row[name]) for ours, name in theirs.items()}
    return {"family": "nws_cnn", **sizes, "batch_norm": True, "image_shape": [3, 32, 32], "num_classes": 20}


def layout(arch: Mapping[str, Any]) -> Layout:
    """Where the numbers of each tensor stand in a file of weights."""
    wanted = {name: shape for name, (shape, is_floating) in fitting.expected(arch).items() if is_floating}
    found, end = {}, 0
    for name in _in_their_order(wanted):
        start, end = end, end + math.prod(wanted[name])
        found[name] = np.arange(start, end).reshape(wanted[name])
    side = 4  # of the last pool's 32 / 2^3 pixels
    found["dense1.weight"] = rearrange(found["dense1.weight"], "out (h w c) -> out (c h w)", h=side, w=side)
    return found


def _in_their_order(names: Collection[str]) -> Iterator[str]:
    """The module's tensors as they lie in a file: layers as in the module, in each the kernel or what a norm has."""
    for layer in [name.removesuffix(".weight") for name in names if name.endswith(".weight")]:
        norm = f"{layer}.running_mean" in names
        for part in ("bias", "weight", "running_mean", "running_var") if norm else ("weight", "bias"):
            yield f"{layer}.{part}"


def _nets(folder: Folder, rows: list[tuple[str, dict[str, str]]]) -> Iterator[Foreign | LeftOut]:
    for split, row in rows:
        run = row["path"].rstrip("/")
        try:
            facts, errors = _facts(row, run), _errors(folder, run)
        except (ValueError, OSError) as error:
            for snapshot in range(1, SNAPSHOTS + 1):
                yield LeftOut.of(f"{run}/weights/{snapshot:03d}.bin", error)
            continue
        own = layout(facts["arch"])
        epochs = np.round(np.linspace(0, len(errors) - 1, SNAPSHOTS)).astype(int).tolist()
        for snapshot in range(1, SNAPSHOTS + 1):
            where = f"{run}/weights/{snapshot:03d}.bin"
            try:
                folder.file(where)  # so that it counts as read
            except (ValueError, OSError) as error:
                yield LeftOut.of(where, error)
                continue
            epoch = epochs[snapshot - 1]
            step, train, valid, test, _ = errors[epoch].tolist()
            yield Foreign(
                where=where,
                run=run,
                step=snapshot,
                tensors=functools.partial(_read, folder, where, own),
                epoch=float(epoch),
                snapshot_fraction=epoch / max(len(errors) - 1, 1),
                metrics={
                    "train_accuracy": 1 - train / 100,
                    "valid_accuracy": 1 - valid / 100,
                    "test_accuracy": 1 - test / 100,
                },
                metadata={"split": split, **row, "step": f"{step:.0f}"},
                **facts,
            )


def _read(folder: Folder, where: str, layout: Layout) -> Numbers:
    """The numbers in a file of weights.

    Raises:
        ValueError: another count than the architecture has.
    """
    numbers, count = folder.doubles(where), sum(places.size for places in layout.values())
    if len(numbers) != count:
        raise ValueError(f"{where}: found {len(numbers):,} numbers, expected {count:,} by its architecture")
    with np.errstate(over="ignore"):  # to infinity, which is left out as such
        return Numbers(torch.from_numpy(numbers.astype(np.float32)), layout)


def _facts(row: Mapping[str, str], run: str) -> dict[str, Any]:
    """What all snapshots of a run share, by the CSV alone.

    Raises:
        ValueError: values that NWS does not have, or counts that do not fit the architecture.
    """
    arch = architecture(row)
    total = int(row["weightn_conv"]) + int(row["weightn_fc"])
    count = sum(math.prod(shape) for shape, is_floating in fitting.expected(arch).values() if is_floating)
    if total != count or not _boolean(row, "batch_norm"):
        raise ValueError(
            f"{run}: found batch_norm {row['batch_norm']} and {total:,} weights in the CSV, expected batch norm and "
            f"{count:,} weights for {arch}"
        )
    values = {
        "optimizer": _one_of(OPTIMIZERS, row, "optimizer"),
        "learning_rate": float(row["lrate"]),
        "batch_size": int(row["batch_size"]),
        "activation": _one_of(ACTIVATIONS, row, "activation"),
        "initialisation": _one_of(INITIALISATIONS, row, "initialization"),
        "augmentation": _boolean(row, "augmentation"),
    }
    image_set = IMAGE_SETS.get(row["dataset"], row["dataset"])
    return {"arch": arch, "activation": values["activation"], "dropout": 0.5, "image_set": image_set, "values": values}


def _errors(folder: Folder, run: str) -> Float64[np.ndarray, "epochs 5"]:
    """The rows of a run's error.bin, an epoch each.

    Raises:
        ValueError: error.bin and stat.bin do not fit together.
    """
    errors, about = folder.doubles(f"{run}/error.bin"), folder.doubles(f"{run}/stat.bin")
    epochs = int(about[0]) if len(about) and np.isfinite(about[0]) else 0
    if len(errors) % 5 or not 0 < epochs <= len(errors) // 5:
        raise ValueError(f"{run}: found {len(errors)} numbers in error.bin, expected 5 for each of {epochs} epochs")
    return errors.reshape(-1, 5)[:epochs]


def _boolean(row: Mapping[str, str], column: str) -> bool:
    found = BOOLEANS.get(row[column].lower())
    if found is None:
        raise ValueError(f"{row['path']}: {column}: found {row[column]!r}, expected one of {', '.join(BOOLEANS)}")
    return found


def _one_of(names: tuple[str, ...], row: Mapping[str, str], column: str) -> str:
    """The name behind a number in the CSV."""
    if row[column] not in map(str, range(len(names))):
        told = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
        raise ValueError(f"{row['path']}: {column}: found {row[column]!r}, expected {told}")
    return names[int(row[column])]
