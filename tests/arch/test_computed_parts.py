"""Biases, scales, kernels and recurrent weights that are computed or cut out, sets of channels, and splines by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace
from metanet.views.graph import graph_of
from metanet.views.isomorphism import canonical_hash
from tests.arch.counted import Cases, of

CASES = Cases()
case = CASES.case


class Dynamic(nn.Module):
    """A convolution whose bias a layer makes, then a group norm whose scale it makes, then a 1 x 1 kernel from rows."""

    def __init__(self):
        super().__init__()
        self.conv, self.make, self.norm = nn.Conv2d(3, 6, 3), nn.Linear(2, 6), nn.GroupNorm(2, 6)
        self.code, self.rows = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        made = self.make(self.code)
        x = F.conv2d(x, self.conv.weight, made)
        x = F.group_norm(x, 2, made, self.norm.bias).relu()
        return F.conv2d(x, self.rows[:, :, None, None], torch.arange(4.0)).flatten(1)


case(3, 3, 2, 2, inputs=(of(2, 3, 5, 5),))(Dynamic)  # members of groups, groups, the two numbers of the code


@case(6, 4, inputs=(of(2, 3, 5),))  # what stands before and behind the range is read by nothing
class Kernels(nn.Module):
    """Kernels with more or fewer axes than the parameter has, and a range of one."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv1d(3, 6, 3), nn.Parameter(torch.randn(6, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose1d(self.one(x).tanh(), self.two[:, 2:6, 0])
        return x.flatten(1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **settings: bool):
        super().__init__()
        self.layer = parametrizations.weight_norm(kind(3, 4, batch_first=True, **settings), "weight_hh_l0")  # type: ignore[arg-type]
        self.head = nn.Linear(8 if settings else 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


case(4, inputs=(of(2, 3, 3),), name="weight-normed LSTM")(lambda: Recurrent(nn.LSTM))
case(4, 4, inputs=(of(2, 3, 3),), name="weight-normed RNN, both ways")(lambda: Recurrent(nn.RNN, bidirectional=True))


@case(5, 2, 2)
class LowRank(nn.Module):
    """LoRA that is merged into its weights: W + B A / 2, of rank 2."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 4)])
        self.downs = nn.ParameterList([torch.randn(2, 3), torch.randn(2, 5)])
        self.ups = nn.ParameterList([torch.randn(5, 2), torch.randn(4, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer, up, down in zip(self.layers, self.ups, self.downs, strict=True):
            x = F.linear(x, layer.weight + 0.5 * up @ down, layer.bias).tanh()  # type: ignore[arg-type]
        return x


class Spline(nn.Module):
    """B-splines of degree 1 between knots of each input that are parameters, as pykan writes them."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.knots = nn.Parameter(torch.linspace(-2, 2, 6).repeat(into, 1))
        self.weight, self.scale = nn.Parameter(torch.randn(into, out, 4)), nn.Parameter(torch.randn(into, out))

    def forward(self, x: Tensor) -> Tensor:
        x, knots = x[:, :, None], self.knots[None]
        steps = ((x >= knots[:, :, :-1]) * (x < knots[:, :, 1:])).to(x.dtype)
        rising = (x - knots[:, :, :-2]) / (knots[:, :, 1:-1] - knots[:, :, :-2]) * steps[:, :, :-1]
        falling = (knots[:, :, 2:] - x) / (knots[:, :, 2:] - knots[:, :, 1:-1]) * steps[:, :, 1:]
        each = torch.einsum("nik,iok->nio", rising + falling, self.weight)
        return (self.scale[None] * each).sum(1)


case(5, 4, name="splines")(lambda: nn.Sequential(Spline(3, 5), Spline(5, 4), Spline(4, 2)))


@case(4, *[3] * 4, inputs=(of(2, 6, 3),))
class StateSpace(nn.Module):
    """S4D: Gu et al. (2022), arXiv:2206.11893; a long kernel of complex states, applied by Fourier transforms."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.steps = nn.Linear(3, 4), nn.Linear(4, 2), nn.Parameter(torch.randn(4))
        self.decay, self.turn = nn.Parameter(torch.rand(4, 3)), nn.Parameter(torch.randn(4, 3))
        self.read = nn.Parameter(torch.randn(4, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).mT
        rates = -self.decay.exp() + 1j * self.turn
        states = rates * self.steps.exp()[:, None]
        read = torch.view_as_complex(self.read) * (states.exp() - 1) / rates
        kernel = 2 * torch.einsum("cn,cnl->cl", read, (states[:, :, None] * torch.arange(6)).exp()).real
        spectra = torch.fft.rfft(x, n=12) * torch.fft.rfft(kernel, n=12)
        return self.last(F.gelu(torch.fft.irfft(spectra, n=12)[..., :6]).mT)


class Hidden(nn.Module):
    """A function of six channels between two layers."""

    def __init__(self, function, into: int = 6):
        super().__init__()
        self.first, self.function, self.last = nn.Linear(3, 6), function, nn.Linear(into, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def sparsemax(x: Tensor) -> Tensor:
    """Martins and Astudillo (2016), arXiv:1602.02068."""
    ordered = x.sort(-1, descending=True)[0]
    count, sums = torch.arange(1, x.shape[-1] + 1), ordered.cumsum(-1)
    size = (1 + count * ordered > sums).sum(-1, keepdim=True)
    return (x - (sums.gather(-1, size - 1) - 1) / size).clamp(min=0)


SETS = {
    "sparsemax": sparsemax,
    "winners": lambda x: x * (x >= x.topk(2, -1)[0][:, 1:]),
    "median": lambda x: x - x.median(-1, keepdim=True)[0],
    "mode": lambda x: x - x.round().mode(-1, keepdim=True)[0],
    "third": lambda x: x - x.kthvalue(3, -1, keepdim=True)[0],
}
for name, function in SETS.items():
    case(6, name=name)(lambda function=function: Hidden(function))
case(6, name="sorted")(lambda: Hidden(lambda x: x.sort(-1)[0]))
case(6, name="three largest")(lambda: Hidden(lambda x: x.topk(3, -1)[0], 3))
case(3, 3, 2, name="sorted in groups")(lambda: Hidden(lambda x: x.view(-1, 2, 3).sort(-1)[0].sum(1), 3))
case(3, 3, 2, name="norm in groups, from its end")(lambda: Hidden(lambda x: F.group_norm(x, 2).flip(1)))


@pytest.mark.parametrize("name", CASES)
def test_the_group_is_as_large_as_counted(name):
    CASES[name].check()


class Padded(nn.Module):
    """Pixels whose channels are last in memory, padded where they are second."""

    def __init__(self, sides: list[int]):
        super().__init__()
        self.first, self.last, self.sides = nn.Linear(3, 4), nn.Conv2d(4, 2, 1), sides

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.last(F.pad(self.first(x).permute(0, 3, 1, 2), self.sides)), 2)


def test_padding_of_a_view_names_the_axes_of_the_view():
    hashes = []
    for sides in ([1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]):
        torch.manual_seed(0)
        net, x = Padded(sides), torch.randn(1, 5, 5, 3)
        template = trace(net, x)
        assert template.symmetry.log10_order == pytest.approx(1.380211, abs=1e-6)
        assert check_symmetry(template, net, x) <= 1e-10
        hashes.append(canonical_hash(graph_of(template, net.state_dict())))
    assert len(set(hashes)) == 4


def test_channels_whose_places_are_read_cannot_change_places():
    net = Hidden(lambda x: x.sort(-1)[1].to(x.dtype))
    assert trace(net, torch.zeros(2, 3)).symmetry.log10_order == 0


def test_channels_that_a_view_cuts_where_they_do_not_divide_are_fixed_positions():
    net = Hidden(lambda x: x.view(3, 4).tanh(), 4)
    x = torch.randn(2, 3)
    template = trace(net, x)
    assert template.coverage() == 1
    assert template.symmetry.log10_order == 0
    assert check_symmetry(template, net, x) <= 1e-10


class Normed(nn.Module):
    def __init__(self, shift_inside: bool):
        super().__init__()
        self.norm, self.shift_inside = nn.LayerNorm(3), shift_inside

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.norm.weight + 1, self.norm.bias
        if self.shift_inside:
            return F.layer_norm(x, (3,), scale, shift)
        return F.layer_norm(x, (3,), None, shift) * scale


def test_a_shift_before_and_behind_a_computed_scale_leave_different_graphs():
    nets = [nn.Sequential(nn.Linear(3, 3), Normed(inside), nn.Linear(3, 2)) for inside in (True, False)]
    state, x = {name: torch.randn(value.shape) for name, value in nets[0].state_dict().items()}, torch.randn(2, 3)
    graphs = [graph_of(trace(net, x), state) for net in nets]
    assert canonical_hash(graphs[0]) != canonical_hash(graphs[1])


def test_the_module_of_an_exported_program_has_the_group_of_its_source():
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval(), torch.randn(2, 3)
    program = torch.export.export(net, (x,)).module()
    assert trace(program, x).symmetry.log10_order == trace(net, x).symmetry.log10_order > 0
