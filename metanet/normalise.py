"""Zero mean and unit variance per feature or per kind of tensor, fitted on training nets only."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metanet.arch.template import Template
from metanet.dataset import Nets
from metanet.views.sequence import entries

KNEE = 0.05  # a usual size of a weight
SMALL = 1e-8  # about the rounding error of a float32 weight


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


class Magnitudes(nn.Module):
    """Columns of any scale as a network reads them best: two numbers each, standardised, 0 where a value is missing.

    log10(1 + |x| / SMALL) tells 1e-7 from 1e-5; `signed_log` keeps the sign of what is not small. The first is what
    telling optimizers apart takes: softmax's gradient sums to 0 over the classes, so that gradient descent never moves
    the mean of the last biases but for rounding, while Adam, which scales every gradient, does. NaN is a missing value.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, columns: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * columns))
        self.register_buffer("std", torch.ones(2 * columns))

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "values columns"]) -> None:
        """Takes mean and deviation of the values that are there; a constant column is left unscaled."""
        both = _magnitudes(x.double())
        mean = both.nanmean(0)
        variance = (both - mean).square().nanmean(0)
        constant = ~(variance > (torch.finfo(torch.float32).eps * mean) ** 2)  # or without any value
        self.mean.copy_(mean.nan_to_num(0.0))
        self.std.copy_(variance.masked_fill(constant, 1.0).sqrt())

    def forward(self, x: Float[Tensor, "*shape columns"]) -> Float[Tensor, "*shape twice_columns"]:
        return ((_magnitudes(x) - self.mean) / self.std).clamp(-6, 6).nan_to_num(0.0)


def _magnitudes(x: Float[Tensor, "*shape columns"]) -> Float[Tensor, "*shape twice_columns"]:
    return torch.cat([(x.abs() / SMALL + 1).log10(), signed_log(x)], -1)


def signed_log(x: Tensor) -> Tensor:
    """Odd and monotone; linear below 1e-3, about log10 above: one scale for weights of every magnitude."""
    return x.sign() * (x.abs() * 1e3).log1p() / 6.9


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
