"""Values read between the places of a grid, where numbers point to, and distances between places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.rules.ranking import laid
from metanet.arch.value import Value


def grid_sample(call: Call) -> Value:
    """aten.grid_sampler_2d(input [n, channels, *old], grid [n, *new, axes], ...) -> [n, channels, *new]."""
    x, grid, rank = call["input"], call["grid"], len(call.shape) - 2
    if isinstance(x, Value):
        x = call.active(x)
        call.decide(x, [dim.axis for dim in x.axes[1]])
        x = laid(call, x, range(2, 2 + rank))
    if isinstance(grid, Value):
        grid = laid(call, call.active(grid), [1 + rank])
    old, new = "pqr"[:rank], "uvw"[:rank]
    y = combine(call, ["sampled", "sampled_at"], [x, grid], [f"nc{old}", f"n{new}g"], f"nc{new}")
    return call.operate(
        y,
        "grid_sample",
        interpolation=call["interpolation_mode"],
        border=call["padding_mode"],
        align_corners=call["align_corners"],
    )


def distance(call: Call) -> Value:
    """aten.cdist(x1 [..., places, channels], x2 [..., others, channels], p, ...) -> [..., places, others]."""
    left, right = call["x1"], call["x2"]
    ranks = [len(one.shape) - 2 for one in (left, right)]
    batch = "abcdefgh"[: max(ranks)]
    letters = [batch[len(batch) - rank :] + end for rank, end in zip(ranks, ("im", "jm"), strict=True)]
    y = combine(call, ["difference", "difference"], [left, right], letters, batch + "ij")
    return call.operate(y, "distance", exponent=float(call["p"]))


class _Learned(nn.Module):
    """Planes of features that are read where a layer points to, beside x read where another one does."""

    def __init__(self, *grid: int):
        super().__init__()
        rank = len(grid)
        self.planes = nn.Parameter(torch.randn(1, 4, *grid))
        self.points = (nn.Conv2d, nn.Conv3d)[rank - 2](4, rank, 1)

    def forward(self, x: Tensor) -> Tensor:
        at = self.points(x).movedim(1, -1).tanh()
        own = F.grid_sample(x, at, mode="nearest", padding_mode="border", align_corners=True)
        return own + F.grid_sample(self.planes.expand(len(x), *self.planes.shape[1:]), at, align_corners=False)


class _Centres(nn.Module):
    """Radial functions around learned centres, and distances of the places from each other."""

    def __init__(self):
        super().__init__()
        self.centres, self.last = nn.Parameter(torch.randn(6, 4)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        near = (-torch.cdist(x.mT, self.centres).square()).exp()
        return self.last(near).mT + torch.cdist(x.mT, x.mT.tanh(), p=1).sum(2)[:, None]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d"), grid_sample),
    **dict.fromkeys(("aten.cdist", "aten._cdist_forward"), distance),
}
OPERATIONS = {"grid_sample": ("interpolation", "border", "align_corners"), "distance": ("exponent",)}
LINKS = ("sampled", "sampled_at", "difference")


def _sampler(rank: int) -> Callable[[], Callable[[Tensor], Tensor]]:
    operator: Any = getattr(torch.ops.aten, f"grid_sampler_{rank}d")

    def sampled(x: Tensor) -> Tensor:
        at = torch.stack([x.mean(1).tanh()] * rank, -1)
        return operator(x, at, 0, 1, True)

    return lambda: sampled


EXAMPLES: dict[str, Example] = {
    "aten.grid_sampler": ((4, 3, 5), lambda: _Learned(3, 5)),
    "aten.grid_sampler_2d": ((4, 3, 5), _sampler(2)),
    "aten.grid_sampler_3d": ((4, 2, 3, 4), _sampler(3)),
    "aten.cdist": ((4, 5), _Centres),
    "aten._cdist_forward": (
        (4, 5),
        lambda: lambda x: x * torch.ops.aten._cdist_forward(x, x.tanh(), 2.0, None).sum(2)[..., None],
    ),
}
