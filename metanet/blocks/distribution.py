"""How the values of a weight tensor and of a space's vectors are distributed, in closed form.

Every feature is invariant to any order of the tensor's outputs and inputs, and to the order of a space's nodes.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from metanet.arch.template import VECTOR_ROLES

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # thresholds in units of the tensor's root mean square
QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
_UNIT = len(VECTOR_ROLES) + 2  # per unit: its vectors, and the lengths of its incoming and outgoing weights
BLOCK_FEATURES = 2 * len(LEVELS) + 4 * len(QUANTILES) + 21
UNIT_FEATURES = (4 + len(QUANTILES)) * len(VECTOR_ROLES) + 3 * len(QUANTILES) + 1 + _UNIT * (_UNIT - 1) // 2

LARGEST = 1e15  # weights of nets that blow up without becoming infinite; their squares still fit a float32
_TINY = 1e-12


def log_size(x: Tensor) -> Tensor:
    """log10 of a non-negative size, from -6 up: below 1e-6 a float32 weight is as good as zero."""
    return (x + 1e-6).log10()


def signed_log(x: Tensor) -> Tensor:
    """Odd and monotone; linear below 1e-3, about log10 above: one scale for weights of every magnitude."""
    return x.sign() * (x.abs() * 1e3).log1p() / 6.9


def root_mean_square(weights: Float[Tensor, "nets out in taps"]) -> Float[Tensor, " nets"]:
    """Of each net's tensor; scaled by its largest weight first, so that no finite weight overflows."""
    largest = reduce(weights.abs(), "n o i t -> n", "max")
    unit = weights / (largest + _TINY)[:, None, None, None]
    return largest * reduce(unit.square(), "n o i t -> n", "mean").sqrt()


def block_distribution(weights: Float[Tensor, "nets out in taps"]) -> Float[Tensor, "nets features"]:
    """BLOCK_FEATURES numbers of each net's weight tensor; cost is a few passes over the weights and one row product.

    Size and moments; the share of weights under each of LEVELS on either side of zero; the largest on either side;
    how unequal rows and columns are; how alike rows and columns are (a constant initialisation leaves them equal,
    an orthogonal one at right angles); the effective rank; how alike neighbouring taps are (kernels grow smooth).
    """
    size = root_mean_square(weights)
    scaled = weights / (size + _TINY)[:, None, None, None]
    flat = scaled.flatten(1)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    features = [
        log_size(size),
        mean,
        log_size(mean.abs() * size),
        log_size(centred.square().mean(1).sqrt()),
        centred.pow(3).mean(1).clamp(-10, 10),
        centred.pow(4).mean(1).add(1).log(),
        flat.amax(1).clamp(min=0).log1p(),
        (-flat).amax(1).clamp(min=0).log1p(),
        (weights.flatten(1).abs() < 1e-6).to(flat.dtype).mean(1),
    ]
    magnitude = flat.abs()
    for level in LEVELS:
        features += [(magnitude < level).to(flat.dtype).mean(1), (flat < -level).to(flat.dtype).mean(1)]
    rows, columns = rearrange(scaled, "n o i t -> n o (i t)"), rearrange(scaled, "n o i t -> n i (o t)")
    for vectors in (rows, columns):
        lengths = vectors.square().mean(2).sqrt()
        features += [lengths.std(1, correction=0), log_size(lengths.amin(1)), *quantiles(lengths).unbind(1)]
        unit = vectors / (vectors.norm(dim=2, keepdim=True) + _TINY)
        count = vectors.shape[1]
        alike = (unit.sum(1).square().sum(1) - unit.square().sum((1, 2))) / max(count * (count - 1), 1)
        features += [alike, log_size(vectors.mean(2).std(1, correction=0))]
    features += [*quantiles(flat).unbind(1), *quantiles(signed_log(weights.flatten(1))).unbind(1)]
    gram = rows @ rows.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    rank = trace.square() / (gram.square().sum((1, 2)) + _TINY)
    features += [rank.add(_TINY).log(), rank / min(rows.shape[1:])]
    taps = weights.shape[3]
    profile = scaled.square().mean((1, 2)).sqrt()  # [nets, taps]
    features.append(profile.std(1, correction=0))
    features.append((scaled[..., 1:] * scaled[..., :-1]).mean((1, 2, 3)) if taps > 1 else torch.zeros_like(size))
    return torch.stack(features, 1)


def unit_distribution(
    nodes: Float[Tensor, "nets size roles"],
    incoming: Float[Tensor, "nets size"],
    outgoing: Float[Tensor, "nets size"],
) -> Float[Tensor, "nets features"]:
    """UNIT_FEATURES numbers of a space's units: their vectors, and the sizes of the weights that they read and write.

    Sizes and quantiles of each on the logarithmic scale, and every correlation between two of them over the units.
    The gap between incoming and outgoing size is what gradient flow on a ReLU network conserves (Du et al., 2018).
    """
    nodes = nodes.clamp(-LARGEST, LARGEST)
    mean, spread = nodes.mean(1), nodes.std(1, correction=0)
    sizes = [signed_log(mean), log_size(spread), log_size(nodes.abs().mean(1)), log_size(nodes.abs().amax(1))]
    logs = torch.cat([signed_log(nodes), log_size(incoming)[..., None], log_size(outgoing)[..., None]], -1)
    gap = logs[..., -2] - logs[..., -1]
    centred = logs - logs.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    correlation = torch.einsum("nui,nuj->nij", scaled, scaled) / nodes.shape[1]
    upper = torch.triu_indices(_UNIT, _UNIT, offset=1, device=nodes.device)
    return torch.cat(
        [
            torch.stack(sizes, 1).flatten(1),
            quantiles(logs.mT).flatten(1),
            quantiles(gap),
            gap.std(1, correction=0)[:, None],
            correlation[:, upper[0], upper[1]],
        ],
        1,
    )


def quantiles(x: Float[Tensor, "*sets values"]) -> Float[Tensor, "*sets quantiles"]:
    """QUANTILES of each set of values on the last axis, without interpolation; cost: a sort."""
    places = torch.tensor(QUANTILES, dtype=torch.float64, device=x.device) * (x.shape[-1] - 1)
    return x.sort(-1).values[..., places.round().long()]
