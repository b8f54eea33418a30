"""Convolutions whose kernel is computed from parameters or from the input, windows, and decoders from a vector."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace
from metanet.views.graph import graph_of, state_dict_of


class Standardised(nn.Conv2d):
    """A kernel with mean 0 and deviation 1 per output channel."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight
        kernel = (kernel - kernel.mean((1, 2, 3), keepdim=True)) / kernel.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, kernel, self.bias)


class StandardisedByBatchNorm(nn.Conv2d):
    """The same, as BiT and ResNetV2 write it."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        kernel = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return self._conv_forward(x, kernel, self.bias)


class Dynamic(nn.Module):
    """A kernel that a layer makes of the image, one for all images of a batch."""

    def __init__(self):
        super().__init__()
        self.make = nn.Linear(4, 4 * 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.make(x.mean((0, 2, 3))).view(6, 4, 1, 1))


class Rowwise(nn.Module):
    """A linear layer over channels."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


class Rows(nn.Module):
    """Windows of the rows of a mean over channels, read by a layer."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.mean(1).unfold(2, 3, 2)).permute(0, 3, 1, 2)


CASES = {  # what stands between 4 channels and the head that reads 6, and the sizes of the symmetric groups
    "standardised": (lambda: Standardised(4, 6, 3, padding=1), (4, 6)),
    "standardised, groups": (lambda: Standardised(4, 6, 3, stride=2, groups=2), (2, 2, 2, 3, 3)),
    "by batch norm": (lambda: StandardisedByBatchNorm(4, 6, 3), (4, 6)),
    "weight norm": (lambda: weight_norm(nn.Conv2d(4, 6, (1, 3), dilation=(1, 2))), (4, 6)),
    "weight norm of taps": (lambda: weight_norm(nn.Conv2d(4, 6, (1, 3), bias=False), dim=3), (4, 6)),
    "spectral norm": (lambda: spectral_norm(nn.Conv2d(4, 6, 3)), (4, 6)),
    "spectral norm of a linear layer": (lambda: Rowwise(spectral_norm(nn.Linear(4, 6))), (4, 6)),
    "weight norm, transposed": (
        lambda: weight_norm(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), dim=1),
        (4, 6),
    ),
    "spectral norm, transposed in groups": (
        lambda: spectral_norm(nn.ConvTranspose2d(4, 6, (2, 3), stride=(1, 2), dilation=(2, 1), groups=2, bias=False)),
        (2, 2, 2, 3),  # the first singular vector is one for both groups, so their outputs move alike
    ),
    "dynamic": (Dynamic, (4, 6)),
    "windows": (Rows, (4, 6)),
    "unfold": (lambda: nn.Sequential(nn.Unfold(2), nn.Conv1d(16, 6, 1), nn.Unflatten(2, (5, 4))), (4, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_computed_kernels_have_the_group_that_is_counted_by_hand(name):
    torch.manual_seed(0)
    make, sizes = CASES[name]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), make(), nn.Tanh(), nn.Conv2d(6, 2, 1)).double().eval()
    image = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    template = trace(net, image)
    assert template.coverage() == 1
    assert check_symmetry(template, net, image) <= 1e-10
    order = sum(math.log10(math.factorial(size)) for size in sizes)
    assert template.symmetry.log10_order == pytest.approx(order, abs=1e-9)
    state = net.state_dict()
    assert all(torch.equal(v, state[k].float()) for k, v in state_dict_of(template, graph_of(template, state)).items())


def test_channels_of_a_decoder_move_with_all_of_their_positions():
    net = nn.Sequential(
        *(nn.Linear(3, 4 * 2 * 2), nn.ReLU(), nn.Unflatten(1, (4, 2, 2))),
        *(nn.ConvTranspose2d(4, 5, 2, stride=2), nn.ReLU(), nn.Conv2d(5, 1, 1)),
    )
    template = trace(net, torch.zeros(2, 3))
    assert template.symmetry.log10_order == pytest.approx(math.log10(math.factorial(4) * math.factorial(5)))
    assert check_symmetry(template, net, torch.zeros(2, 3)) <= 1e-10
