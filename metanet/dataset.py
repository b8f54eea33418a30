"""Nets with their targets, in batches that share memory fairly between architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from metanet.arch.template import Template


@dataclass(frozen=True)
class Nets:
    """Some nets of one architecture: what every model reads. A batch is a list of these.

    `params` maps each state_dict name to [nets, *shape]; `targets` maps a target's name to class numbers [nets]
    (int64) or standardised values [nets] (float); it is empty when nothing is known.
    """

    arch: str
    template: Template
    params: Mapping[str, Tensor]
    rows: Int64[Tensor, " nets"]  # rows of the zoo's manifest
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


Batch = list[Nets]
