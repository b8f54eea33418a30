"""A stacked program computes what each module computes, for any module whose layers have rules."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from metanet import seeding
from metanet.zoo import nets, stack
from metanet.zoo.stack import Stack
from metanet.zoo.stack_rules import dropout_mask


class Residual(nn.Module):
    """Layers that no family has yet: a skip, stride, dilation, groups, no bias, a norm without scale."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4, affine=False, eps=0.1)
        self.inner = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.activation = activation()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(16, 5, bias=False)

    def forward(self, x):
        x = self.norm(self.stem(x))
        x = x + self.activation(self.inner(x))
        return self.head(torch.flatten(self.pool(x), 1))


def modules(build, count: int, dtype=torch.float64) -> tuple[list[nn.Module], dict[str, Tensor]]:
    """Modules with random weights and running statistics, and their stacked state."""
    made = [build(i).to(dtype) for i in range(count)]
    for seed, module in enumerate(made):
        generator = torch.Generator().manual_seed(seed)
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.1)
    states = [module.state_dict() for module in made]
    return made, {name: torch.stack([state[name] for state in states]) for name in states[0]}


@settings(max_examples=15, deadline=None)
@given(chosen=st.lists(st.sampled_from(list(nets.ACTIVATIONS)), min_size=1, max_size=6), train=st.booleans())
def test_a_stack_computes_what_its_modules_compute(chosen, train):
    made, tensors = modules(lambda i: Residual(nets.ACTIVATIONS[chosen[i]]), len(chosen))
    images = torch.rand(len(chosen), 7, 3, 9, 11, dtype=torch.float64)
    stack = Stack(Residual(), chosen, torch.zeros(len(chosen)))
    logits = stack(tensors, images, torch.arange(len(chosen)) if train else None)
    for row, module in enumerate(made):
        torch.testing.assert_close(logits[row].T, module.train(train)(images[row]))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(tensors[name][row], value)


class ReadTwice(nn.Module):
    """Values and gradients that something else reads and an activation must not overwrite."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.conv, self.same, self.activation = nn.Conv2d(3, 4, 3), nn.Identity(), activation()
        self.conv2, self.conv3, self.conv4 = nn.Conv2d(4, 3, 3), nn.Conv2d(4, 3, 3), nn.Conv2d(3, 3, 3)
        self.activation2, self.activation3, self.pool = activation(), activation(), nn.AdaptiveAvgPool2d(1)
        self.flatten, self.head, self.last = nn.Flatten(), nn.Linear(3, 5), activation()

    def forward(self, x):
        x = self.conv(x)
        x = self.activation(self.same(x)) + x
        x = self.conv3(x) + self.activation2(self.conv2(x))  # both get one gradient
        x = self.pool(self.activation3(self.conv4(x)))
        return self.last(self.head(self.flatten(x)))


def gradients(activation: str, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Those of three stacked nets and of their modules, weight by weight."""
    made, tensors = modules(lambda i: ReadTwice(nets.ACTIVATIONS[activation]), 3, dtype)
    images = torch.randn(3, 6, 3, 9, 11, dtype=dtype, generator=torch.Generator().manual_seed(0))
    weights = [value.requires_grad_() for value in tensors.values()]
    outputs = Stack(ReadTwice(), [activation] * 3, torch.zeros(3))(tensors, images, torch.arange(3))
    found = torch.autograd.grad(outputs.square().sum(), weights)
    for row, module in enumerate(made):
        expected = torch.autograd.grad(module(images[row]).square().sum(), list(module.parameters()))
        yield from zip((ours[row] for ours in found), expected, strict=True)


@pytest.mark.parametrize("activation", nets.ACTIVATIONS)
def test_gradients_are_those_of_modules_where_a_value_is_read_twice(activation):
    for ours, theirs in gradients(activation, torch.float64):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in gradients(activation, torch.float32):  # oneDNN then does the last convolution's activation
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_a_gradient_that_two_layers_read_must_not_be_overwritten(monkeypatch):
    """The twin of the test above."""
    monkeypatch.setattr(stack, "_has_own_gradient", lambda module, node: True)
    assert not all(torch.allclose(ours, theirs) for ours, theirs in gradients("sigmoid", torch.float64))


@pytest.mark.parametrize("train", [True, False])
def test_no_net_touches_another(train):
    """Changing one net's weights, images and activation leaves the other rows the same bits, gradients included."""
    chosen = ["tanh", "tanh", "elu", "relu"]
    rows = [0, 1, 3]

    def run(activations, scale):
        _, tensors = modules(lambda i: Residual(), 4)
        for value in tensors.values():
            if value.is_floating_point():
                value[2] *= scale
        weights = [tensors["stem.weight"].requires_grad_(), tensors["head.weight"].requires_grad_()]
        images = torch.rand(4, 7, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        images[2] *= scale
        logits = Stack(Residual(), activations, torch.zeros(4))(tensors, images, torch.arange(4) if train else None)
        gradients = torch.autograd.grad(logits.square().sum(), weights)
        return [value.detach() for value in (logits, *gradients, tensors["norm.running_mean"])]

    for calm, disturbed in zip(run(chosen, 1.0), run(["tanh", "tanh", "gelu", "relu"], torch.nan), strict=True):
        assert torch.equal(calm[rows], disturbed[rows])
    assert not torch.equal(run(chosen, 1.0)[0][2], run(chosen, 1.5)[0][2])


def test_dropout_keeps_the_mean_and_the_zeros_are_as_many_as_asked():
    probability = torch.tensor([0.0, 0.25, 0.5])
    mask = dropout_mask(seeding.keys(0, torch.arange(3), "dropout", 1), "layer", probability, 64, 200)
    assert mask.shape == (3, 64, 200)
    assert (mask[0] == 1).all()
    torch.testing.assert_close((mask == 0).float().mean((1, 2)), probability, atol=0.02, rtol=0)
    torch.testing.assert_close(mask.mean((1, 2)), torch.ones(3), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)),
            "Sequential: layer '1', InstanceNorm2d, cannot be stacked",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Softsign()),
            "layer '2', Softsign, cannot be stacked",
        ),
    ],
)
def test_a_layer_without_a_rule_is_refused_by_name(module, message):
    with pytest.raises(ValueError, match=message):
        Stack(module, ["relu"], torch.zeros(1))


def test_a_function_without_a_rule_is_refused_by_name():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.roll(x, 1)

    with pytest.raises(ValueError, match=r"Odd: call_function .*roll.* cannot be stacked: no rule"):
        Stack(Odd(), ["relu"], torch.zeros(1))
