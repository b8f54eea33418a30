"""Sampled permutations keep the function; what is no symmetry changes it; the group is as large as by hand."""

import dataclasses
import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from metanet.arch.check import UnsoundSymmetry, check_symmetry
from metanet.arch.symmetry import Part, Permutation
from metanet.arch.trace import trace

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.GELU, nn.ELU, nn.Identity]


def log10_factorials(*sizes: int) -> float:
    return sum(math.lgamma(size + 1) for size in sizes) / math.log(10)


@st.composite
def cnns(draw: st.DrawFn) -> tuple[nn.Module, list[int]]:
    """A random CNN on [2, 2, 6, 6] or an MLP on [2, 72], and the sizes of its hidden layers."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    widths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    depth = draw(st.integers(0, len(widths)))
    layers: list[nn.Module] = []
    channels, side = 2, 6
    for width in widths[:depth]:
        kernel = draw(st.sampled_from([1, 3] if side > 2 else [1]))
        layers.append(
            nn.Conv2d(channels, width, kernel, padding=draw(st.sampled_from([0, "same"])), bias=draw(st.booleans()))
        )
        steps = [nn.BatchNorm2d(width), draw(st.sampled_from(ACTIVATIONS))()]
        if draw(st.booleans()):
            steps.append(draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2, ceil_mode=True))
        layers.extend(draw(st.permutations(steps)))
        channels = width
        side = nn.Sequential(*layers).eval()(torch.zeros(1, 2, 6, 6)).shape[-1]
        if side < 2:
            break
    done = sum(isinstance(layer, nn.Conv2d) for layer in layers)
    layers.append(nn.Flatten())
    features = channels * side * side
    for width in widths[done:]:
        steps = [nn.BatchNorm1d(width), draw(st.sampled_from(ACTIVATIONS))(), nn.Dropout(0.5)]
        layers += [nn.Linear(features, width, bias=draw(st.booleans())), *draw(st.permutations(steps))]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 3)), widths


@settings(max_examples=20)
@given(drawn=cnns())
def test_sampled_permutations_keep_the_function_and_the_group_has_the_order_of_the_formula(drawn):
    net, widths = drawn
    template = trace(net, torch.zeros(2, 2, 6, 6))
    assert template.symmetry.log10_order == pytest.approx(log10_factorials(*widths))
    assert check_symmetry(template, net, torch.zeros(2, 2, 6, 6)) <= 1e-10
    assert template.coverage() == 1


@settings(max_examples=20)
@given(drawn=cnns(), data=st.data())
def test_a_permutation_that_leaves_out_a_tensor_changes_the_function(drawn, data):
    net, _ = drawn
    net = net.double().eval()
    image = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    symmetry = trace(net, image).symmetry
    if not symmetry.permutations:
        return
    factor = data.draw(st.sampled_from(sorted(symmetry.permutations)))
    name = data.draw(st.sampled_from([name for name, _ in symmetry.tensors(factor)]))
    drawn_state = {
        name: torch.randn(value.shape, dtype=value.dtype) for name, value in net.state_dict().items() if value.ndim
    }
    state = {name: value / 3 if value.ndim > 1 else value.abs() + 0.5 for name, value in drawn_state.items()}
    smooth = nn.Sequential(
        *(nn.Softplus() if type(layer) in ACTIVATIONS else layer for layer in net)
    )  # no unit is dead or saturated
    table = {factor: torch.arange(symmetry.factors[factor].size).roll(1)}
    permuted = symmetry.apply(table, state)
    before, after, broken = (
        functional_call(smooth, one, image) for one in (state, permuted, permuted | {name: state[name]})
    )
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)
    assert (broken - before).abs().max() > 1e-9


class Grouped(nn.Module):
    def __init__(self, groups: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 4 * groups, 1)
        self.grouped = nn.Conv2d(4 * groups, 2 * groups, 3, groups=groups)
        self.head = nn.Linear(2 * groups, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.grouped(torch.tanh(self.stem(x)))).mean((2, 3)))


@pytest.mark.parametrize("groups", [2, 3])
def test_a_grouped_convolution_has_a_wreath_product(groups):
    net, image = Grouped(groups), torch.zeros(2, 3, 5, 5)
    template = trace(net, image)
    assert template.symmetry.log10_order == pytest.approx(log10_factorials(groups, *[4] * groups, *[2] * groups))
    assert check_symmetry(template, net, image) <= 1e-10


@pytest.mark.parametrize("outer", [2, 3, 4])
def test_grouped_convolutions_with_other_groups_in_a_row_are_sound(outer):
    net = nn.Sequential(
        *[nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=outer), nn.Tanh(), nn.Conv2d(12, 12, 1, groups=6)],
        *[nn.Tanh(), nn.Conv2d(12, 24, 1, groups=12), nn.Tanh(), nn.Conv2d(24, 2, 1)],
    )
    template = trace(net, torch.zeros(2, 3, 5, 5))
    assert template.symmetry.log10_order > 1
    assert check_symmetry(template, net, torch.zeros(2, 3, 5, 5), samples=5) <= 1e-10


class ResidualStream(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 5), nn.Linear(5, 2)
        self.up, self.down = (
            nn.ModuleList(nn.Linear(5, 4) for _ in range(2)),
            nn.ModuleList(nn.Linear(4, 5) for _ in range(2)),
        )

    def forward(self, x):
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.tanh(up(x)))
        return self.head(x)


def test_a_residual_stream_has_one_permutation():
    net = ResidualStream()
    template = trace(net, torch.zeros(2, 3))
    assert template.symmetry.log10_order == pytest.approx(log10_factorials(5, 4, 4))
    assert check_symmetry(template, net, torch.zeros(2, 3)) <= 1e-10


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3))


IMAGE = torch.zeros(2, 2, 4, 4)


def test_stacked_nets_are_permuted_like_single_ones_and_each_by_its_own_element_on_request():
    net = small_net()
    symmetry = trace(net, IMAGE).symmetry
    state = {name: value for name, value in net.state_dict().items() if value.ndim}
    stacked = {name: torch.stack([value, 2 * value, 3 * value]) for name, value in state.items()}
    permute = symmetry.sample(torch.Generator().manual_seed(3))
    for name, value in permute(stacked).items():
        torch.testing.assert_close(value[1], 2 * permute(state)[name])
    own = symmetry.sample(torch.Generator().manual_seed(3), nets=3)(stacked)
    orders = {tuple(own["0.bias"][i].div(i + 1).tolist()) for i in range(3)}
    assert len(orders) == 3
    image = torch.randn(2, 2, 4, 4)
    for i in range(3):
        before, after = ({n: v[i] for n, v in s.items()} | {"1.running_var": torch.ones(5)} for s in (stacked, own))
        torch.testing.assert_close(*(functional_call(net.eval(), s, image) for s in (before, after)))


def test_the_same_generator_gives_the_same_permutation_and_unknown_entries_stay():
    net = small_net()
    symmetry = trace(net, IMAGE).symmetry
    one, other = (symmetry.sample(torch.Generator().manual_seed(7))(net.state_dict()) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (
        one["1.num_batches_tracked"] is net.state_dict()["1.num_batches_tracked"] or one["1.num_batches_tracked"] == 0
    )
    assert not torch.equal(one["0.weight"], net.state_dict()["0.weight"])


def test_an_uncoupled_permutation_is_reported_with_the_tensors_it_acts_on():
    net = small_net()
    template = trace(net, IMAGE)
    symmetry = template.symmetry
    assert symmetry.factors[0] == Permutation(5)
    axes = dict(symmetry.axes) | {"1.running_mean": ((Part((len(symmetry.factors),)),),)}
    uncoupled = dataclasses.replace(symmetry, factors=(*symmetry.factors, Permutation(5)), axes=axes)
    with pytest.raises(UnsoundSymmetry, match=r"Sequential: a permutation .* It permutes .*1\.running_mean \(axis 0\)"):
        check_symmetry(dataclasses.replace(template, symmetry=uncoupled), net, IMAGE)


def test_a_net_whose_outputs_are_not_finite_is_refused():
    net = small_net()
    with torch.no_grad():
        net.state_dict()["4.weight"].fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        check_symmetry(trace(net, IMAGE), net, IMAGE)


def test_checking_leaves_the_module_as_it_was():
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    check_symmetry(trace(net, IMAGE), net, IMAGE)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("shape", "nets", "message"),
    [
        ((4, 2, 3, 3), None, r"0.weight: shape \[4, 2, 3, 3\], expected it to end in \[5\] and 3 more axes"),
        ((2, 3, 3), None, r"0.weight: shape \[2, 3, 3\]"),
        ((5, 2, 3, 3), 2, "0.weight: .* is not a stack of as many nets"),
        ((3, 5, 2, 3, 3), 2, "0.weight: .* is not a stack of as many nets"),
    ],
)
def test_a_tensor_of_another_shape_is_refused_by_name(shape, nets, message):
    permute = trace(small_net(), IMAGE).symmetry.sample(torch.Generator(), nets=nets)
    with pytest.raises(ValueError, match=message):
        permute({"0.weight": torch.zeros(shape)})


def shuffled(norm: nn.Module) -> nn.Module:
    """The norm of 6 channels that were taken in turn from 2 groups."""
    return nn.Sequential(nn.Unflatten(1, (6, 1)), nn.ChannelShuffle(2), nn.Flatten(), norm)


@pytest.mark.parametrize(
    ("middle", "sizes"),
    [
        (nn.LayerNorm(6), [6]),
        (nn.RMSNorm(6), [6]),
        (nn.GroupNorm(3, 6), [3, 2, 2, 2]),  # a wreath product: groups, and the members of each
        (nn.GroupNorm(1, 6), [6]),
        (shuffled(nn.GroupNorm(2, 6)), [2, 3, 3]),  # its groups cut those of the shuffle
        (shuffled(nn.GroupNorm(3, 6)), [3, 2, 2, 2]),
        (nn.GLU(1), [3]),  # value and gate move together
    ],
    ids=["layer", "rms", "group", "one group", "shuffled", "shuffled as grouped", "glu"],
)
def test_what_a_norm_or_gate_leaves_free_is_as_large_as_by_hand(middle, sizes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), middle, nn.Tanh(), nn.LazyLinear(2))
    net(torch.zeros(2, 3))
    template = trace(net, torch.zeros(2, 3))
    assert template.symmetry.log10_order == pytest.approx(log10_factorials(*sizes))
    assert check_symmetry(template, net, torch.zeros(2, 3)) <= 1e-10


# log10 of the group's order, from formulas by hand (sum over channel sets of log10 n!)
PUBLIC = {
    "resnet.resnet18": 5934.493,
    "preresnet.preresnet18": 5934.493,
    "seresnet.seresnet18": 6043.946,
    "mobilenetv2.mobilenetv2_w1": 21151.846,
    "resnext.resnext50_32x4d": 24223.063,
    "densenet.densenet121": 16536.531,
    "efficientnet.efficientnet_b0": 27049.629,
    "shufflenetv2.shufflenetv2_w1": 9688.625,  # not by hand: of an independent trial
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_public_networks_have_the_group_that_was_counted_by_hand(name):
    pytest.importorskip("pytorchcv")
    module, _, factory = name.partition(".")
    torch.manual_seed(0)
    net = getattr(importlib.import_module(f"pytorchcv.models.{module}"), factory)()
    image = torch.zeros(1, 3, 224, 224)
    template = trace(net, image)
    assert template.coverage() == 1
    assert template.symmetry.log10_order == pytest.approx(PUBLIC[name], abs=1e-3)
    assert check_symmetry(template, net, image, samples=1) <= 1e-10
