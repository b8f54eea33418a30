"""Checkpoints of a training: everything that a resumed one needs to equal an uninterrupted one bit for bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metanet.zoo import disk, shards


@dataclass
class State:
    """Where a training stands.

    Batches and dropout are drawn from generators seeded by (seed, epoch), so no generator has to be stored.
    """

    epoch: int = 0  # finished, pretraining included
    seconds: float = 0.0
    phase_started: float = 0.0  # seconds
    best_epoch: int = 0
    best_score: float = -math.inf


def save(
    path: Path, state: State, model: nn.Module, best: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """One safetensors file: model.NAME, best.NAME, optimizer.PARAMETER.NAME, and `state` in its metadata."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for parameter, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{parameter}.{name}": tensor for name, tensor in moments.items()}
    disk.write_atomically(path, shards.pack(tensors, {"state": dataclasses.asdict(state)}))


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Tensor]]:
    """Puts a checkpoint back into the model and the optimizer; its state, and the weights of the best epoch.

    Raises:
        ValueError: damaged, or of another model.
    """
    tensors, about = shards.load(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor.clone()  # a loaded tensor is mapped from the file, which will be replaced
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in parts["optimizer"].items():
        parameter, _, moment = name.partition(".")
        moments.setdefault(int(parameter), {})[moment] = tensor
    try:
        model.load_state_dict(parts["model"])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        return State(**about["state"]), parts["best"]
    except (RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not of this model ({reason}). Train anew with force=true.") from error
