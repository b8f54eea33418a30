"""Gradient boosting on the architecture alone, a control: what a target owes to the shape of the nets."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from metanet.blocks.boosting import Boosting
from metanet.dataset import Batch, Schema
from metanet.views.statistics import architecture

INVARIANT = True
READS_WEIGHTS = False


class ArchitectureOnly:
    """Boosted trees on sizes, depths, kernels, parameter counts and operations, one ensemble per target.

    A model that reads weights and scores no better has learnt nothing from them.
    """

    def __init__(self, schema: Schema, **boosting: Any):
        self.kinds = column_kinds(schema)
        self.boosting = Boosting(schema.targets, **boosting)

    def fit(self, train: Batch, valid: Batch) -> None:
        self.boosting.fit(self.table(train), known_targets(train), self.table(valid), known_targets(valid))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return self.boosting.predict(self.table(batch))

    def table(self, batch: Batch) -> Float32[Tensor, "nets columns"]:
        """A row per net, in the order of the batch, on the device of the nets."""
        rows = (architecture(nets.template, self.kinds).to(nets.rows.device).expand(len(nets), -1) for nets in batch)
        return torch.cat(list(rows))

    def state(self) -> dict[str, Tensor]:
        return self.boosting.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.boosting.load_state(state)


def column_kinds(schema: Schema) -> tuple[str, ...]:
    """The kinds of operations that the schema's templates have, sorted; each gets a column."""
    spaces = (space for template in schema.templates.values() for space in template.spaces)
    return tuple(sorted({operation.kind for space in spaces for operation in space.operations}))


def known_targets(batch: Batch) -> dict[str, Tensor]:
    """The targets of all nets of a batch."""
    return {name: torch.cat([nets.targets[name] for nets in batch]) for name in batch[0].targets}
