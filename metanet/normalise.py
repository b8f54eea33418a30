"""Zero mean and unit variance per feature or per kind of tensor, fitted on training nets only."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metanet.arch.template import Template
from metanet.dataset import Nets
from metanet.views.sequence import entries

KNEE = 0.05  # a usual size of a weight


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


class Rank(nn.Module):
    """Each feature's place among the training nets' values, in [-1, 1]: piecewise linear between their quantiles.

    A heavy tail then has no more to say than its order; trees read features so. The same for every value before `fit`.
    """

    edges: Tensor

    def __init__(self, features: int, bins: int = 64):
        super().__init__()
        self.register_buffer("edges", torch.zeros(features, bins + 1))

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "values features"]) -> None:
        """Takes the quantiles of training values; at most 100,000, evenly spaced, are read.

        Edges are kept apart, so that the map is continuous: rounding cannot move a value across a tie.
        """
        x = x[:: max(len(x) // 100_000, 1)].sort(0).values
        places = torch.linspace(0, len(x) - 1, self.edges.shape[1], device=x.device).round().long()
        apart = 1e-4 * (x[len(x) * 3 // 4] - x[len(x) // 4]) + 1e-6
        self.edges.copy_(x[places].T + apart[:, None] * torch.arange(len(places), device=x.device))

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape features"]:
        bins = self.edges.shape[1] - 1
        columns = x.flatten(0, -2).T.contiguous()
        right = torch.searchsorted(self.edges, columns).clamp(1, bins)
        low, high = self.edges.gather(1, right - 1), self.edges.gather(1, right)
        gap = torch.where(high > low, high - low, torch.ones_like(high))  # 0 only before `fit`
        share = (right - 1 + ((columns - low) / gap).clamp(0, 1)) / bins
        return (2 * share - 1).T.view(x.shape)


class StandardiseParts(nn.Module):
    """Raw weights, compressed and standardised by the part that their tensor plays: a block's kind or a vector's role.

    A running variance of 100 and a weight of 0.01 then come at the same scale, whatever the architecture. Compressed by
    asinh(x / KNEE), which keeps small weights as they are and takes the logarithm of large ones: a single net of a zoo
    that is about to diverge has weights of 1e8, beside which the standard deviation would leave nothing of the others.
    """

    def __init__(self, templates: Iterable[Template]):
        super().__init__()
        parts = sorted({entry.part for template in templates for entry in entries(template)})
        self.parts = nn.ModuleDict({part: Standardise(1) for part in parts})

    def update(self, nets: Nets) -> None:
        for entry in entries(nets.template):
            self._of(entry.part).update(_compressed(nets.params[entry.name]))

    def forward(self, nets: Nets) -> dict[str, Tensor]:
        """`nets.params`, standardised; tensors that the graph does not hold are left out.

        Raises:
            ValueError: a net has a kind of tensor that no training net had.
        """
        return {
            entry.name: self._of(entry.part)(_compressed(nets.params[entry.name])).squeeze(-1)
            for entry in entries(nets.template)
        }

    def _of(self, part: str) -> Standardise:
        if part not in self.parts:
            raise ValueError(
                f"the net has parameters of kind {part!r}, but the model was trained on {', '.join(self.parts)}: "
                f"train it on a zoo with such nets"
            )
        return self.parts[part]  # type: ignore[return-value]


def _compressed(weights: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 1"]:
    return (weights / KNEE).asinh().unsqueeze(-1)
