"""The CNN Wild Park as published: checkpoint_N/checkpoint.pt of every training run, as Ray Tune wrote them.

Kofinas et al. (2024), arXiv:2403.12143, doi:10.5281/zenodo.12797219. Point `path` at the unpacked archive (the folder
above the runs). A checkpoint holds the state_dict as `model` (layers.0.weight, ..., fc.weight), the net's `config` and
the `last_result` of Ray, in classes of their code and of omegaconf; these are read with inert stand-ins
(intake/stand_ins.py). The nets are those of family wild_park_mixed: convolutions of stride 1 that keep the image's
size, `residual` says which earlier layer is added on the channels that both have, then activation; average; dense.

`labels` names their JSON of splits, {"train": {"path": [...], "score": [...], "step": [...]}, ...}: its part and test
accuracy stand in source.split and source.score. Where a checkpoint has no last_result, the score is the test accuracy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from metanet.importers.intake import splits
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser
from metanet.importers.intake.reading import each
from metanet.importers.intake.source import Foreign, LeftOut, Source

HYPERPARAMETERS = {"optimizer": str, "learning_rate": float, "batch_size": int, "weight_decay": float}
METRICS = {"test_accuracy": "test/acc", "test_loss": "test/loss"}  # ours: theirs
METADATA = ("config", "run", "split", "score")
NUMBER = re.compile(r"checkpoint_([0-9]{1,9})")
SIDE = 32  # of CIFAR-10's images, which no weight has
OWN = "own"  # the nets bring their activations along


def read(folder: Folder, parser: Parser, *, labels: str | None = None) -> Source:
    """Every checkpoint of the folder."""
    names = folder.names("**/checkpoint.pt")
    listed = {} if labels is None else splits.read(folder, labels, names, "score")
    stream = _nets(folder, parser, names, listed)
    metrics = dict.fromkeys(METRICS, float)
    return Source(["wild_park_mixed"], len(names), stream, HYPERPARAMETERS, metrics, METADATA)


def architecture(answer: Parsed, where: str) -> dict[str, Any]:
    """The architecture, by the shapes of the weights and by what the config says beside them.

    Raises:
        ValueError: no net of the Wild Park, or config and weights disagree.
    """
    config = answer.metadata.get("config")
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: found no config, expected kernel_size, channels, residual, activation, ...")
    depth = sum(tensor.dim() == 4 for tensor in answer.tensors.values())
    weights = [answer.tensors.get(f"layers.{layer}.weight") for layer in range(depth)]
    head = answer.tensors.get("fc.weight")
    if not depth or head is None or any(weight is None or weight.dim() != 4 for weight in weights):
        raise ValueError(
            f"{where}: found the tensors {list(answer.tensors)[:6]}, expected layers.0.weight to fc.weight"
        )
    shapes = [tuple(weight.shape) for weight in weights if weight is not None]
    expected = {
        "n_layers": depth,
        "n_classes": head.shape[0],
        "channels": [shapes[0][1], *(shape[0] for shape in shapes)],
        "kernel_size": [shape[2] for shape in shapes],
        "stride": [1] * depth,
        "padding": [shape[2] // 2 for shape in shapes],
    }
    for name, value in expected.items():
        if config.get(name) != value:
            raise ValueError(f"{where}: config says {name} {config.get(name)!r}, expected {value!r} with these weights")
    residual: Any = config.get("residual")
    activations: Any = config.get("activation")
    if not _is_list(residual, int, depth) or not _is_list(activations, str, depth):
        raise ValueError(
            f"{where}: found residual {residual!r} and activation {activations!r}, expected lists of {depth}: the "
            f"number of an earlier layer or -1, and names"
        )
    skips = [layer - source if source >= 0 else 0 for layer, source in enumerate(residual)]
    return {
        "family": "wild_park_mixed",
        "depth": depth,
        "kernels": "-".join(map(str, expected["kernel_size"])),
        "widths": "-".join(str(shape[0]) for shape in shapes),
        "skips": "-".join(map(str, skips)),
        "activations": "-".join(activations),
        "image_shape": [shapes[0][1], SIDE, SIDE],
        "num_classes": head.shape[0],
    }


def _nets(
    folder: Folder, parser: Parser, names: list[str], listed: Mapping[str, Mapping[str, Any]]
) -> Iterator[Foreign | LeftOut]:
    last: dict[str, int] = {}
    for name in names:
        last[_run(name)] = max(last.get(_run(name), 0), _number(name) or 0)
    for place, answer in each(folder, parser, names, "wild_park"):
        where = names[place]
        try:
            if isinstance(answer, Exception):
                raise answer
            yield _net(where, answer, last[_run(where)], listed.get(where, {}))
        except (ValueError, OSError) as error:
            yield LeftOut.of(where, error)


def _net(where: str, answer: Parsed, last: int, listed: Mapping[str, Any]) -> Foreign:
    """A checkpoint. Its step is the epoch: the number of its folder, or Ray's iteration where that has none."""
    arch = architecture(answer, where)
    result = answer.metadata.get("last_result")
    result = result if isinstance(result, Mapping) else {}
    run = result.get("config") or answer.metadata.get("run")
    run = run if isinstance(run, Mapping) else {}
    optimizer = run.get("optimizer")
    optimizer = optimizer if isinstance(optimizer, Mapping) else {}
    number, iteration = _number(where), answer.metadata.get("iteration")
    epoch = number if number is not None else iteration
    if type(epoch) is not int or epoch < 0:
        raise ValueError(
            f"{where}: found the iteration {iteration!r}, expected a folder checkpoint_N or a whole number"
        )
    metrics = {name: _real(result.get(theirs)) for name, theirs in METRICS.items()}
    score = _real(listed.get("score"))
    if metrics["test_accuracy"] is None:
        metrics["test_accuracy"] = score
    return Foreign(
        where=where,
        run=_run(where),
        step=epoch,
        epoch=float(epoch),
        snapshot_fraction=epoch / max(last, epoch, 1),
        arch=arch,
        tensors={_renamed(name, where): tensor for name, tensor in answer.tensors.items()},
        activation=OWN,
        image_set="cifar10",
        values={
            "optimizer": _optimizer(optimizer),
            "learning_rate": _real(optimizer.get("lr")),
            "batch_size": run["batch_size"] if type(run.get("batch_size")) is int else None,
            "weight_decay": _real(optimizer.get("weight_decay")),
        },
        metrics=metrics,
        metadata={
            "config": json.dumps(answer.metadata["config"], sort_keys=True),
            "run": json.dumps(run, sort_keys=True) if run else None,
            "split": listed.get("split"),
            "score": score,
        },
    )


def _renamed(name: str, where: str) -> str:
    if name.startswith("fc."):
        return f"head.{name.removeprefix('fc.')}"
    match = re.fullmatch(r"layers\.([0-9]{1,4})\.(weight|bias)", name)
    if match is None:
        raise ValueError(f"{where}: found a tensor {name}, expected layers.N and fc with weight and bias")
    return f"body.conv{int(match[1]) + 1}.{match[2]}"


def _run(name: str) -> str:
    """The training run of a checkpoint: the folder above checkpoint_N."""
    folder = PurePosixPath(name).parent
    return str(folder.parent if NUMBER.fullmatch(folder.name) else folder)


def _number(name: str) -> int | None:
    match = NUMBER.fullmatch(PurePosixPath(name).parent.name)
    return int(match[1]) if match else None


def _is_list(value: Any, kind: type, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(one) is kind for one in value)


def _optimizer(optimizer: Mapping[str, Any]) -> str | None:
    """ "torch.optim.AdamW" -> "adamw"; SGD with momentum is ours of that name."""
    target = optimizer.get("_target_")
    if not isinstance(target, str):
        return None
    name = target.rpartition(".")[2].lower()
    return "momentum" if name == "sgd" and _real(optimizer.get("momentum")) else name


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
