"""Heads: one linear layer per target on what a model has read of a net."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn

from metanet.targets import Target


class Heads(nn.Module):
    """{target: logits [nets, classes], or a standardised value [nets]}, read from one vector or from one per target."""

    def __init__(self, width: int, targets: Iterable[Target]):
        super().__init__()
        self.targets = tuple(targets)
        self.linears = nn.ModuleList(nn.Linear(width, target.width) for target in self.targets)

    def forward(self, x: Float[Tensor, "nets width"] | Float[Tensor, "nets targets width"]) -> dict[str, Tensor]:
        vectors = x.unbind(1) if x.dim() == 3 else [x] * len(self.targets)
        outputs = [linear(vector) for linear, vector in zip(self.linears, vectors, strict=True)]
        return {
            target.name: output if target.kind == "classification" else output.squeeze(-1)
            for target, output in zip(self.targets, outputs, strict=True)
        }
