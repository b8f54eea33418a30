"""Networks as researchers write them: each traces whole, and its group is as large as counted by hand, and sound."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tests.arch.counted import Cases, of, words

CASES = Cases()
case = CASES.case


class Block(nn.Module):
    """As nanoGPT writes it: one projection to three parts, a mask that is a buffer."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.qkv, self.out, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 10), nn.Linear(10, 8)
        self.register_buffer("mask", torch.tril(torch.ones(6, 6)).view(1, 1, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (one.view(n, t, 2, c // 2).transpose(1, 2) for one in self.qkv(self.norms[0](x)).split(c, dim=2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.get_buffer("mask")[:, :, :t, :t] == 0, float("-inf")).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).contiguous().view(n, t, c))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


@case(8, *[2, 4, 4, 4, 4, 10] * 2, inputs=(words(2, 5),))
class NanoGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(11, 8), nn.Embedding(6, 8), nn.LayerNorm(8)
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(2)), nn.Linear(8, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class SplineLayer(nn.Module):
    """A spline per edge, as efficient-kan writes it: bases by recursion over a grid of knots."""

    def __init__(self, inputs: int, outputs: int, grid: int = 2, order: int = 2):
        super().__init__()
        self.order, knots = order, torch.arange(-order, grid + order + 1) * 2 / grid - 1
        self.register_buffer("knots", knots.expand(inputs, -1).contiguous())
        self.weight, self.scale = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.randn(outputs, inputs))
        self.splines = nn.Parameter(torch.randn(outputs, inputs, grid + order))

    def forward(self, x: Tensor) -> Tensor:
        y, knots = x.unsqueeze(-1), self.get_buffer("knots")
        bases = ((y >= knots[:, :-1]) & (y < knots[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (y - knots[:, : -(k + 1)]) / (knots[:, k:-1] - knots[:, : -(k + 1)]) * bases[:, :, :-1]
            right = (knots[:, k + 1 :] - y) / (knots[:, k + 1 :] - knots[:, 1:-k]) * bases[:, :, 1:]
            bases = left + right
        splines = self.splines * self.scale.unsqueeze(-1)
        return F.linear(F.silu(x), self.weight) + F.linear(bases.flatten(1), splines.flatten(1))


case(4, name="KAN")(lambda: nn.Sequential(SplineLayer(3, 4), SplineLayer(4, 2)))


@case(4, 5, 5, 6, inputs=(of(2, 1, 9),))
class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.end = nn.Conv1d(1, 4, 1), nn.Conv1d(6, 3, 1)
        self.values, self.gates = (nn.ModuleList(nn.Conv1d(4, 5, 2, dilation=d) for d in (1, 2)) for _ in range(2))
        self.back, self.skips = (nn.ModuleList(nn.Conv1d(5, n, 1) for _ in range(2)) for n in (4, 6))

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.stem(x), []
        for k, (value, gate, back, out) in enumerate(zip(self.values, self.gates, self.back, self.skips, strict=True)):
            past = F.pad(x, (2**k, 0))
            z = torch.tanh(value(past)) * torch.sigmoid(gate(past))
            skips.append(out(z))
            x = x + back(z)
        return self.end(F.relu(sum(skips, torch.zeros(()))))


@case(4, 5, inputs=(of(2, 2, 9),))
class TCN(nn.Module):
    """Causal by cutting off the end, weights normed, the shorter way projected."""

    def __init__(self):
        super().__init__()
        self.one = weight_norm(nn.Conv1d(2, 4, 3, padding=2))
        self.two = weight_norm(nn.Conv1d(4, 5, 3, padding=4, dilation=2))
        self.down, self.head = nn.Conv1d(2, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.two(F.relu(self.one(x)[..., :-2]))[..., :-4])
        return self.head(F.relu(y + self.down(x))[..., -1])


@case(4, 5, inputs=(of(2, 3, 5, 5), of(2, 3)))
class FiLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)
        self.embed, self.film = nn.Linear(3, 5), nn.Linear(5, 8)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        gamma, beta = self.film(torch.relu(self.embed(z)))[:, :, None, None].chunk(2, 1)
        return self.head(torch.relu(self.norm(self.conv(x)) * (1 + gamma) + beta))


@case(4, inputs=(of(2, 3, 5, 5), words(2)))
class ConditionalBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)
        self.classes = nn.Embedding(7, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.classes(y).view(-1, 8, 1, 1).chunk(2, 1)
        return self.head(torch.relu(gamma * self.norm(self.conv(x)) + beta))


@case(3, 5, 6, inputs=(of(2, 4),))
class HyperNetwork(nn.Module):
    """Weights and bias made from a learned vector."""

    def __init__(self):
        super().__init__()
        self.code, self.hidden = nn.Parameter(torch.randn(3)), nn.Linear(3, 5)
        self.one, self.bias, self.two = nn.Linear(5, 24), nn.Linear(5, 6), nn.Linear(5, 12)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.hidden(self.code))
        return F.linear(torch.relu(F.linear(x, self.one(z).view(6, 4), self.bias(z))), self.two(z).view(2, 6))


@case(5, 6, inputs=(of(2, 4), of(2, 3)))
class HyperNetworkPerSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.one, self.two = nn.Linear(3, 5), nn.Linear(5, 24), nn.Linear(5, 12)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        z = torch.tanh(self.hidden(z))
        y = torch.relu(torch.bmm(self.one(z).view(-1, 6, 4), x.unsqueeze(-1)))
        return torch.bmm(self.two(z).view(-1, 2, 6), y).squeeze(-1)


@case(4, 5, 5, 5, 6)
class MixtureOfExperts(nn.Module):
    """Dense gating of modules, which are entries of their own and change no places."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        each = torch.stack([expert(x) for expert in self.experts], -2)
        return self.head((self.gate(x).softmax(-1).unsqueeze(-1) * each).sum(-2))


@case(4, 3, 5, 5, 5, 6)
class StackedExperts(nn.Module):
    """The same in stacked weights: experts change places, and every expert has hidden units of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(6, 2)
        self.one, self.two = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 5, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        each = torch.einsum("neh,eho->neo", torch.relu(torch.einsum("ni,eih->neh", x, self.one)), self.two)
        return self.head((self.gate(x).softmax(-1).unsqueeze(-1) * each).sum(1))


@case(4)
class DeepEquilibrium(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.step, self.head = nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros(x.shape[0], 4, dtype=x.dtype)
        for _ in range(4):
            z = torch.tanh(self.step(z) + self.into(x))
        return self.head(z)


@case(4, 6)
class NeuralODE(nn.Module):
    """Euler steps; the time is a channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.head = nn.Linear(3, 4), nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for k in range(3):
            time = torch.full((x.shape[0], 1), k / 3, dtype=x.dtype)
            x = x + 0.25 * self.two(torch.tanh(self.one(torch.cat([x, time], 1))))
        return self.head(x)


@case(6, 7, 8, 5, 4, inputs=(of(2, 3), of(2, 3)))
class NeRF(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(15, 6), nn.Linear(6, 7), nn.Linear(7 + 15, 8)])
        self.density, self.feature, self.view = nn.Linear(8, 1), nn.Linear(8, 5), nn.Linear(5 + 3, 4)
        self.colour = nn.Linear(4, 3)

    def forward(self, x: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        code = torch.cat([x, *(f(2.0**k * x) for k in range(2) for f in (torch.sin, torch.cos))], -1)
        y = torch.relu(self.layers[1](torch.relu(self.layers[0](code))))
        y = torch.relu(self.layers[2](torch.cat([y, code], -1)))
        seen = torch.relu(self.view(torch.cat([self.feature(y), towards], -1)))
        return torch.sigmoid(self.colour(seen)), F.relu(self.density(y))


@case(4, 6, inputs=(of(2, 5, 3),))
class GraphConvolution(nn.Module):
    """Messages along the edges of a graph that the code fixes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("edges", torch.eye(5) + torch.ones(5, 5).triu())
        self.one, self.two, self.head = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        edges = self.get_buffer("edges")
        return self.head(torch.relu(edges @ self.two(torch.relu(edges @ self.one(x)))).mean(1))


@case(4, 5, 6, inputs=(of(2, 3, 3),))
class Cells(nn.Module):
    """Recurrent cells that the code runs step by step, from zeros of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.LSTMCell(3, 4), nn.GRUCell(4, 5), nn.RNNCell(5, 6, nonlinearity="relu")
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = two = three = None
        for step in x.unbind(1):
            state = self.one(step, state)
            two = self.two(state[0], two)
            three = self.three(two, three)
        return self.head(three)


@pytest.mark.parametrize("name", CASES)
def test_networks_of_research_have_the_group_that_is_counted_by_hand(name):
    CASES[name].check()
