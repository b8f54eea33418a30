"""The straight line between two nets: the loss along it, and the barrier that the loss climbs over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metanet.arch.check import copied

StateDict = Mapping[str, Tensor]
Batches = Sequence[tuple[Tensor, Tensor]]  # (inputs, labels)


@dataclass(frozen=True)
class Line:
    """Loss and accuracy of the nets (1 - t) a + t b."""

    places: tuple[float, ...]  # t, from 0 to 1
    loss: tuple[float, ...]  # mean cross entropy, in nats
    accuracy: tuple[float, ...]  # in [0, 1]

    @property
    def barrier(self) -> float:
        """The largest excess of the loss over the line between the losses of the two ends, in nats; at least 0.

        Source: Frankle et al. (2020), arXiv:1912.05671, as Ainsworth et al. (2023), arXiv:2209.04836, definition 2.2.
        """
        first, last = self.loss[0], self.loss[-1]
        return max(found - (1 - t) * first - t * last for t, found in zip(self.places, self.loss, strict=True))


def interpolate(a: StateDict, b: StateDict, place: float) -> dict[str, Tensor]:
    """(1 - place) a + place b; what is no floating-point number is taken from `a`."""
    return {
        name: torch.lerp(value, b[name], place) if value.is_floating_point() else value for name, value in a.items()
    }


def line(
    module: nn.Module, a: StateDict, b: StateDict, batches: Batches, points: int = 11, reset: Sequence[Tensor] = ()
) -> Line:
    """The nets at `points` places from `a` to `b`, ends included, as classifiers of `batches`.

    With `reset`, batches of inputs, the running statistics of every net are measured on them first: those of the ends
    are wrong in between (REPAIR: Jordan et al. (2023), arXiv:2211.08403).

    Raises:
        ValueError: fewer than two points, or no batch.
    """
    if points < 2 or not batches:
        raise ValueError(f"a line needs two points and a batch at least, found {points} and {len(batches)}")
    net = copied(module).eval()
    places = tuple(i / (points - 1) for i in range(points))
    loss, accuracy = [], []
    for place in places:
        state = interpolate(a, b, place)
        if reset:
            state = reset_statistics(module, state, reset)
        found = _evaluate(net, state, batches)
        loss.append(found[0])
        accuracy.append(found[1])
    return Line(places, tuple(loss), tuple(accuracy))


def reset_statistics(module: nn.Module, state_dict: StateDict, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """The state_dict with running statistics measured anew, every batch counting alike; the module is not changed."""
    net = copied(module).eval()
    net.load_state_dict(state_dict)
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean
            layer.train()
    with torch.no_grad():
        for batch in batches:
            net(batch)
    return net.state_dict()


def _evaluate(net: nn.Module, state: StateDict, batches: Batches) -> tuple[float, float]:
    total, right, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, labels in batches:
            logits = functional_call(net, dict(state), (inputs,))
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
    return total / count, right / count
