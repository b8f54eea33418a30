"""The Model Zoos as preprocessed datasets: .pt files that hold objects of their class ModelDatasetBase.

Schürholt et al. (2022), "Model Zoos", arXiv:2209.14764. Point `path` at such a file, or at a folder of them. Each
holds a trainset, valset and testset with the snapshots' state_dicts (or vectors, layer by layer weight, then bias), the
paths of their runs, epochs and properties. The files run their authors' code when torch loads them; here they are read
with inert stand-ins (intake/stand_ins.py). The raw zoos, of format model_zoos, hold more: prefer them where both are.

The nets are those of family model_zoos_cnn. A vector has to be as long as one of them, and index_dict.json, if it lies
beside the file, has to divide it into the same layers. `data_out`, a copy of the nets, is left out. Zoos that vary the
seed alone do not say their `activation`, which has to be given then, and no zoo says its `image_set`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from metanet.importers import model_zoos
from metanet.importers.intake import fitting
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser
from metanet.importers.intake.source import Foreign, LeftOut, Source

METRICS: dict[str, type] = {"train_accuracy": float, "test_accuracy": float}
INDEX = "index_dict.json"
KNOWN = [  # architectures that a vector may be of
    {"family": "model_zoos_cnn", "variant": variant, "image_shape": [channels, side, side], "num_classes": 10}
    for variant in ("cnn", "cnn3")
    for channels in (1, 3)
    for side in (28, 32)
]


def read(folder: Folder, parser: Parser, *, image_set: str | None = None, activation: str | None = None) -> Source:
    """The snapshots of all datasets of the folder."""
    names = folder.names("**/*.pt")
    stream = list(_nets(folder, parser, names, image_set, activation))
    told = dict.fromkeys(name for one in stream if isinstance(one, Foreign) for name in one.metadata)

    return Source(["model_zoos_cnn"], len(stream), iter(stream), model_zoos.HYPERPARAMETERS, METRICS, list(told))


def _nets(
    folder: Folder, parser: Parser, names: list[str], image_set: str | None, activation: str | None
) -> Iterator[Foreign | LeftOut]:
    for name in names:
        try:
            (answer,) = parser.parse([folder.file(name)], "model_zoos")
            if isinstance(answer, ValueError):
                raise answer
            index = str(PurePosixPath(name).with_name(INDEX))
            layers = _layers(folder.json(index), index) if folder.has(index) else None
            parts = {part: _checked(f"{name}, {part}", about) for part, about in answer.metadata.items()}
        except (ValueError, OSError) as error:
            yield LeftOut.of(name, error)
            continue
        for part, about in parts.items():
            for number in range(len(about["places"])):
                where = f"{name}, {part} {number}"
                try:
                    yield _net(where, answer, part, number, layers, image_set, activation)
                except ValueError as error:
                    yield LeftOut.of(where, error)


def _checked(where: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part's attributes.

    Raises:
        ValueError: they are not those of as many nets, or the nets are not whole.
    """
    count = len(about["places"])
    properties = about.get("properties") or {}
    lists = {"paths": about.get("paths"), "epochs": about.get("epochs"), **properties}
    for name, values in lists.items():
        if not isinstance(values, list) or len(values) != count:
            found = f"{len(values)} values" if isinstance(values, list) else f"a {type(values).__name__}"
            raise ValueError(f"{where}: {name}: found {found}, expected {count:,}, one for each net")
    if about.get("task", "reconstruction") != "reconstruction":
        raise ValueError(
            f"{where}: found the task {about['task']!r}, expected reconstruction, whose data_out is a copy"
        )
    return about


def _net(
    where: str,
    answer: Parsed,
    part: str,
    number: int,
    layers: list[tuple[int, int]] | None,
    image_set: str | None,
    activation: str | None,
) -> Foreign:
    about = answer.metadata[part]
    kind, row = about["places"][number]
    prefix = f"{part}/{kind}/"
    tensors = {
        name.removeprefix(prefix): tensor[row] for name, tensor in answer.tensors.items() if name.startswith(prefix)
    }
    if set(tensors) == {"vector"}:
        if about.get("use_bias") is not True:
            raise ValueError(f"{where}: found a vector without biases (use_bias {about.get('use_bias')}): not the net")
        tensors = unfolded(tensors["vector"], layers, where)
    properties = {name: values[number] for name, values in (about.get("properties") or {}).items()}
    said = properties if activation is None else {"model::nlin": activation, **properties}
    if "model::nlin" not in said:
        raise ValueError(f"{where}: its properties have no model::nlin, the activation; expected activation=tanh or so")
    found = model_zoos.net(where, tensors, said)
    path, epoch = str(about["paths"][number]), about["epochs"][number]
    found["metadata"] = {"part": part, "path": path, **found["metadata"]}
    if type(epoch) is not int or epoch < 0:
        raise ValueError(f"{where}: found the epoch {epoch!r}, expected a whole number")
    return Foreign(
        where=where,
        run=path,
        step=epoch,
        epoch=float(epoch),
        image_set=image_set,
        metrics=_metrics(properties),
        **found,
    )


def unfolded(vector: Tensor, layers: list[tuple[int, int]] | None, where: str) -> dict[str, Tensor]:
    """The state_dict in a vector: layer by layer weight, then bias.

    Raises:
        ValueError: no architecture has so many numbers, or `layers` divides them otherwise.
    """
    for arch in KNOWN:
        shapes = {name: shape for name, (shape, _) in fitting.expected(arch).items()}
        sizes = [math.prod(shape) for shape in shapes.values()]
        if vector.dim() == 1 and sum(sizes) == len(vector):
            own = [(shape[0], math.prod(shape[1:])) for shape in shapes.values() if len(shape) > 1]
            if layers not in (None, own):
                raise ValueError(f"{where}: {INDEX} has the layers {layers}, expected {own}")
            return {
                name: values.view(shape)
                for (name, shape), values in zip(shapes.items(), vector.split(sizes), strict=True)
            }
    raise ValueError(f"{where}: found a vector of {tuple(vector.shape)}, expected the length of a known net")


def _layers(index: Any, name: str) -> list[tuple[int, int]]:
    """Of each layer (outputs, numbers for each of them), as index_dict.json says.

    Raises:
        ValueError: its layers overlap or leave gaps, as those of some published files do.
    """
    columns = ("idx_start", "idx_length", "kernel_no", "kernel_size", "channels_in")
    lists = [index.get(column) if isinstance(index, dict) else None for column in columns]
    numbers = [one if isinstance(one, list) and all(type(value) is int for value in one) else [] for one in lists]
    if not numbers[0] or len({len(one) for one in numbers}) != 1:
        raise ValueError(f"{name}: expected the lists {', '.join(columns)} of whole numbers, one for each layer")
    end, found = 0, []
    for start, length, outputs, area, channels in zip(*numbers, strict=True):
        expected = outputs * (area * channels + 1)
        if start != end or length != expected:
            raise ValueError(
                f"{name}: found a layer of {length} numbers from {start} on, expected {expected} from {end} on: the "
                f"layers do not tile the vector"
            )
        found.append((outputs, area * channels))
        end += length
    return found


def _metrics(properties: Mapping[str, Any]) -> dict[str, float | None]:
    """Accuracies; their ggap is that of training minus that of the test."""
    test, gap, train = (_real(properties.get(name)) for name in ("test_acc", "ggap", "train_acc"))
    if train is None and test is not None and gap is not None:
        train = test + gap
    return {"train_accuracy": train, "test_accuracy": test}


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
