"""Scaling and sign keep the function to rounding where they are derived; anything less changes it."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import metanet
from metanet.arch.actions import Rescaling, rescaling
from metanet.arch.template import Template

IMAGE = (4, 2, 6, 6)


class Branches(nn.Module):
    """A residual stream, concatenation, a slice and a gate, with an activation of choice."""

    def __init__(self, act: Callable[[Tensor], Tensor]):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.up, self.down = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.grouped, self.gate = nn.Conv2d(12, 8, 3, groups=2), nn.Conv2d(6, 6, 1)
        self.head, self.act = nn.Linear(8 * 4, 3), act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = x + self.down(self.act(self.up(x)))
        x = torch.cat([x, x * torch.sigmoid(self.gate(x))], 1)
        x = self.act(self.grouped(x))
        return self.head((x[:, :8] * 1.5).flatten(1))


class ScaleAndShift(nn.Module):
    """Parameters in arithmetic, as in ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.ones(6, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def sequence(*layers: nn.Module) -> nn.Module:
    """Layers on 6 channels between two convolutions, and a head."""
    return nn.Sequential(nn.Conv2d(2, 6, 3), *layers, nn.Conv2d(6, 5, 2), nn.Flatten(), nn.LazyLinear(2))


# what a net is made of, and how many factors "scaling" and "sign" have; the second convolution gives 5 of each
NETS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "relu": (lambda: sequence(nn.ReLU()), 6 + 5, 5),
    "tanh": (lambda: sequence(nn.Tanh()), 5, 6 + 5),
    "gelu": (lambda: sequence(nn.GELU()), 5, 5),
    "leaky relu, max pool": (lambda: sequence(nn.LeakyReLU(), nn.MaxPool2d(2)), 6 + 5, 5),
    "tanh, average pool": (lambda: sequence(nn.Tanh(), nn.AvgPool2d(2)), 5, 6 + 5),
    "tanh, max pool": (lambda: sequence(nn.Tanh(), nn.MaxPool2d(2)), 5, 5),
    "hardtanh": (lambda: sequence(nn.Hardtanh()), 5, 6 + 5),
    "relu6": (lambda: sequence(nn.ReLU6()), 5, 5),
    "batch norm, relu": (lambda: sequence(nn.BatchNorm2d(6), nn.ReLU()), 6 + 6 + 5, 6 + 5),
    "relu, batch norm": (lambda: sequence(nn.ReLU(), nn.BatchNorm2d(6)), 6 + 6 + 5, 6 + 5),
    "batch norm without scale": (lambda: sequence(nn.BatchNorm2d(6, affine=False), nn.ReLU()), 6 + 5, 5),
    "group norm, relu": (lambda: sequence(nn.GroupNorm(2, 6), nn.ReLU()), 6 + 5, 5),
    "group norm, tanh": (lambda: sequence(nn.GroupNorm(2, 6), nn.Tanh()), 5, 6 + 5),
    "scale and shift, relu": (lambda: sequence(ScaleAndShift(), nn.ReLU()), 6 + 6 + 5, 6 + 5),
    "branches, relu": (lambda: Branches(torch.relu), 6 + 6 + 4 + 8, 6),
    "branches, tanh": (lambda: Branches(torch.tanh), 6, 6 + 6 + 4 + 8),
}


@functools.cache
def traced(name: str) -> tuple[nn.Module, Template, Tensor]:
    torch.manual_seed(0)
    net = NETS[name][0]().double().eval()
    image = torch.randn(IMAGE, dtype=torch.float64)
    net(image)
    return net, metanet.trace(net, image), image


def drawn(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random values, variances positive and small enough that eps matters."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in net.state_dict().items():
        state[name] = value
        if value.is_floating_point():
            state[name] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            state[name] = state[name].abs() / 10 + 1e-3 if name.endswith("running_var") else state[name]
    return state


@pytest.mark.parametrize("name", NETS)
def test_the_group_is_as_large_as_counted_by_hand(name):
    _, template, _ = traced(name)
    actions = template.actions
    assert list(actions) == ["permutation", "scaling", "sign"]
    assert actions["permutation"] is template.symmetry
    sizes = [action.size for action in actions.values() if isinstance(action, Rescaling)]
    assert sizes == list(NETS[name][1:])


@pytest.mark.parametrize("action", ["scaling", "sign"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", [0])
def test_every_sampled_element_keeps_the_function(name, action, seed):
    net, template, image = traced(name)
    state = drawn(net, seed)
    moved = template.actions[action].sample(torch.Generator().manual_seed(seed))(state)
    before, after = (functional_call(net, one, image) for one in (state, moved))
    assert (after - before).abs().max() <= 1e-10 * before.abs().max()
    assert any(not torch.equal(moved[entry], value) for entry, value in state.items())


@pytest.mark.parametrize("action", ["scaling", "sign"])
@pytest.mark.parametrize("name", NETS)
def test_an_element_that_leaves_out_one_entry_changes_the_function(name, action):
    net, template, image = traced(name)
    state, group = drawn(net, 1), rescaling(template, action)
    factors = torch.full((group.size,), -1.0 if action == "sign" else 2.0, dtype=torch.float64)
    moved = group.apply(factors, state)
    before = functional_call(net, state, image)
    changed = [entry for entry in group.entries if not torch.equal(moved[entry], state[entry])]
    assert changed
    for entry in changed:
        broken = functional_call(net, moved | {entry: state[entry]}, image)
        assert (broken - before).abs().max() > 1e-6 * before.abs().max(), entry


@pytest.mark.parametrize(
    ("name", "factor"), [("tanh", 2.0), ("gelu", 2.0), ("relu6", 2.0), ("relu", -1.0), ("tanh, max pool", -1.0)]
)
def test_where_the_group_has_no_factor_a_channel_cannot_be_rescaled(name, factor):
    net, _, image = traced(name)
    state = drawn(net, 2)
    reader = next(entry for entry in state if entry != "0.weight" and state[entry].ndim == 4)
    moved = {"0.weight": state["0.weight"] * factor, "0.bias": state["0.bias"] * factor}
    before = functional_call(net, state, image)
    after = functional_call(net, state | moved | {reader: state[reader] / factor}, image)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()


def test_a_stack_gets_an_element_for_all_or_one_for_each_net():
    net, template, image = traced("branches, relu")
    states = [drawn(net, seed) for seed in range(3)]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    group = rescaling(template, "scaling")
    for nets in (None, 3):
        moved = group.sample(torch.Generator().manual_seed(0), nets)(stacked)
        for i, state in enumerate(states):
            one = {name: value[i] for name, value in moved.items()}
            before, after = (functional_call(net, each, image) for each in (state, one))
            torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
        ratios = moved["up.bias"] / stacked["up.bias"]
        assert torch.allclose(ratios[0], ratios[1]) == (nets is None)


def test_a_template_with_a_hidden_activation_has_no_factor_on_it():
    _, template, _ = traced("relu")
    assert rescaling(template.hide({"relu"}), "scaling").size == 5


def test_factors_that_are_none_are_refused():
    net, template, _ = traced("relu")
    state = drawn(net, 0)
    with pytest.raises(ValueError, match=r"scaling: expected 11 positive numbers, found \[10\]"):
        rescaling(template, "scaling").apply(torch.ones(10), state)
    with pytest.raises(ValueError, match=r"scaling: expected 11 positive numbers, found \[11\]"):
        rescaling(template, "scaling").apply(-torch.ones(11), state)
    with pytest.raises(ValueError, match=r"sign: expected 5 numbers 1 and -1, found \[5\]"):
        rescaling(template, "sign").apply(2 * torch.ones(5), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scales", "signs"),
    [
        ("resnet.resnet18", 7680, 4800),
        ("densenet.densenet121", 52064, 10240),
        ("mobilenetv2.mobilenetv2_w1", 17800, 17800),
        ("efficientnet.efficientnet_b0", 21792, 21792),
    ],
)
def test_public_networks_keep_their_function(name, scales, signs):
    package, factory = name.split(".")
    models = pytest.importorskip(f"pytorchcv.models.{package}")
    net, image = getattr(models, factory)().eval(), torch.randn(1, 3, 224, 224)
    template = metanet.trace(net, image)
    state, image = drawn(net.double(), 0), image.double()  # its vectors near those of a fresh net: 50 layers amplify
    state = {entry: value + 0.1 * state[entry].abs() * (value.ndim == 1) for entry, value in net.state_dict().items()}
    with torch.no_grad():
        before = functional_call(net, state, image)
        for action, size in (("scaling", scales), ("sign", signs)):
            group = rescaling(template, action)
            assert group.size == size
            after = functional_call(net, group.sample(torch.Generator().manual_seed(0))(state), image)
            assert (after - before).abs().max() <= 1e-10 * before.abs().max()
