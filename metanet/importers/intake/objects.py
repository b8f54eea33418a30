"""Objects: files of published zoos that hold their authors' objects -> tensors and plain metadata, by stand_ins.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metanet.importers.intake import containers, stand_ins


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
    return containers.unwrap(found | {"run": file.plain(parent)}, str(path))
