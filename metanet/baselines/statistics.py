"""Gradient boosting on the statistics of every tensor: the classical baseline, strong on small zoos."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from metanet.baselines.architecture_only import column_kinds, known_targets
from metanet.blocks.boosting import Boosting
from metanet.dataset import Batch, Schema
from metanet.views.statistics import architecture, statistics

INVARIANT = True


class Statistics:
    """Boosted trees on `metanet.views.statistics` beside what the template says, one ensemble per target.

    Source: Unterthiner et al. (2020), "Predicting neural network accuracy from weights", section 3. Departures: norm
    vectors and running statistics too, a few more columns per tensor, layers aligned across architectures, and
    histogram boosting with its size chosen on the validation nets.
    """

    def __init__(self, schema: Schema, **boosting: Any):
        self.kinds = column_kinds(schema)
        self.boosting = Boosting(schema.targets, **boosting)

    def fit(self, train: Batch, valid: Batch) -> None:
        self.boosting.fit(self.table(train), known_targets(train), self.table(valid), known_targets(valid))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return self.boosting.predict(self.table(batch))

    def table(self, batch: Batch) -> Float32[Tensor, "nets columns"]:
        """A row per net, in the order of the batch."""
        rows = []
        for nets in batch:
            numbers = statistics(nets.template, nets.params)
            said = architecture(nets.template, self.kinds).to(numbers.device)
            rows.append(torch.cat([numbers, said.expand(len(nets), -1)], dim=1))
        return torch.cat(rows)

    def state(self) -> dict[str, Tensor]:
        return self.boosting.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.boosting.load_state(state)
