"""Random networks over the operators that have rules: sound, complete, and a permutation that is none shows.

Every network is a program: values in a pool, each step reads some and adds one; a head reads the last ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace
from metanet.views.graph import graph_of, state_dict_of
from tests.arch import random_kinds

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

BATCH, SIDE = 2, 4


@dataclass(frozen=True)
class Step:
    """A function of some earlier values, with the parameters that it needs."""

    module: nn.Module
    function: Callable[..., Tensor]
    reads: tuple[int, ...]


class Program(nn.Module):
    """Images [batch, 3, side, side], or tokens [batch, side^2, 3]."""

    def __init__(self, steps: list[Step], head: int):
        super().__init__()
        self.steps, self.parts = steps, nn.ModuleList(step.module for step in steps)
        with torch.no_grad():
            self.head = nn.Identity()
            size = self(torch.zeros(BATCH, 3, SIDE, SIDE)).shape[1]
        self.head = nn.Linear(size, head)

    def forward(self, x: Tensor) -> Tensor:
        pool = [x]
        for step, part in zip(self.steps, self.parts, strict=True):
            pool.append(step.function(part, *(pool[number] for number in step.reads)))
        used = {number for step in self.steps for number in step.reads}
        ends = [value.flatten(1) for number, value in enumerate(pool) if number not in used]
        return self.head(torch.cat(ends, 1))


def attend(part: nn.Module, x: Tensor, heads: int, by_hand: bool, repeat: int) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (part[name](tokens).unflatten(-1, (-1, 2)).transpose(1, 2) for name in ("q", "k", "v"))  # type: ignore[index]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    mixed = (q @ k.mT).softmax(-1) @ v if by_hand else F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mixed = mixed.transpose(1, 2).reshape(len(x), -1, 2 * heads)
    return part["o"](mixed).transpose(1, 2).unflatten(-1, x.shape[2:])  # type: ignore[index]


@st.composite
def steps(draw: st.DrawFn, shapes: list[tuple[int, ...]]) -> tuple[Step, tuple[int, ...]]:
    """One more step on values of these shapes [channels, height, width], and the shape of what it gives."""
    number = draw(st.integers(1, len(shapes) - 1)) if len(shapes) > 1 else 0
    channels, *grid = shapes[number]
    same = [other for other, shape in enumerate(shapes) if shape == shapes[number] and other]
    grids = [other for other, shape in enumerate(shapes) if shape[1:] == shapes[number][1:] and other]
    width = draw(st.sampled_from([2, 4, 6]))
    kinds = ["conv", "linear"] if number == 0 else KINDS
    kind = draw(st.sampled_from(kinds))
    reads, shape = (number,), (channels, *grid)
    part: nn.Module = nn.Identity()
    function: Callable[..., Tensor] = lambda part, x: part(x)  # noqa: E731
    if kind == "conv":
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0 and width % g == 0]))
        part, shape = nn.Conv2d(channels, width, 3, padding=1, groups=groups), (width, *grid)
    elif kind == "transposed":
        part, shape = nn.ConvTranspose2d(channels, width, 1), (width, *grid)
    elif kind == "linear":
        part, shape = nn.Linear(channels, width), (width, *grid)
        function = lambda part, x: part(x.movedim(1, -1)).movedim(-1, 1)  # noqa: E731
    elif kind == "norm":
        norms = [nn.BatchNorm2d(channels), nn.InstanceNorm2d(channels, affine=True), nn.PReLU(channels)]
        norms += [nn.GroupNorm(g, channels) for g in (1, 2) if channels % g == 0]
        part = draw(st.sampled_from(norms))
    elif kind == "layer norm":
        part = draw(st.sampled_from([nn.LayerNorm(channels), nn.RMSNorm(channels)]))
        function = lambda part, x: part(x.movedim(1, -1)).movedim(-1, 1)  # noqa: E731
    elif kind == "activation":
        name = draw(st.sampled_from(["tanh", "sigmoid", "gelu", "softplus", "silu"]))
        function = lambda part, x: getattr(F, name)(x)  # noqa: E731
    elif kind == "join":
        reads = (number, draw(st.sampled_from(same)))
        name = draw(st.sampled_from(["add", "mul", "sub"]))
        function = lambda part, x, y: getattr(torch, name)(x, y.sigmoid())  # noqa: E731
    elif kind == "gate":
        reads = (number, draw(st.sampled_from(same)))
        dims = draw(st.sampled_from([(2, 3), (1,), (2,)]))
        function = lambda part, x, y: x * y.mean(dims, keepdim=True).sigmoid()  # noqa: E731
    elif kind == "cat":
        other = draw(st.sampled_from(grids))
        reads, shape = (number, other), (channels + shapes[other][0], *grid)
        function = lambda part, x, y: torch.cat([x, y], 1)  # noqa: E731
    elif kind == "slice":
        first, step = draw(st.integers(0, channels - 2)), draw(st.integers(1, 2))
        shape = (len(range(first, channels, step)), *grid)
        function = lambda part, x: x[:, first::step]  # noqa: E731
    elif kind == "shuffle" and channels % 2 == 0:
        function = lambda part, x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)  # noqa: E731
    elif kind == "turn":
        function = lambda part, x: x.mT  # noqa: E731
    elif kind == "learned":
        part = nn.ParameterList([torch.randn(*draw(st.sampled_from([(channels, 1, 1), (1, 1), (channels, *grid)])))])
        function = lambda part, x: x * part[0] + x  # type: ignore[index]  # noqa: E731
    elif kind == "softmax":
        dim = draw(st.integers(1, 3))
        function = lambda part, x: x.softmax(dim)  # noqa: E731
    elif kind == "attention":
        heads, repeat, by_hand = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.booleans())
        sizes = {"q": heads * repeat * 2, "k": heads * 2, "v": heads * 2}
        layers = {name: nn.Linear(channels, size) for name, size in sizes.items()}
        part = nn.ModuleDict(layers | {"o": nn.Linear(heads * repeat * 2, channels)})
        function = lambda part, x: attend(part, x, heads * repeat, by_hand, repeat)  # noqa: E731
    elif kind == "gru":
        part, shape = nn.GRU(channels, width, batch_first=True), (width, *grid)
        function = lambda part, x: part(x.flatten(2).mT)[0].mT.unflatten(2, x.shape[2:])  # noqa: E731
    elif kind in random_kinds.KINDS:
        part, function, shape = random_kinds.KINDS[kind](channels, (grid[0], grid[1]), width)
    return Step(part, function, reads), shape


KINDS = [
    *("conv", "transposed", "linear", "norm", "layer norm", "activation", "join", "gate", "cat", "slice"),
    *("shuffle", "turn", "learned", "softmax", "attention", "gru"),
    *random_kinds.KINDS,
]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    shapes: list[tuple[int, ...]] = [(3, SIDE, SIDE)]
    made = []
    for _ in range(draw(st.integers(1, 7))):
        step, shape = draw(steps(shapes))
        made.append(step)
        shapes.append(shape)
    return Program(made, 3)


def check(net: Program) -> None:
    """Coverage, soundness, nothing lost, and that an element of the group without one tensor changes the function."""
    image = torch.randn(BATCH, 3, SIDE, SIDE, dtype=torch.float64)
    net = net.double().eval()
    template = trace(net, image)
    assert template.coverage() == 1
    assert check_symmetry(template, net, image, samples=2) <= 1e-10
    state = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    rebuilt = state_dict_of(template, graph_of(template, state))
    assert all(torch.equal(rebuilt[name], state[name]) for name in rebuilt)
    free = template.symmetry.permutations
    if not free:
        return
    factor = max(free, key=lambda one: free[one].size)
    names = [name for name, _ in template.symmetry.tensors(factor) if state[name].ndim > 1]
    if len(names) < 2:
        return
    moved = template.symmetry.sample(torch.Generator().manual_seed(0), only=[factor])(state)
    before = functional_call(net, state, image)
    torch.testing.assert_close(functional_call(net, moved, image), before, rtol=1e-9, atol=1e-9)
    changes = [
        (functional_call(net, moved | {name: state[name]}, image) - before).abs().max()
        for name in names
        if not torch.equal(moved[name], state[name])
    ]
    assert not changes or max(changes) > 1e-12


@settings(max_examples=20)
@given(net=programs())
def test_random_networks_are_traced_soundly(net):
    check(net)


@pytest.mark.slow
@settings(max_examples=500)
@given(net=programs())
def test_many_random_networks_are_traced_soundly(net):
    check(net)
