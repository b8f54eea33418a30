"""Initialisations: the first weights of a stack of nets, each net's by its own scheme and key."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metanet import seeding
from metanet.zoo.layers import Tokens
from metanet.zoo.nets import build


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight [out, in, *taps]."""
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def _uniform(keys: Int64[Tensor, " nets"], shape: Sequence[int], variance: float) -> Float[Tensor, "nets ..."]:
    return (2 * seeding.uniform(keys, *shape) - 1) * math.sqrt(3 * variance)


def _normal(keys: Int64[Tensor, " nets"], shape: Sequence[int], variance: float) -> Float[Tensor, "nets ..."]:
    return seeding.normal(keys, *shape) * math.sqrt(variance)


def _orthogonal(keys: Int64[Tensor, " nets"], shape: Sequence[int]) -> Float[Tensor, "nets ..."]:
    """Orthonormal rows or columns, whichever are fewer, of [out, in * taps]. Source: Saxe et al. (2014).

    In float64, so that rounding, which may depend on the company in memory, does not reach the float32 weights.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    drawn = seeding.normal(keys, max(rows, columns), min(rows, columns)).double()
    q, r = torch.linalg.qr(drawn)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # uniform over the orthogonal matrices
    return (q if rows >= columns else q.mT).reshape(-1, *shape).float()


def _truncated_normal(keys: Int64[Tensor, " nets"], shape: Sequence[int]) -> Float[Tensor, "nets ..."]:
    """N(0, 1) on [-2, 2]; by its inverse distribution function, in float64 as `_orthogonal`."""
    low = math.erf(-2 / math.sqrt(2))
    uniform = low * (1 - 2 * seeding.uniform(keys, *shape).double())
    return (torch.erfinv(uniform) * math.sqrt(2)).float()


def _siren(keys: Int64[Tensor, " nets"], shape: Sequence[int]) -> Float[Tensor, "nets ..."]:
    """U[±1 / in] where places (x, y) come in, U[±sqrt(6 / in) / 30] elsewhere. Source: Sitzmann et al. (2020), 3.2."""
    inputs = _fans(shape)[0]
    bound = 1 / inputs if tuple(shape[1:]) == (2,) else math.sqrt(6 / inputs) / 30
    return _uniform(keys, shape, bound**2 / 3)


# (keys [nets], shape of a weight [out, in, *taps]) -> [nets, *shape]
INITIALISATIONS: dict[str, Callable[[Int64[Tensor, " nets"], Sequence[int]], Float[Tensor, "nets ..."]]] = {
    "constant": lambda keys, shape: torch.full((len(keys), *shape), 0.1, device=keys.device),
    "normal": lambda keys, shape: _normal(keys, shape, 1.0),
    "glorot_uniform": lambda keys, shape: _uniform(keys, shape, 2 / sum(_fans(shape))),
    "glorot_normal": lambda keys, shape: _normal(keys, shape, 2 / sum(_fans(shape))),
    "he_uniform": lambda keys, shape: _uniform(keys, shape, 2 / _fans(shape)[0]),
    "he_normal": lambda keys, shape: _normal(keys, shape, 2 / _fans(shape)[0]),
    "orthogonal": _orthogonal,
    "uniform": lambda keys, shape: seeding.uniform(keys, *shape),
    "truncated_normal": _truncated_normal,
    "siren": _siren,
}
SCALED = ("normal", "truncated_normal")  # their standard deviation is a hyperparameter; the others have their own


def initialise(
    arch: Mapping[str, Any],
    schemes: Sequence[str],
    keys: Int64[Tensor, " nets"],
    std: Float[Tensor, " nets"] | None = None,
) -> dict[str, Float[Tensor, "nets ..."] | Int64[Tensor, " nets"]]:
    """The state_dict of `len(keys)` fresh nets, stacked: weights by each net's scheme, biases 0, norms the identity.

    A weight is a function of its net's key, its scheme and its name. "constant" is .1 and "normal" is N(0, 1), as in
    Eilertsen et al. (2020), "uniform" is U[0, 1) as in Schürholt et al. (2022), "truncated_normal" is N(0, 1) on
    [-2, 2]; Glorot and Bengio (2010) and He et al. (2015) without truncation. `std` multiplies the schemes in SCALED.
    """
    fresh: dict[str, Tensor] = {}
    device = keys.device
    for path, module in build(arch).named_modules():
        for name, own in module.state_dict(prefix=f"{path}.").items() if isinstance(module, _WITH_WEIGHTS) else ():
            fresh[name] = own.to(device).expand(len(keys), *own.shape).clone()
            if own.dim() >= 2:
                for scheme in sorted(set(schemes)):
                    rows = torch.tensor([i for i, chosen in enumerate(schemes) if chosen == scheme], device=device)
                    drawn = INITIALISATIONS[scheme](seeding.fold(keys[rows], name), own.shape)
                    if std is not None and scheme in SCALED:
                        drawn = drawn * std[rows].view(-1, *[1] * own.dim())
                    fresh[name][rows] = drawn
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                fresh[name].zero_()
    return fresh


_WITH_WEIGHTS = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, Tokens)
