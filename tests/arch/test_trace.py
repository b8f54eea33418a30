"""trace: what becomes of a module, what is refused, and that the module stays as it was."""

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import metanet
from metanet.arch.check import check_symmetry
from metanet.arch.template import Operation, Template
from metanet.arch.trace import UnsupportedOperator, trace
from metanet.views.graph import state_dict_of
from metanet.zoo import nets

NWS = {"family": "nws_cnn", "filter_size": 3, "conv_depth": 3, "dense_depth": 2, "conv_width": 4, "dense_width": 8}
SHAPE = {"image_shape": [1, 9, 9], "num_classes": 5, "batch_norm": True}
IMAGES = torch.zeros(2, 3, 8, 8)


def kinds(template):
    return [[operation.kind for operation in space.operations] for space in template.spaces]


class Branches(nn.Module):
    """Two convolutions, joined by a function."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), join

    def forward(self, x):
        return self.join(self.left(x), self.right(x))


def conv_net(*between, out=6):
    """conv -> between -> conv, so that what stands between acts on exchangeable channels."""
    return nn.Sequential(nn.Conv2d(3, out, 3), *between, nn.Conv2d(out, 2, 1))


class Shift(nn.Module):
    """Adds a tensor that the state_dict does not hold."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.rand(6, 1, 1), persistent=False)

    def forward(self, x):
        return x + self.shift


def test_nws_cnn_becomes_one_space_per_layer_in_order_of_computation():
    template = metanet.trace(nets.build(NWS | SHAPE, dropout=0.5), torch.zeros(2, 1, 9, 9))
    conv, dense = ["bias", "batch_norm", "relu", "max_pool"], ["bias", "relu", "batch_norm"]
    assert kinds(template) == [[], conv, conv, conv, dense, dense, ["bias"]]
    assert [space.size for space in template.spaces] == [1, 4, 8, 16, 8, 4, 5]
    assert [space.role for space in template.spaces] == ["input", *["hidden"] * 5, "output"]
    assert [space.fixed for space in template.spaces] == [True, *[False] * 5, True]
    assert [(block.source, block.target) for block in template.blocks] == [(i, i + 1) for i in range(6)]
    assert [block.kind for block in template.blocks] == ["conv"] * 3 + ["flatten"] + ["linear"] * 2
    assert template.blocks[3].shape == (8, 16, 4)
    assert template.blocks[3].taps == (2, 2)
    assert template.spaces[1].vectors.keys() == {"bias", "scale", "shift", "mean", "variance"}
    assert template.spaces[1].operations[-1].attributes["ceil_mode"] is True


def test_mlp_on_images_has_a_node_per_pixel():
    template = trace(nets.build({"family": "mlp", "depth": 2, "width": 6} | SHAPE), torch.zeros(2, 1, 9, 9))
    assert [space.size for space in template.spaces] == [81, 6, 6, 5]
    assert [block.kind for block in template.blocks] == ["linear"] * 3


def test_functional_code_is_seen_like_modules():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 9, 2)

        def forward(self, x):
            x = F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
            return self.head(F.dropout(x, 0.5, self.training).view(x.size(0), -1))

    modules = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    functional, sequential = trace(Functional(), IMAGES), trace(modules, IMAGES)
    assert kinds(functional) == kinds(sequential)
    assert [b.shape for b in functional.blocks] == [b.shape for b in sequential.blocks]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (conv_net(nn.ReLU()), conv_net(nn.Tanh())),
        (conv_net(nn.LeakyReLU(0.1)), conv_net(nn.LeakyReLU(0.2))),
        (conv_net(nn.ELU(1.0)), conv_net(nn.ELU(0.5))),
        (conv_net(nn.GELU()), conv_net(nn.GELU(approximate="tanh"))),
        (conv_net(nn.BatchNorm2d(6), nn.ReLU()), conv_net(nn.ReLU(), nn.BatchNorm2d(6))),
        (conv_net(nn.BatchNorm2d(6, eps=1e-5)), conv_net(nn.BatchNorm2d(6, eps=1e-3))),
        (conv_net(nn.MaxPool2d(2)), conv_net(nn.AvgPool2d(2))),
        (conv_net(nn.MaxPool2d(2)), conv_net(nn.MaxPool2d(2, ceil_mode=True))),
        (conv_net(nn.MaxPool2d(2)), conv_net(nn.MaxPool2d(2, stride=1))),
        (conv_net(nn.MaxPool2d(2), nn.ELU()), conv_net(nn.ELU(), nn.MaxPool2d(2))),
        (conv_net(nn.AvgPool2d(3, padding=1)), conv_net(nn.AvgPool2d(3, padding=1, count_include_pad=False))),
        (conv_net(nn.AdaptiveAvgPool2d(2)), conv_net(nn.AdaptiveAvgPool2d((2, 1)))),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, stride=2)),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, padding=1)),
        (nn.Conv2d(3, 4, 3, padding=2), nn.Conv2d(3, 4, 3, padding=2, dilation=2)),
        (nn.Conv2d(3, 4, (1, 3)), nn.Conv2d(3, 4, (3, 1))),
        (nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3)),
        (conv_net(nn.Conv2d(6, 6, 1, groups=2)), conv_net(nn.Conv2d(6, 6, 1, groups=3))),
        (conv_net(nn.GroupNorm(2, 6)), conv_net(nn.GroupNorm(3, 6))),
        (conv_net(nn.GroupNorm(2, 6)), conv_net(nn.GroupNorm(2, 6, eps=1e-3))),
        (conv_net(nn.GroupNorm(2, 6)), conv_net(nn.BatchNorm2d(6, affine=True, track_running_stats=True))),
        (Branches(lambda a, b: torch.cat([a, b], 1)), Branches(lambda a, b: torch.cat([b, a], 1))),
        (Branches(lambda a, b: a[:, ::2] + b[:, 1::2]), Branches(lambda a, b: a[:, 1::2] + b[:, ::2])),
        (Branches(lambda a, b: a[:, ::2] + b[:, ::2]), Branches(lambda a, b: a[:, :3] + b[:, :3])),
        (Branches(lambda a, b: a * b.mean((2, 3), True)), Branches(lambda a, b: a.mean((2, 3), True) * b)),
    ],
)
def test_nets_that_differ_in_what_weights_do_not_show_have_different_templates(one, other):
    one, other = trace(one, IMAGES), trace(other, IMAGES)
    assert (one.spaces, one.blocks, one.links) != (other.spaces, other.blocks, other.links)


def test_same_padding_of_an_even_kernel_is_written_out():
    (block,) = trace(nn.Conv2d(3, 4, (2, 5), padding="same", dilation=(1, 2)), IMAGES).blocks
    assert block.attributes["padding"] == (0, 1, 4, 4)
    assert trace(nn.Conv2d(3, 4, 3, padding="same"), IMAGES) == trace(nn.Conv2d(3, 4, 3, padding=1), IMAGES)


class Residual(nn.Module):
    def __init__(self, width=6, inplace=True, before=False):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.conv, self.head = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 2)
        self.act, self.before = nn.ReLU(inplace), before

    def forward(self, x):
        x = self.stem(x)
        y = self.act(self.norm(x)) if self.before else self.norm(self.conv(x))
        y = self.conv(y) if self.before else y
        return self.head(self.act(x + y).mean((2, 3)))


def test_a_residual_add_links_its_inputs_to_a_space_of_its_own():
    template = trace(Residual(), IMAGES)
    assert [space.name for space in template.spaces] == ["input", "stem", "conv", "add", "head"]
    assert [(link.kind, link.source, link.target) for link in template.links] == [("add", 1, 3), ("add", 2, 3)]
    assert len(template.symmetry.permutations) == 1
    assert kinds(template)[3] == ["relu", "adaptive_avg_pool"]


def test_what_one_branch_does_is_not_seen_by_the_other():
    template = trace(Residual(before=True), IMAGES)
    assert [space.name for space in template.spaces] == ["input", "stem", "norm", "conv", "add", "head"]
    assert [link.kind for link in template.links] == ["identity", "add", "add"]
    assert kinds(template)[1:4] == [["bias"], ["batch_norm", "relu"], ["bias"]]


def test_in_place_and_ordinary_activations_give_the_same_template():
    assert trace(Residual(inplace=True), IMAGES) == trace(Residual(inplace=False), IMAGES)


def test_an_in_place_change_reaches_later_readers():
    class Overwrites(Residual):
        def forward(self, x):
            x = self.stem(x)
            y = torch.relu_(x)
            return self.head((x + y).mean((2, 3)))  # x is relu(x) here

    overwrites = Overwrites()
    del overwrites.norm, overwrites.conv
    template = trace(overwrites, IMAGES)
    assert kinds(template)[1] == ["bias", "relu"]
    assert [(link.source, link.target) for link in template.links] == [(1, 2), (1, 2)]


@given(width=st.integers(1, 4), side=st.integers(1, 3), channels_last=st.booleans())
def test_flattened_taps_are_read_in_the_order_of_the_weight(width, side, channels_last):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, width, 9 - side), nn.Linear(width * side**2, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.head((x.permute(0, 2, 3, 1) if channels_last else x).flatten(1))

    block = trace(Flat(), IMAGES).blocks[1]
    assert block.shape == (2, width, side**2)
    if side > 1 and width > 1:
        assert block.pattern == ("o (t i) -> o i t" if channels_last else "o (i t) -> o i t")


def test_an_operator_without_a_rule_is_named_with_its_place_and_what_to_do():
    class Strided(nn.Module):
        def forward(self, x):
            return x.as_strided((1, 4, 2, 2), (16, 4, 2, 1))

    with pytest.raises(UnsupportedOperator) as error:
        trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Strided()), nn.Conv2d(4, 2, 1)), IMAGES)
    assert "aten.as_strided in module '1.0'" in str(error.value)
    assert "test_trace.py:" in str(error.value)
    assert "docs/add-a-layer.md" in str(error.value)


def test_a_parameter_that_nothing_reads_is_in_the_graph_and_stays_as_it_is():
    net = conv_net(nn.ReLU())
    net.register_parameter("spare", nn.Parameter(torch.randn(3, 2)))
    template, spare = trace(net, IMAGES), net.get_parameter("spare").clone()
    assert template.coverage() == 1
    assert template.symmetry.axes["spare"] == ((), ())
    assert torch.equal(state_dict_of(template, template.graph(net.state_dict()))["spare"], spare)
    assert torch.equal(net.get_parameter("spare"), spare)


def test_a_parameter_without_values_is_left_out():
    net = conv_net(nn.ReLU())
    net.register_parameter("tokens", nn.Parameter(torch.zeros(1, 0, 3)))
    template = trace(net, IMAGES)
    assert "tokens" not in template.shapes
    assert state_dict_of(template, template.graph(net.state_dict())).keys() == template.shapes.keys()


def test_a_parameter_that_the_exporter_takes_for_a_constant_is_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.gain = nn.Linear(3, 4), nn.Parameter(torch.ones(()))
            self.gains = [self.gain]

        def forward(self, x):
            return self.layer(x) * self.gains[0]

    with pytest.raises(ValueError, match=r"Hidden: no operator is seen to read gain, but the outputs depend on them"):
        trace(Hidden(), torch.ones(2, 3))


class Tied(nn.Module):
    """One weight used twice, under two names."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))


def test_a_tied_weight_is_one_entry_with_two_blocks():
    net, x = Tied().double(), torch.zeros(2, 3, dtype=torch.float64)
    template = trace(net, x)
    assert [block.name for block in template.blocks] == ["one.weight", "one.weight", "head.weight"]
    assert template.tied == {"two.weight": "one.weight"}
    assert template.num_params == sum(parameter.numel() for parameter in net.parameters())
    assert not template.symmetry.permutations  # the weight reads the inputs, which are fixed, and its own outputs
    assert template.graph(net.state_dict()).num_nodes == 11
    assert Template.from_json(template.to_json()) == template


def test_a_tied_weight_moves_under_all_of_its_names():
    net = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), Tied())
    template = trace(net, torch.zeros(2, 5))
    assert template.symmetry.log10_order == pytest.approx(math.log10(6))
    assert check_symmetry(template, net, torch.zeros(2, 5)) <= 1e-10
    moved = template.symmetry.sample(torch.Generator().manual_seed(0))(net.state_dict())
    assert torch.equal(moved["2.one.weight"], moved["2.two.weight"])
    assert not torch.equal(moved["2.one.weight"], net.state_dict()["2.one.weight"])


class WithCache(nn.Linear):
    """Gives what torch.export does not know, as transformers' nets do by default."""

    class Cache:
        pass

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return super().forward(x.movedim(1, -1)), WithCache.Cache()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.BatchNorm2d(3, track_running_stats=False), "normalises by its batch"),
        (conv_net(nn.AvgPool2d(2, divisor_override=3)), "divisor_override"),
        (nn.ReLU(), "no weight tensor"),
        (nn.Linear(5, 2), "cannot be exported"),
        (
            WithCache(),
            r"Found <class .*Cache'> in output.* Let it take and give tensors .*use_cache=False.*register_dataclass",
        ),
    ],
)
def test_uses_that_no_rule_knows_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        trace(net, IMAGES)


class Failing(nn.Linear):
    def forward(self, input):
        raise KeyError("key")


class Branching(nn.Linear):
    def forward(self, input):
        y = super().forward(input)
        return y if bool((input.triu() == y.new_zeros(())).all()) else -y


def test_an_export_that_fails_says_why_and_logs_nothing(capfd):
    with pytest.raises(ValueError, match=r"Failing cannot be exported by torch\.export: KeyError: 'key'"):
        trace(Failing(5, 2), IMAGES)
    with pytest.raises(ValueError, match="Linear cannot be exported"):
        trace(nn.Linear(5, 2), torch.zeros(1, 3))  # torch logs a traceback of this
    with pytest.raises(ValueError, match="data-dependent"):
        trace(Branching(5, 2), torch.zeros(1, 5))  # torch prints the program so far
    assert capfd.readouterr().err == ""


def test_what_is_no_module_is_not_traced():
    with pytest.raises(ValueError, match=r"found a OrderedDict to trace, expected an nn\.Module and inputs for it"):
        inspect.unwrap(trace)(nn.Linear(5, 2).state_dict(), IMAGES)  # the tests' own type checks would come first


def test_tracing_leaves_the_module_as_it_was():
    net = nets.build(NWS | SHAPE, dropout=0.5).half()
    net.get_submodule("conv1").eval()
    flags = {name: module.training for name, module in net.named_modules()}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trace(net.float(), torch.zeros(2, 1, 9, 9))
    assert flags == {name: module.training for name, module in net.named_modules()}
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_a_number_added_or_multiplied_is_an_operation():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(2.0 * torch.tanh(self.one(x)) - 0.5)

    operations = trace(Scaled(), torch.zeros(2, 3)).spaces[1].operations
    assert operations[-2:] == (Operation("mul", {"value": 2.0}), Operation("add", {"value": -0.5}))


@pytest.mark.parametrize("join", [torch.add, torch.mul, torch.div, torch.maximum])
def test_a_tensor_of_one_number_brings_its_axes_along(join):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(3, 4), nn.Linear(1, 2)
            self.register_buffer("one", torch.full((1,), 0.7), persistent=False)

        def forward(self, x):
            return self.head(join(self.layer(x).mean(), self.one))

    net = Net()
    assert check_symmetry(trace(net, torch.ones(5, 3)), net, torch.ones(5, 3)) <= 1e-10


def test_parts_are_linked_to_the_whole_with_their_place():
    template = trace(Branches(lambda a, b: torch.cat([a, b], 1)[:, 2::5]), IMAGES)
    links = [(link.kind, link.source, link.target, link.sources, link.targets) for link in template.links]
    assert links == [
        ("cat", 1, 3, (), tuple(range(6))),
        ("cat", 2, 3, (), tuple(range(6, 12))),
        ("identity", 3, 4, (2, 7), ()),  # the output is a part of the whole
    ]


class Chosen(nn.Module):
    """One channel read by itself, flattened behind all of them or alone."""

    def __init__(self, beside: bool):
        super().__init__()
        self.stem, self.beside = nn.Conv2d(3, 4, 1), beside
        self.head = nn.Linear(5 * 4 if beside else 4, 2)

    def forward(self, x):
        x = self.stem(x)
        one = x[:, 2:3].flatten(1)
        return self.head(torch.cat([torch.tanh(x).flatten(1), one], 1) if self.beside else one)


@pytest.mark.parametrize("beside", [False, True])
def test_a_channel_that_is_read_by_itself_changes_place_with_no_other(beside):
    net, image = Chosen(beside), torch.zeros(2, 3, 2, 2)
    template = trace(net, image)
    assert template.symmetry.log10_order == pytest.approx(math.log10(6))  # the other three
    assert check_symmetry(template, net, image, samples=5) <= 1e-10
