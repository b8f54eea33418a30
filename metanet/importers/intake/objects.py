"""Objects: files of published zoos that hold their authors' objects -> tensors and plain metadata, by stand_ins.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metanet.importers.intake import containers, stand_ins
from metanet.importers.intake.wrappers import unwrap

COPIES = ("data_out", "labels_out", "weights_in", "checkpoint_base")  # of what data_in has


def wild_park(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of the CNN Wild Park: its state_dict; "config" is the net's, "run" that of the whole training.

    Raises:
        RefusedError: it names other classes than omegaconf's and the CNNConfig of their code.
        ValueError: damaged, or no such checkpoint.
    """
    file = stand_ins.File(path, stand_ins.CONFIG | {"*.CNNConfig"})
    if not isinstance(file.root, Mapping) or not {"model", "config"} <= set(file.root):
        raise ValueError(f"{path}: no checkpoint of the Wild Park: expected a mapping with model and config")
    found = {
        name: file.plain(file.root[name])
        for name in ("model", "config", "iteration", "last_result")
        if name in file.root
    }
    config = file.root["config"]
    parent = config.attributes().get("_parent") if isinstance(config, stand_ins.StandIn) else None
    return unwrap(found | {"run": file.plain(parent)}, str(path), containers.plain)


def model_zoos(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A preprocessed dataset of the Model Zoos: {"trainset": ModelDatasetBase, ...}, or one such object.

    Nets whose tensors have equal names and shapes are stacked, as PART/KIND/NAME [nets, *shape]; a net that is stored
    as one vector has the name "vector". The metadata have for each part "places", the kind and row of every net, and
    the object's other attributes but COPIES.

    Raises:
        RefusedError: it names another class.
        ValueError: damaged, or another object.
    """
    file = stand_ins.File(path, {"*.ModelDatasetBase"})
    parts = {"dataset": file.root} if isinstance(file.root, stand_ins.StandIn) else file.root
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError(f"{path}: found a {type(parts).__name__}, expected datasets by the names of their parts")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for part, dataset in parts.items():
        if not isinstance(dataset, stand_ins.StandIn) or "data_in" not in dataset.attributes():
            raise ValueError(f"{path}: {part}: expected a ModelDatasetBase with data_in")
        attributes = {name: value for name, value in dataset.attributes().items() if name not in COPIES}
        stacked, places = _stacked(file.plain(attributes.pop("data_in")), f"{path}: {part}")
        tensors |= {f"{part}/{name}": tensor for name, tensor in stacked.items()}
        metadata[part] = {"places": places} | {name: file.plain(value) for name, value in attributes.items()}
    return tensors, json.loads(json.dumps(metadata, default=containers.plain))


def _stacked(found: Any, where: str) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Nets as state_dicts or vectors -> stacked tensors KIND/NAME, and each net's kind and row."""
    members: dict[tuple[Any, ...], list[Mapping[str, Tensor]]] = {}
    kinds: dict[tuple[Any, ...], int] = {}
    places = []
    for number, one in enumerate(found):
        net = {"vector": one} if isinstance(one, Tensor) else one
        if not isinstance(net, Mapping) or not all(isinstance(tensor, Tensor) for tensor in net.values()):
            raise ValueError(f"{where}: net {number}: found a {type(one).__name__}, expected a state_dict or a vector")
        kind = tuple((str(name), tuple(tensor.shape), tensor.dtype) for name, tensor in net.items())
        places.append((kinds.setdefault(kind, len(kinds)), len(members.setdefault(kind, []))))
        members[kind].append(net)
    stacked = {
        f"{number}/{name}": torch.stack([net[name] for net in members[kind]])
        for kind, number in kinds.items()
        for name, _, _ in kind
    }
    return stacked, places
