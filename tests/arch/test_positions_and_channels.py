"""Views that put channels where an operator looks for positions, or positions where others have channels."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanet.arch.check import check_symmetry
from metanet.arch.template import Template
from metanet.arch.trace import UnsupportedOperator, trace
from metanet.views.graph import graph_of, state_dict_of

IMAGE = (2, 3, 6, 6)


class Between(nn.Module):
    """A function of 4 channels and of 4 others, between layers."""

    def __init__(self, function, **layers: nn.Module):
        super().__init__()
        self.function, self.layers = function, nn.ModuleDict(layers)
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            size = self.inside(torch.zeros(IMAGE)).shape[1]
        self.head = nn.Linear(size, 2)

    def inside(self, x: Tensor) -> Tensor:
        return self.function(self.layers, self.one(x), self.two(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inside(x))


def checked(net: nn.Module) -> Template:
    """The template, after coverage, soundness and losslessness."""
    torch.manual_seed(0)
    net = net.double().eval()
    image = torch.randn(IMAGE, dtype=torch.float64)
    template = trace(net, image)
    assert template.coverage() == 1
    assert check_symmetry(template, net, image) <= 1e-10
    state = net.state_dict()
    rebuilt = state_dict_of(template, graph_of(template, state))
    assert all(torch.equal(rebuilt[name], state[name].to(rebuilt[name].dtype)) for name in rebuilt)
    return template


def log10(*factorials: int) -> float:
    return sum(math.log10(math.factorial(size)) for size in factorials)


FREE = {  # the function, its layers, and the sizes of the symmetric groups that are left
    "local response norm": (lambda own, a, b: F.local_response_norm(a, 3) + b, {}, ()),
    "pool over rows of channels": (
        lambda own, a, b: F.avg_pool2d(a.transpose(1, 2), 2).flatten(1) + b.mean(),
        {},
        (4,),
    ),
    "convolution over channels": (
        lambda own, a, b: own["conv"](a.unsqueeze(1)).flatten(1, 2) + b[:, :1],
        {"conv": nn.Conv3d(1, 5, (3, 1, 1))},
        (5, 3),
    ),
    "rows as channels": (
        lambda own, a, b: own["conv"](a.transpose(1, 2)) + b.mean(),
        {"conv": nn.Conv2d(4, 6, 1)},
        (6, 4, 4),
    ),
    "sum of channels and columns": (lambda own, a, b: a + b.mT.permute(0, 3, 2, 1), {}, ()),
    "channels behind rows": (lambda own, a, b: torch.cat([a, b.permute(0, 2, 1, 3)], 3), {}, ()),
    "stacked branches weighed by channels": (
        lambda own, a, b: (
            torch.stack([a, b], 1) * own["fc"](a.mean((2, 3))).unflatten(1, (2, 4)).softmax(1)[..., None, None]
        ).sum(1),
        {"fc": nn.Linear(4, 8)},
        (4,),
    ),
    "norm over channels and grid": (
        lambda own, a, b: own["norm"](a) + b.tanh(),
        {"norm": nn.LayerNorm([4, 4, 4])},
        (4,),
    ),
    "norm over the grid": (lambda own, a, b: own["norm"](a) * b, {"norm": nn.LayerNorm([4, 4])}, (4,)),
    "norm over one axis of the grid": (lambda own, a, b: own["norm"](a) * b, {"norm": nn.LayerNorm(4)}, (4,)),
    "channels in another order": (lambda own, a, b: a[:, [2, 3, 1]].tanh() + b[:, 1:], {}, (3,)),
    "a channel twice": (lambda own, a, b: a[:, [2, 3, 2]].tanh() + b[:, 1:], {}, ()),
}


@pytest.mark.parametrize("name", FREE)
def test_what_moves_is_what_can_be_counted_by_hand(name):
    function, layers, sizes = FREE[name]
    template = checked(Between(function, **layers))
    assert template.symmetry.log10_order == pytest.approx(log10(*sizes))


def test_channels_that_a_norm_reads_one_after_the_other_cannot_change_places():
    """The negative twin: what is fixed is fixed for a reason."""
    net = Between(lambda own, a, b: F.local_response_norm(a, 3, alpha=1.0) + b).double()
    state, image = net.state_dict(), torch.randn(IMAGE, dtype=torch.float64)
    order = torch.tensor([1, 2, 3, 0])
    names = ["one.weight", "one.bias", "two.weight", "two.bias"]
    columns = net.head.weight.unflatten(1, (4, 16))[:, order].flatten(1)
    moved = state | {name: state[name][order] for name in names} | {"head.weight": columns}
    assert (functional_call(net, moved, image) - net(image)).abs().max() > 1e-6


def test_an_operator_that_torch_decomposes_is_read_in_its_parts():
    net = Between(lambda own, a, b: torch.addcmul(a, a.tanh(), b, value=0.5) * torch.logsumexp(b, 1, keepdim=True))
    template = checked(net)
    assert template.symmetry.log10_order == pytest.approx(log10(4))
    assert "exp" in {operation.kind for space in template.spaces for operation in space.operations}


def test_a_part_without_a_rule_is_named_beside_the_whole():
    net = Between(lambda own, a, b: a + torch.special.zeta(b, a))
    with pytest.raises(UnsupportedOperator, match=r"aten.special_zeta in the outermost module .*no rule"):
        trace(net, torch.zeros(IMAGE))
