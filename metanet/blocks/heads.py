"""Heads: one linear layer per target on what a model has read of a net."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn

from metanet.targets import Target


class Heads(nn.Module):
    """{target: logits [nets, classes], or a standardised value [nets]}."""

    def __init__(self, width: int, targets: Iterable[Target]):
        super().__init__()
        self.targets = tuple(targets)
        self.linears = nn.ModuleList(nn.Linear(width, target.width) for target in self.targets)

    def forward(self, x: Float[Tensor, "nets width"]) -> dict[str, Tensor]:
        outputs = [linear(x) for linear in self.linears]
        return {
            target.name: output if target.kind == "classification" else output.squeeze(-1)
            for target, output in zip(self.targets, outputs, strict=True)
        }
