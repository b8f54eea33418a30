"""Zero mean and unit variance per feature or per kind of tensor, fitted on training nets only."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metanet.arch.template import Template
from metanet.dataset import Nets
from metanet.views.sequence import entries


class Standardise(nn.Module):
    """(x - mean) / std of each feature on the last axis; the identity until `update` has been called.

    The statistics are buffers: they travel with the model's weights and with its device, and nothing but `update`
    changes them, so that a prediction never depends on the other nets of a batch. A feature that was constant over the
    training nets is centred and left unscaled.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))

    @torch.no_grad()
    def update(self, x: Float[Tensor, "*shape features"], mask: Bool[Tensor, "*shape"] | None = None) -> None:
        """Adds the entries of `x` where `mask` is true to the statistics; call it batch by batch over training nets.

        Moments are merged in float64 (Chan, Golub and LeVeque, 1983, eq. 1.5). NaN and infinite entries raise
        ValueError: one of them would silence the feature for ever.
        """
        x = x.flatten(0, -2).double() if mask is None else x[mask].double()
        if len(x) == 0:
            return
        mean, variance = x.mean(0), x.var(0, correction=0)
        if not (mean.isfinite() & variance.isfinite()).all():
            raise ValueError("a training net has NaN or infinite values; leave out nets whose status is not ok")
        share = len(x) / (int(self.count) + len(x))
        step = mean - self.mean.double()
        if int(self.count) == 0:
            share, step = 1.0, mean  # the identity's statistics are no observation
            self.mean.zero_()
        self.variance.copy_((1 - share) * self.variance.double() + share * variance + share * (1 - share) * step**2)
        self.mean.add_(share * step)
        self.count.add_(len(x))

    @property
    def std(self) -> Float[Tensor, " features"]:
        """Of each feature, in the feature's units; 1 where it was constant up to rounding."""
        noise = (torch.finfo(torch.float32).eps * self.mean) ** 2
        return torch.where(self.variance > noise, self.variance, torch.ones_like(self.variance)).sqrt()

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape features"]:
        return (x - self.mean) / self.std


class StandardiseParts(nn.Module):
    """Raw weights standardised by the part that their tensor plays: a block's kind or a vector's role.

    A running variance of 100 and a weight of 0.01 then come at the same scale, whatever the architecture.
    """

    def __init__(self, templates: Iterable[Template]):
        super().__init__()
        parts = sorted({entry.part for template in templates for entry in entries(template)})
        self.parts = nn.ModuleDict({part: Standardise(1) for part in parts})

    def update(self, nets: Nets) -> None:
        for entry in entries(nets.template):
            self._of(entry.part).update(nets.params[entry.name].unsqueeze(-1))

    def forward(self, nets: Nets) -> dict[str, Tensor]:
        """`nets.params`, standardised; tensors that the graph does not hold are left out.

        Raises:
            ValueError: a net has a kind of tensor that no training net had.
        """
        return {
            entry.name: self._of(entry.part)(nets.params[entry.name].unsqueeze(-1)).squeeze(-1)
            for entry in entries(nets.template)
        }

    def _of(self, part: str) -> Standardise:
        if part not in self.parts:
            raise ValueError(
                f"the net has parameters of kind {part!r}, but the model was trained on {', '.join(self.parts)}: "
                f"train it on a zoo with such nets"
            )
        return self.parts[part]  # type: ignore[return-value]
