"""The most frequent class, or the mean: what a score is worth that reads nothing. A control."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metanet.dataset import Batch, Schema

INVARIANT = True
READS_WEIGHTS = False


class Majority:
    """Predicts the training frequencies of the classes (as logits, one added to each count) and the mean of values."""

    def __init__(self, schema: Schema):
        self.targets = schema.targets
        self.outputs: dict[str, Tensor] = {}

    def fit(self, train: Batch, valid: Batch) -> None:
        """Counts the training nets; the validation nets are not read."""
        for target in self.targets:
            y = torch.cat([nets.targets[target.name] for nets in train])
            if target.kind == "classification":
                self.outputs[target.name] = (torch.bincount(y, minlength=target.width) + 1.0).log().log_softmax(0)
            else:
                self.outputs[target.name] = y.mean()

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        nets, device = sum(len(n) for n in batch), batch[0].rows.device
        return {name: output.to(device).expand(nets, *output.shape) for name, output in self.outputs.items()}

    def state(self) -> dict[str, Tensor]:
        return dict(self.outputs)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.outputs = dict(state)
