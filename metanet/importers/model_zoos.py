"""The Model Zoos as Ray Tune wrote them: a folder per training run with params.json, result.json and checkpoints.

Schürholt et al. (2022), "Model Zoos", arXiv:2209.14764. Point `path` at the folder that holds the runs. A snapshot
lies in checkpoint_N/checkpoints or checkpoint_00000N/checkpoints (torch.save of a state_dict); its metrics are the line
of result.json whose training_iteration is N, or N + 1 where a newer Ray has counted them from 0. The nets are those of
family model_zoos_cnn.

The weights win over params.json, which is known to be wrong in places (use_bias, o_dim): channels, classes and the size
of images are read from the tensors' shapes, and what params.json says otherwise stands in source.disagreements. Layers
are matched by their order and shapes, since dropout shifts the numbers in their names. `image_set` says what the nets
were trained on, which params.json does not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from metanet.importers.intake import fitting
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.json_text import parse_json
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Foreign, LeftOut, Source

HYPERPARAMETERS = {
    "optimizer": str,
    "learning_rate": float,
    "batch_size": int,
    "activation": str,
    "initialisation": str,
    "dropout": float,
    "weight_decay": float,
}
METRICS = {  # ours: theirs
    "train_accuracy": "train_acc",
    "test_accuracy": "test_acc",
    "train_loss": "train_loss",
    "test_loss": "test_loss",
}
NOT_MEASURED = -999  # their training loss and accuracy before the first epoch
ACTIVATIONS = {"leakyrelu": "leaky_relu"}
INITIALISATIONS = {"kaiming_uniform": "he_uniform", "kaiming_normal": "he_normal"}
SIDES = {"cnn": (28, 32), "cnn3": (28, 32)}  # of images, of which the shape of the dense layer chooses
STEM = {(8, 5): "cnn", (16, 3): "cnn3"}  # (channels, kernel) of the first convolution
DISAGREEMENTS = "disagreements"


def read(folder: Folder, parser: Parser, *, image_set: str | None = None) -> Source:
    """The snapshots of all runs below the folder."""
    names = folder.names("**/checkpoint_*/checkpoints")
    runs: dict[str, dict[int, str]] = {}
    for name in names:
        run, _, number = name.removesuffix("/checkpoints").rpartition("/checkpoint_")
        if re.fullmatch(r"[0-9]{1,9}", number):
            runs.setdefault(run, {})[int(number)] = name
    params = {run: _params(folder, run) for run in runs}
    keys = sorted({key for found in params.values() if isinstance(found, dict) for key in found})
    total = sum(map(len, runs.values()))
    stream = _nets(folder, parser, runs, params, image_set)
    metrics = dict.fromkeys(METRICS, float)
    return Source(["model_zoos_cnn"], total, stream, HYPERPARAMETERS, metrics, [*keys, DISAGREEMENTS])


def _nets(
    folder: Folder,
    parser: Parser,
    runs: Mapping[str, Mapping[int, str]],
    params: Mapping[str, dict[str, Any] | Exception],
    image_set: str | None,
) -> Iterator[Foreign | LeftOut]:
    for run, snapshots in runs.items():
        try:
            about = params[run]
            if isinstance(about, Exception):
                raise about
            results = _results(folder, f"{run}/result.json")
            first = _first(folder, snapshots, results)
            snapshots = {number + first: name for number, name in snapshots.items()}
            paths = [folder.file(snapshots[step]) for step in sorted(snapshots)]
        except (ValueError, OSError) as error:
            yield from (LeftOut.of(name, error) for name in snapshots.values())
            continue
        for step, answer in zip(sorted(snapshots), parser.parse(paths), strict=True):
            where = snapshots[step]
            try:
                if isinstance(answer, ValueError):
                    raise answer
                found = net(where, answer.tensors, about)
            except ValueError as error:
                yield LeftOut.of(where, error)
                continue
            measured = results.get(step, {})
            yield Foreign(
                where=where,
                run=run,
                step=step,
                epoch=float(step),
                snapshot_fraction=step / max(*snapshots, 1),
                image_set=image_set,
                metrics={
                    name: None if measured.get(theirs) == NOT_MEASURED else _number(measured, theirs)
                    for name, theirs in METRICS.items()
                },
                **found,
            )


def net(where: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights and params.json say of a snapshot: arguments of `Foreign`.

    Raises:
        ValueError: no net of the family, or values that are none.
    """
    arch = architecture(tensors, where)
    values = {
        "optimizer": _optimizer(about),
        "learning_rate": _number(about, "optim::lr"),
        "batch_size": _whole(about, "training::batchsize"),
        "activation": _text(about, "model::nlin", ACTIVATIONS),
        "initialisation": _text(about, "model::init_type", INITIALISATIONS),
        "dropout": _number(about, "model::dropout"),
        "weight_decay": _number(about, "optim::wd"),
    }
    if values["activation"] is None:
        raise ValueError(f"{where}: params.json has no model::nlin, the activation")
    told = {"model::o_dim": arch["num_classes"], "model::channels_in": arch["image_shape"][0], "model::use_bias": True}
    wrong = [
        f"{key} is {about[key]}, the weights have {has}" for key, has in told.items() if about.get(key, has) != has
    ]
    metadata = {key: _verbatim(value) for key, value in about.items()}
    return {
        "arch": arch,
        "tensors": fitting.in_order(tensors, arch, where),
        "activation": values["activation"],
        "dropout": values["dropout"] or 0.0,
        "values": values,
        "metadata": metadata | {DISAGREEMENTS: "; ".join(wrong) or None},
    }


def architecture(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The architecture by the shapes of the weights.

    Raises:
        ValueError: they are not those of a net of the family.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    stems = [shape for shape in shapes if len(shape) == 4]
    heads = [shape for shape in shapes if len(shape) == 2]
    variant = STEM.get((stems[0][0], stems[0][2])) if stems else None
    if variant is None or len(heads) != 2:
        raise ValueError(f"{where}: found weights of the shapes {shapes[:8]}, expected a CNN 8-6-4 or 16-32-15")
    for side in SIDES[variant]:
        arch = {"family": "model_zoos_cnn", "variant": variant, "image_shape": [stems[0][1], side, side]}
        arch["num_classes"] = min(heads, key=lambda shape: shape[1] != 20)[0]
        if fitting.expected(arch)["dense.weight"][0] in heads:
            return arch
    raise ValueError(f"{where}: found dense layers {heads}, expected those of images of {SIDES[variant]} pixels")


def _params(folder: Folder, run: str) -> dict[str, Any] | Exception:
    """The content of a run's params.json, or why there is none."""
    try:
        found = folder.json(f"{run}/params.json")
    except (ValueError, OSError) as error:
        return error
    return found if isinstance(found, dict) else ValueError(f"{run}/params.json: expected an object")


def _first(folder: Folder, snapshots: Mapping[int, str], results: Mapping[int, Any]) -> int:
    """The iteration of checkpoint 0: Ray counts checkpoints themselves, from 0 on, since version 2.7.

    Then there is one for each line of result.json, from checkpoint_000000 on, and the last one's number is below the
    last iteration. Older versions call them by the iteration, and put a file .is_checkpoint or .tune_metadata beside.
    """
    home = snapshots.get(0, "").removesuffix("checkpoints")
    older = any(folder.has(f"{home}{name}") for name in (".is_checkpoint", ".tune_metadata"))
    counted = sorted(results) == [number + 1 for number in sorted(snapshots)]
    return int(home.endswith("checkpoint_000000/") and counted and not older)


def _results(folder: Folder, name: str) -> dict[int, dict[str, Any]]:
    """The lines of result.json by training_iteration; a last line that a killed run has cut short is left out.

    Raises:
        ValueError: another line is no JSON object.
    """
    lines = folder.text(name).splitlines()
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line, f"{name}, line {number}")
        except ValueError:
            if number == len(lines):
                break
            raise
        if not isinstance(entry, dict) or not isinstance(entry.get("training_iteration"), int):
            raise ValueError(f"{name}, line {number}: expected an object with a training_iteration")
        found[entry["training_iteration"]] = entry
    return found


def _optimizer(about: Mapping[str, Any]) -> str | None:
    name = _text(about, "optim::optimizer", {})
    return "momentum" if name == "sgd" and (_number(about, "optim::momentum") or 0) > 0 else name


def _text(about: Mapping[str, Any], key: str, names: Mapping[str, str]) -> str | None:
    value = about.get(key)
    return names.get(value.lower(), value.lower()) if isinstance(value, str) else None


def _number(about: Mapping[str, Any], key: str) -> float | None:
    value = about.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(about: Mapping[str, Any], key: str) -> int | None:
    value = about.get(key)
    return value if type(value) is int else None


def _verbatim(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
