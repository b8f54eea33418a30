"""The collision suite for operators that few networks use: what their weights do not show is in the graph."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanet.views.isomorphism import canonical_hash
from tests.arch.test_collisions import drawn, graph_of, outputs, ways
from tests.arch.test_operator_collisions import ONE, using

SMALL = using(partial(nn.Conv2d, 4, 2, 1))
MATRIX = using(partial(nn.Linear, 6, 6))
POINT = torch.tensor([[[[0.1, -0.7], [0.6, 0.4], [1.3, -0.2]]]])


def waves(x: Tensor, **how) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x, **how).square(), s=x.shape[2:])


def seen(net: nn.Module, x: Tensor, **how: Any) -> Tensor:
    """The image at places that a layer points to."""
    places = net.get_submodule("layers")[0](x / 9).movedim(1, -1).tanh() * 1.3  # type: ignore[index]
    return F.grid_sample(x, places, **{"align_corners": False, **how})


def square(net: nn.Module, x: Tensor) -> Tensor:
    """Positive matrices of the rows of an image."""
    y = net.get_submodule("layers")[0](x[..., :6, :6])  # type: ignore[index]
    return y @ y.mT + torch.eye(6, dtype=x.dtype)


def unpooled(x: Tensor, y: Tensor, size: int) -> Tensor:
    _, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(F.max_pool2d(y, 2), places, [2, 2], output_size=(6, 6 + size))[..., :6]


GROUPS = {
    "functions": ways(
        ONE,
        lambda net, x: torch.tan(net.layers[0](x)),
        lambda net, x: torch.ceil(net.layers[0](x)) * x[..., :6],
        lambda net, x: torch.erfc(net.layers[0](x)),
        lambda net, x: torch.exp2(net.layers[0](x)),
        lambda net, x: torch.lgamma(net.layers[0](x).square() + 1),
        lambda net, x: torch.log2(net.layers[0](x).square() + 1),
        lambda net, x: torch.log10(net.layers[0](x).square() + 1),
        lambda net, x: torch.atan2(net.layers[0](x), x),
        lambda net, x: torch.atan2(x, net.layers[0](x)),
        lambda net, x: torch.fmod(net.layers[0](x), x.abs() + 1),
        lambda net, x: torch.remainder(net.layers[0](x), x.abs() + 1),
        lambda net, x: torch.hypot(net.layers[0](x), x),
        lambda net, x: torch.copysign(net.layers[0](x), x),
        lambda net, x: torch.logical_xor(net.layers[0](x) > 0, x > 0) * x,
        lambda net, x: torch.logical_or(net.layers[0](x) > 0, x > 0) * x,
    ),
    "along an axis": ways(
        ONE,
        lambda net, x: net.layers[0](x).cumprod(3),
        lambda net, x: net.layers[0](x).cumprod(2),
        lambda net, x: net.layers[0](x).cummax(3)[0],
        lambda net, x: net.layers[0](x).cummin(3)[0],
        lambda net, x: net.layers[0](x).cummax(3)[1] * x,
        lambda net, x: net.layers[0](x) * x.median(3, keepdim=True)[0],
        lambda net, x: net.layers[0](x) * x.kthvalue(2, 3, keepdim=True)[0],
        lambda net, x: net.layers[0](x) * x.kthvalue(4, 3, keepdim=True)[0],
        lambda net, x: net.layers[0](x) * x.kthvalue(4, 2, keepdim=True)[0],
        lambda net, x: net.layers[0](x) * x.max(3, keepdim=True)[1],
        lambda net, x: net.layers[0](x) * x.min(3, keepdim=True)[1],
        lambda net, x: net.layers[0](x) * torch.histc(x, 4, -1, 1)[1],
        lambda net, x: net.layers[0](x) * torch.histc(x, 4, -1, 1)[2],
        lambda net, x: net.layers[0](x) * torch.histc(x, 4, -1, 2)[2],
    ),
    "spectra": ways(
        ONE,
        lambda net, x: waves(net.layers[0](x)),
        lambda net, x: waves(net.layers[0](x), norm="ortho"),
        lambda net, x: torch.fft.fft(net.layers[0](x)).real,
        lambda net, x: torch.fft.fft(net.layers[0](x)).imag,
        lambda net, x: torch.fft.fft(net.layers[0](x), dim=2).real,
        lambda net, x: torch.fft.fft(net.layers[0](x), dim=1).real,
        lambda net, x: torch.fft.fft2(net.layers[0](x)).real,
        lambda net, x: torch.fft.rfft(net.layers[0](x)).abs(),
        lambda net, x: torch.fft.rfft(net.layers[0](x)).angle(),
        lambda net, x: torch.fft.ifft(torch.fft.fft(net.layers[0](x)).conj() * x).real,
        lambda net, x: torch.fft.ifft(torch.fft.fft(net.layers[0](x)) * x).real,
    ),
    "sampling": ways(
        SMALL,
        lambda net, x: seen(net, x),
        lambda net, x: seen(net, x, align_corners=True),
        lambda net, x: seen(net, x, mode="nearest"),
        lambda net, x: seen(net, x, mode="bicubic"),
        lambda net, x: seen(net, x, padding_mode="border"),
        lambda net, x: seen(net, x, padding_mode="reflection"),
        lambda net, x: F.grid_sample(x, net.layers[0](x / 9).flip(1).movedim(1, -1).tanh() * 1.3, align_corners=False),
        lambda net, x: (
            F.grid_sample(x, POINT.to(x).expand(2, -1, -1, -1), align_corners=False) * net.layers[0](x)[:, :1, :1, :3]
        ),
        lambda net, x: (
            F.grid_sample(x, POINT.to(x).flip(3).expand(2, -1, -1, -1), align_corners=False)
            * net.layers[0](x)[:, :1, :1, :3]
        ),
    ),
    "distances": ways(
        ONE,
        lambda net, x: torch.cdist(net.layers[0](x), x[..., :6]),
        lambda net, x: torch.cdist(x[..., :6], net.layers[0](x)),
        lambda net, x: torch.cdist(net.layers[0](x), x[..., :6], p=1),
        lambda net, x: torch.cdist(net.layers[0](x), x[..., :6], p=torch.inf),
        lambda net, x: net.layers[0](x) @ x[..., :6].mT,
        lambda net, x: (
            net.layers[0](x) * torch.cdist(x.movedim(1, 3), x.movedim(1, 3).tanh()).mean((1, 2))[:, None, None]
        ),
    ),
    "matrices": ways(
        MATRIX,
        lambda net, x: torch.linalg.inv(square(net, x)),
        lambda net, x: torch.linalg.cholesky(square(net, x)),
        lambda net, x: torch.matrix_exp(square(net, x) / 300),
        lambda net, x: torch.linalg.qr(square(net, x))[0],
        lambda net, x: torch.linalg.qr(square(net, x))[1],
        lambda net, x: torch.linalg.solve(square(net, x), x[..., :6, :6]),
        lambda net, x: torch.linalg.solve(square(net, x), x[..., :6, :6].mT),
        lambda net, x: torch.linalg.solve_triangular(square(net, x), x[..., :6, :6], upper=True),
        lambda net, x: torch.linalg.solve_triangular(square(net, x), x[..., :6, :6], upper=False),
        lambda net, x: torch.linalg.det(square(net, x))[..., None, None],
        lambda net, x: square(net, x).diagonal(dim1=2, dim2=3)[..., None],
        lambda net, x: square(net, x).diagonal(1, dim1=2, dim2=3)[..., None],
    ),
    "unpooling": ways(
        ONE,
        lambda net, x: unpooled(net.layers[0](x), x[..., :6], 0),
        lambda net, x: unpooled(x[..., :6], net.layers[0](x), 0),
        lambda net, x: unpooled(net.layers[0](x), x[..., :6], 1),
    ),
}
QUICK = ("spectra", "sampling")


@pytest.mark.parametrize(
    "difference", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GROUPS]
)
def test_rarer_operators_that_compute_different_functions_leave_different_graphs(difference):
    makers = list(dict.fromkeys(make for pair in GROUPS[difference] for make in pair))
    nets = [make() for make in makers]
    states = [drawn(net) for net in nets]
    hashes = [canonical_hash(graph_of(net, state)) for net, state in zip(nets, states, strict=True)]
    results = [outputs(net, state) for net, state in zip(nets, states, strict=True)]
    for one in range(len(nets)):
        for other in range(one):
            a, b = results[one], results[other]
            assert a.shape != b.shape or (a - b).abs().max() > 1e-9 * b.abs().max(), (other, one)
            assert hashes[one] != hashes[other], (other, one)
