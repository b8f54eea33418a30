"""Calibration: one factor per target that makes a model as sure as its validation nets say it may be.

A model that overfits is too sure of itself: its probabilities are too near 0 and 1, its values too far from the mean.
So its outputs are multiplied by a factor fitted on the validation nets: logits by an inverse temperature (Guo et al.
2017, section 4.2), which moves no answer but its probability; standardised values by the least-squares slope, which
shrinks them towards the mean of the training nets. Every model is treated alike.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from metanet.targets import Target

_SUREST = 20.0  # times the model's own logits, at most, where all validation nets are answered right


def fit(targets: Iterable[Target], outputs: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> dict[str, float]:
    """The factor of each target, from a model's outputs on validation nets: in (0, 20] for logits, [0, 1] for values.

    Truths that the target does not know (class -1) are left out; where none is left the factor is 1.
    """
    return {t.name: _factor(t, outputs[t.name].detach().double().cpu(), truths[t.name].cpu()) for t in targets}


def apply(factors: Mapping[str, float], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs, calibrated."""
    return {name: output * factors[name] for name, output in outputs.items()}


def _factor(target: Target, output: Tensor, truth: Tensor) -> float:
    if target.kind == "regression":
        square = output.square().sum()
        return float((output @ truth.double() / square).clamp(0, 1)) if square > 0 else 1.0
    known = truth >= 0
    if not known.any():
        return 1.0
    logits, truth = output[known], truth[known]
    # convex in the factor, and near-convex in its logarithm, on which the search is even
    found = minimize_scalar(
        lambda log: float(F.cross_entropy(logits * torch.tensor(log).exp(), truth)),
        bounds=(-7.0, torch.tensor(_SUREST).log().item()),
        method="bounded",
    )
    return float(torch.tensor(found.x).exp())  # type: ignore[attr-defined]
