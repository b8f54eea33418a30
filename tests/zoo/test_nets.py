"""The families are those of the papers, named uniquely, and start as their initialisation says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metanet import seeding
from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace
from metanet.zoo import nets
from metanet.zoo.families import FAMILIES
from metanet.zoo.initialisations import INITIALISATIONS, SCALED, initialise
from metanet.zoo.layers import Tokens

CNN = {"family": "nws_cnn", "image_shape": [1, 14, 14], "num_classes": 10, "batch_norm": True}
CNN |= {"filter_size": 3, "conv_depth": 4, "conv_width": 4, "dense_depth": 2, "dense_width": 16}
SMALL = {"family": "small_cnn", "image_shape": [1, 28, 28], "num_classes": 10, "batch_norm": False}
SMALL |= {"conv_depth": 3, "conv_width": 16}
RESNET = {"family": "resnet", "image_shape": [1, 8, 8], "num_classes": 10, "depth": 8, "width": 4, "norm": "batch"}
MLP = {"family": "mlp", "image_shape": [1, 8, 8], "num_classes": 10, "batch_norm": False, "depth": 2, "width": 16}


def nws(f: int, conv_depth: int, dense_depth: int, conv_width: int, dense_width: int) -> dict:
    arch = {"filter_size": f, "conv_depth": conv_depth, "dense_depth": dense_depth, "conv_width": conv_width}
    return CNN | arch | {"dense_width": dense_width, "image_shape": [3, 32, 32], "num_classes": 20}


def numbers(arch: dict) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in nets.build(arch).state_dict().values() if value.dim())


def test_the_fixed_architecture_has_the_papers_number_of_values():
    """Eilertsen et al. (2020): 92,868 exported values; 21,260 to 388,172 over all 243 architectures."""
    assert numbers(nws(5, 3, 2, 8, 128)) == 92_868
    grid = [
        nws(f, c, d, w, u) for f in (3, 5, 7) for c in (3, 4, 5) for d in (2, 3, 4) for w in (4, 8, 12)
        for u in (64, 128, 192)
    ]  # fmt: skip
    counts = sorted(numbers(arch) for arch in grid)
    assert (counts[0], counts[-1]) == (21_260, 388_172)
    assert len({nets.arch_name(arch) for arch in grid}) == 243


def test_the_small_cnn_has_the_papers_number_of_values():
    """Unterthiner et al. (2020): 4,970 weights."""
    assert numbers(SMALL) == 4970


def test_the_model_zoos_cnns_have_the_papers_number_of_values():
    """Schürholt et al. (2022): 2,464, 2,864 and 10,853."""
    arch = {"family": "model_zoos_cnn", "num_classes": 10}
    assert numbers(arch | {"variant": "cnn", "image_shape": [1, 28, 28]}) == 2464
    assert numbers(arch | {"variant": "cnn", "image_shape": [3, 28, 28]}) == 2864
    assert numbers(arch | {"variant": "cnn3", "image_shape": [3, 32, 32]}) == 10_853


def test_the_residual_net_has_its_published_number_of_parameters():
    """20 layers on CIFAR-10 with shortcuts of kind B, as counted in public implementations: 272,474."""
    net = nets.build(RESNET | {"depth": 20, "width": 16, "image_shape": [3, 32, 32]})
    assert sum(parameter.numel() for parameter in net.parameters()) == 272_474


def test_a_wild_park_layer_adds_an_earlier_output_on_the_channels_of_both():
    """Against the layers one by one."""
    arch = {"family": "wild_park", "image_shape": [3, 8, 8], "num_classes": 10, "depth": 4}
    arch |= {"kernels": "3-5-7-3", "widths": "4-8-6-8", "skips": "0-0-2-3"}
    net = nets.build(arch, activation="tanh").eval()
    images = torch.rand(2, 3, 8, 8)
    conv: list[nn.Module] = [net.get_submodule(f"body.conv{number}") for number in (1, 2, 3, 4)]
    first = conv[0](images).tanh()
    third = conv[2](conv[1](first).tanh())
    third[:, :4] += first
    last = conv[3](third.tanh())
    last[:, :4] += first
    torch.testing.assert_close(net(images), net.get_submodule("head")(last.tanh().mean((2, 3))))
    assert nets.arch_name(arch) == "wild_park-4-f3-5-7-3-x4-8-6-8-s0-0-2-3-3x8x8-10"
    for change, message in (
        ({"skips": "0-2-0-0"}, "skips that reach no further back than the first layer"),
        ({"kernels": "3-4-5-3"}, "found kernels '3-4-5-3', expected 4 numbers joined by -, each an odd integer"),
        ({"widths": "4-4-4"}, "found widths '4-4-4', expected 4 numbers"),
        ({"skips": "0-1-0-0"}, "each 0, or an integer of at least 2"),
        ({"skips": 3}, "found skips 3"),
    ):
        with pytest.raises(ValueError, match=message):
            nets.build(arch | change)


VIT = {"family": "vit", "image_shape": [3, 8, 8], "num_classes": 10, "depth": 2, "width": 8, "heads": 2, "patch": 4}


@pytest.mark.parametrize("readout", ["class", "mean"])
def test_a_transformer_computes_what_torchs_own_layers_compute(readout):
    """torch.nn.TransformerEncoderLayer with the same weights is the oracle."""
    net = nets.build(VIT | {"readout": readout}).eval()
    tokens = net.get_submodule("tokens")
    assert isinstance(tokens, Tokens)
    for parameter in tokens.parameters():
        nn.init.normal_(parameter)
    images = torch.rand(5, 3, 8, 8)
    x = net.get_submodule("patches")(images).flatten(2).mT
    if readout == "class":
        x = torch.cat((tokens.state_dict()["class_token"].expand(5, 1, 8), x), 1)
    x = x + tokens.position
    for number in (1, 2):
        ours = net.get_submodule(f"block{number}").state_dict()
        theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "relu", batch_first=True, norm_first=True)
        bias = torch.cat((ours["query.bias"], torch.zeros(8), ours["value.bias"]))
        weight = torch.cat([ours[f"{name}.weight"] for name in ("query", "key", "value")])
        renamed = {"self_attn.in_proj_weight": weight, "self_attn.in_proj_bias": bias}
        for name, other in (("out", "self_attn.out_proj"), ("expand", "linear1"), ("contract", "linear2")):
            renamed |= {f"{other}.{kind}": ours[f"{name}.{kind}"] for kind in ("weight", "bias")}
        renamed |= {f"norm{i}.{kind}": ours[f"norm{i}.{kind}"] for i in (1, 2) for kind in ("weight", "bias")}
        theirs.load_state_dict(renamed)
        x = theirs.eval()(x)
    x = net.get_submodule("norm")(x)
    expected = net.get_submodule("head")(x[:, 0] if readout == "class" else x.mean(1))
    torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"patch": 3}, "a patch that divides 8 and 8"), ({"heads": 3}, "a width that is a multiple")],
)
def test_a_transformer_of_impossible_sizes_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        nets.build(VIT | {"readout": "mean"} | change)


def test_the_implicit_representation_has_the_papers_number_of_parameters():
    """Navon et al. (2023): 32 x 2 + 32, 32 x 32 + 32 and 32 + 1 for grey images."""
    arch = {"family": "siren", "image_shape": [1, 28, 28], "num_classes": 10, "depth": 2, "width": 32, "omega": 30}
    assert numbers(arch) == 1185
    assert nets.input_shape(arch) == [2]
    stacked = fresh(["siren"] * 50, arch)
    bounds = {"dense1.weight": 1 / 2, "dense2.weight": (6 / 32) ** 0.5 / 30, "head.weight": (6 / 32) ** 0.5 / 30}
    for name, bound in bounds.items():
        assert bound * 0.97 < float(stacked[name].abs().max()) <= bound
    waves = nets.build(arch, activation="sin")
    assert [type(layer).__name__ for layer in waves] == ["Linear", "Scale", "Sin"] * 2 + ["Linear"]
    point = torch.tensor([[0.1, -0.3]])
    torch.testing.assert_close(waves[:3](point), torch.sin(30 * waves[0](point)))


@pytest.mark.parametrize(
    "arch",
    [
        VIT | {"readout": "class", "depth": 1},
        VIT | {"readout": "mean", "depth": 1},
        {"family": "wild_park", "depth": 3, "kernels": "3-1-3", "widths": "4-3-6", "skips": "0-0-2"},
        {"family": "siren", "depth": 2, "width": 4, "omega": 30},
        {"family": "cnn1d", "filter_size": 3, "conv_depth": 2, "conv_width": 4, "dense_width": 6, "batch_norm": False},
        {"family": "deep_sets", "depth": 2, "width": 4, "dense_depth": 1, "stride": 2, "readout": "max"},
    ],
    ids=lambda arch: f"{arch['family']}-{arch.get('readout')}",
)
def test_nets_of_the_further_families_become_graphs_with_a_sound_symmetry(arch):
    arch = {"image_shape": [3, 8, 8], "num_classes": 10} | arch
    net, example = nets.build(arch, activation="gelu").eval(), torch.rand(2, *nets.input_shape(arch))
    template = trace(net, example)
    assert template.num_params == sum(parameter.numel() for parameter in net.parameters())
    assert template.symmetry.log10_order > 0
    check_symmetry(template, net, example)


def test_a_field_means_the_same_kind_of_value_in_every_family():
    """One column of the manifest holds it for all."""
    kinds: dict[str, type] = {}
    for family in FAMILIES.values():
        for name, field in family.FIELDS.items():
            assert kinds.setdefault(name, field.kind) is field.kind


def test_extra_convolutions_go_to_the_later_blocks():
    names = [name for name, _ in nets.build(nws(3, 5, 2, 4, 64)).named_children() if name.startswith(("conv", "pool"))]
    order = [name for name in names if "_" not in name]
    assert order == ["conv1", "pool1", "conv2", "conv3", "pool2", "conv4", "conv5", "pool3"]


@settings(max_examples=20, deadline=None)
@given(
    side=st.integers(1, 20), channels=st.sampled_from([1, 3]), norm=st.booleans(), family=st.sampled_from([CNN, MLP])
)
def test_every_image_size_gives_logits(side, channels, norm, family):
    net = nets.build(family | {"image_shape": [channels, side, side + 1], "batch_norm": norm}).eval()
    assert net(torch.rand(2, channels, side, side + 1)).shape == (2, 10)


def test_a_name_says_what_the_net_is():
    assert nets.arch_name(CNN) == "nws_cnn-f3-c4x4-d2x16-bn-1x14x14-10"
    assert nets.arch_name(MLP) == "mlp-2x16-1x8x8-10"
    assert nets.arch_name(RESNET) == "resnet-8x4-batch-1x8x8-10"


@pytest.mark.parametrize("activation", nets.ACTIVATIONS)
def test_activation_and_dropout_arrive(activation):
    net = nets.build(CNN, activation=activation, dropout=0.25)
    found = [type(module) for module in net if type(module) in nets.ACTIVATIONS.values()]
    assert found == [nets.ACTIVATIONS[activation]] * 6
    assert {module.p for module in net if isinstance(module, nn.Dropout)} == {0.25}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"family": "nws_cn"},
            f"expected one of {', '.join(FAMILIES)}; did you mean nws_cnn?",
        ),
        ({"filter_size": 4}, "expected an odd filter_size"),
        ({"filter_size": 0}, "found filter_size 0, expected an integer of at least 1"),
        ({"conv_depth": 2}, "expected conv_depth of at least 3"),
        ({"dense_depth": 6}, "can be halved 5 times"),
        ({"image_shape": [8, 8]}, "found image_shape [8, 8] and 10 classes, expected three sizes"),
        ({"depth": 2}, "found the fields"),
    ],
)
def test_an_impossible_architecture_is_refused(change, message):
    with pytest.raises(ValueError, match=r"architecture|unknown") as error:
        nets.build(CNN | change)
    assert message in str(error.value)


def test_an_image_that_the_small_cnn_would_shrink_to_nothing_is_refused():
    nets.build(SMALL | {"image_shape": [1, 15, 15]}).eval()(torch.rand(1, 1, 15, 15))
    with pytest.raises(ValueError, match="expected images of at least 15 x 15 pixels"):
        nets.build(SMALL | {"image_shape": [1, 15, 14]})


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            {
                "family": "cnn1d",
                "filter_size": 2,
                "conv_depth": 1,
                "conv_width": 4,
                "dense_width": 6,
                "batch_norm": True,
            }
            | {"image_shape": [1, 8, 8], "num_classes": 10},
            "expected an odd filter_size, which keeps the length",
        ),
        (
            {"family": "deep_sets", "depth": 1, "width": 4, "dense_depth": 1, "stride": 8, "readout": "max"}
            | {"image_shape": [1, 9, 8], "num_classes": 10},
            "expected a stride below 8",
        ),
        (RESNET | {"depth": 9}, "expected depth of 8, 14 or 20"),
        (RESNET | {"norm": "group", "width": 6}, "expected a width that is a multiple of 4 for group norm"),
        (RESNET | {"norm": "instance"}, "found norm 'instance', expected one of batch, group, layer, none"),
        (
            {"family": "model_zoos_cnn", "variant": "cnn", "image_shape": [1, 19, 28], "num_classes": 10},
            "expected images of at least 20 x 20 pixels",
        ),
        (
            {"family": "model_zoos_cnn", "variant": "cnn3", "image_shape": [1, 28, 21], "num_classes": 10},
            "expected images of at least 22 x 22 pixels",
        ),
    ],
)
def test_sizes_that_make_no_net_are_refused_by_their_family(arch, message):
    with pytest.raises(ValueError, match=message):
        nets.build(arch)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match=r"unknown activation 'rleu', expected one of .*; did you mean relu\?"):
        nets.build(CNN, activation="rleu")


def fresh(schemes: list[str], arch: dict = CNN, first: int = 0) -> dict:
    keys = seeding.keys(0, torch.arange(first, first + len(schemes)), "initialisation")
    return initialise(arch, schemes, keys)


def test_a_fresh_stack_loads_into_modules():
    stacked = fresh(list(INITIALISATIONS))
    module = nets.build(CNN)
    assert list(stacked) == list(module.state_dict())
    for row in range(len(INITIALISATIONS)):
        module.load_state_dict({name: value[row] for name, value in stacked.items()})
    assert stacked["conv1.bias"].abs().max() == 0
    assert (stacked["conv_norm1.weight"] == 1).all()
    assert (stacked["conv_norm1.running_var"] == 1).all()


def test_a_net_starts_the_same_in_any_company():
    schemes = list(INITIALISATIONS)
    together = fresh(schemes)
    for row, scheme in enumerate(schemes):
        alone = fresh([scheme], first=row)
        assert all(torch.equal(value[row], alone[name][0]) for name, value in together.items())


@pytest.mark.parametrize(
    "scheme", ["normal", "truncated_normal", "uniform", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal"]
)
def test_initial_weights_have_the_spread_of_torchs(scheme):
    """torch.nn.init is the oracle, on a convolution and on a dense layer."""
    stacked = fresh([scheme] * 4, CNN | {"conv_width": 16, "dense_width": 128})
    oracle = {
        "normal": nn.init.normal_,
        "truncated_normal": nn.init.trunc_normal_,
        "uniform": nn.init.uniform_,
        "glorot_uniform": nn.init.xavier_uniform_,
        "glorot_normal": nn.init.xavier_normal_,
        "he_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
        "he_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    }[scheme]
    torch.manual_seed(0)
    for name in ("conv4.weight", "dense1.weight"):
        theirs = oracle(torch.empty_like(stacked[name][0]))
        assert abs(float(stacked[name].std() / theirs.std()) - 1) < 0.02
        if "uniform" in scheme:
            assert abs(float(stacked[name].max() / theirs.max()) - 1) < 0.01


def test_orthogonal_weights_are_orthogonal_and_constant_ones_are_constant():
    stacked = fresh(["orthogonal", "constant"])
    for name in ("conv1.weight", "conv4.weight", "dense1.weight", "head.weight"):
        weight = stacked[name][0].flatten(1).double()
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-5, rtol=0)
        assert (stacked[name][1] == 0.1).all()


def test_the_standard_deviation_scales_the_normal_schemes_alone():
    schemes = list(INITIALISATIONS)
    keys = seeding.keys(0, torch.arange(len(schemes)), "initialisation")
    plain, scaled = (initialise(CNN, schemes, keys, std) for std in (None, torch.full((len(schemes),), 0.25)))
    for row, scheme in enumerate(schemes):
        factor = 0.25 if scheme in SCALED else 1.0
        assert torch.equal(scaled["conv1.weight"][row], plain["conv1.weight"][row] * factor), scheme
