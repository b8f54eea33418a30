"""Networks around operators that few networks use, with groups counted by hand: spectra, matrices, sampling, graphs."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch_geometric import nn as geometric

from metanet.arch.check import check_symmetry
from metanet.arch.rules import EXAMPLES
from metanet.arch.trace import trace
from tests.arch.counted import Counted, of

IMAGE, ROWS, WORDS = of(2, 3, 6, 6), of(3, 4), of(2, 5, 4)


class Around(nn.Module):
    """Layers, and a function of them and of what the first one makes of the input."""

    def __init__(self, first: nn.Module, function, **layers: nn.Module | nn.Parameter):
        super().__init__()
        self.first, self.function = first, function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.first(x).tanh())


def numbers(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def image(function, **layers) -> Around:
    """Eight channels of an image, a function of them, and a layer that reads eight."""
    return Around(nn.Conv2d(3, 8, 1), lambda net, x: net.last(function(net, x)), last=nn.Conv2d(8, 2, 1), **layers)


def rows(function, into: int = 8, **layers) -> Around:
    return Around(nn.Linear(4, 8), lambda net, x: net.last(function(net, x)), last=nn.Linear(into, 2), **layers)


def waves(x: Tensor, weight: Tensor) -> Tensor:
    """A layer over all frequencies, from all channels to all others."""
    spectrum = torch.einsum("nixy,ioxy->noxy", torch.fft.rfft2(x), torch.view_as_complex(weight))
    return torch.fft.irfft2(spectrum, s=x.shape[2:])


def warped(net: Around, x: Tensor, **how) -> Tensor:
    turn = net.get_submodule("turn")(x.mean((2, 3))).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(turn, list(x.shape), align_corners=False), align_corners=False, **how)


def codes(net: Around, x: Tensor) -> Tensor:
    table = getattr(net, "table")  # noqa: B009
    return F.embedding(torch.cdist(x, table).argmin(-1), table)


def standardised(net: Around, x: Tensor) -> Tensor:
    weight = getattr(net, "kernel")  # noqa: B009
    variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True, correction=0)
    return F.conv2d(x, (weight - mean) / (variance + 1e-5).sqrt(), padding=1)


def unpooled(net: Around, x: Tensor) -> Tensor:
    small, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(net.get_submodule("inside")(small).tanh(), places, [2, 2])


def orthogonal(into: int, out: int, way: str | None = None) -> nn.Module:
    return parametrizations.orthogonal(nn.Linear(into, out), orthogonal_map=way)


class Graph(nn.Module):
    """Two graph layers on a graph that the code fixes."""

    def __init__(self, layer):
        super().__init__()
        self.one, self.two = layer(4, 8), layer(8, 3)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x, self.edges).relu(), self.edges)


class Mixture(nn.Module):
    """Two gated experts of three units each, beside the stream."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 2)
        self.inside = EXAMPLES["aten._grouped_mm"][1]()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inside(self.first(x).mT).mT)


NETS = {
    "a filter of frequencies": Counted(
        lambda: image(
            lambda net, x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(net.weight), s=(6, 6)),
            weight=numbers(8, 6, 4, 2),
        ),
        (8,),
        (IMAGE,),
    ),
    "a layer over frequencies": Counted(
        lambda: Around(
            nn.Conv2d(3, 7, 1),
            lambda net, x: net.last(waves(x, net.weight).relu()),
            weight=numbers(7, 8, 6, 4, 2),
            last=nn.Conv2d(8, 2, 1),
        ),
        (7, 8),
        (IMAGE,),
    ),
    "a transform of channels that were last before": Counted(
        lambda: Around(
            nn.Linear(3, 7),
            lambda net, x: net.last(torch.fft.rfft2(x.movedim(-1, 1)).abs()),
            last=nn.Conv2d(7, 2, 1),
        ),
        (7,),
        (torch.ones(2, 6, 6, 3),),
    ),
    "a transform over words and channels": Counted(
        lambda: rows(
            lambda net, x: net.down(net.up(x + torch.fft.fft2(x).real).tanh()), up=nn.Linear(8, 5), down=nn.Linear(5, 8)
        ),
        (5, 8),
        (WORDS,),
    ),
    "windows of sounds": Counted(
        lambda: Around(
            nn.Identity(),
            lambda net, x: net.last(net.inside(torch.stft(x, 8, 4, window=torch.ones(8), return_complex=True).abs())),
            inside=nn.Conv1d(5, 6, 1),
            last=nn.Sequential(nn.Tanh(), nn.Conv1d(6, 2, 1)),
        ),
        (6,),
        (of(3, 32),),
    ),
    "a spatial transformer": Counted(lambda: image(warped, turn=nn.Linear(8, 6)), (8,), (IMAGE,)),
    "radial functions": Counted(
        lambda: rows(lambda net, x: (-torch.cdist(x, net.centres).square()).exp(), 6, centres=numbers(6, 8)),
        (8, 6),
        (ROWS,),
    ),
    "a codebook": Counted(lambda: rows(codes, table=numbers(7, 8)), (8,), (WORDS,)),
    "standardised kernels": Counted(lambda: image(standardised, kernel=numbers(8, 8, 3, 3)), (8, 8), (IMAGE,)),
    "unpooling": Counted(lambda: image(unpooled, inside=nn.Conv2d(8, 8, 1)), (8,), (IMAGE,)),
    "orthogonal, wide": Counted(lambda: rows(lambda net, x: net.inside(x), 6, inside=orthogonal(8, 6)), (8,), (ROWS,)),
    "orthogonal, tall": Counted(
        lambda: rows(lambda net, x: net.inside(x).tanh(), 9, inside=orthogonal(8, 9, "cayley")), (9,), (ROWS,)
    ),
    "the old weight norm": Counted(
        lambda: rows(lambda net, x: net.inside(x).tanh(), 6, inside=nn.utils.weight_norm(nn.Linear(8, 6))),
        (8, 6),
        (ROWS,),
    ),
    "pruned": Counted(
        lambda: rows(lambda net, x: net.inside(x), 6, inside=prune.l1_unstructured(nn.Linear(8, 6), "weight", 0.5)),
        (8, 6),
        (ROWS,),
    ),
    "a norm that counts from one": Counted(
        lambda: rows(
            lambda net, x: F.layer_norm(x, (8,), net.scale + 1, net.shift), scale=numbers(8), shift=numbers(8)
        ),
        (8,),
        (ROWS,),
    ),
    "matrices of a stack": Counted(
        lambda: rows(lambda net, x: (x @ net.stack[0]).tanh() + (x @ net.stack[1]).sin(), 6, stack=numbers(2, 8, 6)),
        (8, 6),
        (ROWS,),
    ),
    "some matrices of a stack": Counted(
        lambda: rows(lambda net, x: (x @ net.stack[0]).tanh() + (x @ net.stack[2]).sin(), 6, stack=numbers(4, 8, 6)),
        (8, 6, 2),
        (ROWS,),
    ),
    "one sample at a time": Counted(
        lambda: rows(lambda net, x: torch.vmap(lambda row: row * row.sin().sum())(x)), (8,), (ROWS,)
    ),
    "softmax of the input": Counted(
        lambda: nn.Sequential(nn.Softmax(1), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), (8,), (ROWS,)
    ),
    "channels in a circle": Counted(lambda: rows(lambda net, x: x + x.roll(1, 1)), (), (ROWS,)),
    "mixture of experts": Counted(Mixture, (4, 3, 3), (of(2, 6, 5),)),
    "graph convolutions": Counted(lambda: Graph(geometric.GCNConv), (8,), (of(5, 4),)),
    "graph attention": Counted(
        lambda: Graph(
            lambda into, out: geometric.GATConv(into, out // 2, heads=2) if out == 8 else geometric.GATConv(into, out)
        ),
        (2, 4, 4),
        (of(5, 4),),
    ),
    "graph maxima": Counted(
        lambda: Graph(lambda into, out: geometric.EdgeConv(nn.Linear(2 * into, out))), (8,), (of(5, 4),)
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_the_group_is_as_large_as_counted(name):
    NETS[name].check()


def test_outputs_of_an_orthogonal_layer_that_is_wide_cannot_change_places():
    """The negative twin: its factors are read row by row."""
    net = orthogonal(8, 6)
    state, x = net.state_dict(), torch.randn(3, 8)
    name = "parametrizations.weight.original"
    moved = state | {name: state[name].flip(0), "bias": state["bias"].flip(0)}
    assert (functional_call(net, moved, x).flip(1) - net(x)).abs().max() > 1e-3


def test_experts_cannot_change_places():
    net = Mixture()
    state, x = net.state_dict(), torch.randn(2, 6, 5)
    moved = state | {name: state[name].flip(0) for name in ("inside.up", "inside.down")}
    assert (functional_call(net, moved, x) - net(x)).abs().max() > 1e-3


def test_an_operator_whose_parts_write_into_views_is_sound():
    net = rows(lambda net, x: torch.vander(x[:, 0], 3), 3)
    template = trace(net, torch.randn(3, 4))
    assert check_symmetry(template, net, torch.randn(3, 4)) <= 1e-10
