"""The collision suite: nets of the same weights that compute different functions have different graphs.

Each pair differs in one thing that the weights do not show. Pairs that compute the same function have the same graph if
they differ by a symmetry, by names, or by what does nothing in a finished net.
"""

import itertools
from collections.abc import Callable
from functools import partial

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metanet
from metanet.views.isomorphism import canonical_hash
from metanet.views.parameter_graph import ParameterGraph

Forward = Callable[["Net", Tensor], Tensor]
IMAGE = (2, 2, 9, 8)


class Net(nn.Module):
    """Some layers on 4 channels, and a function that uses every one of them."""

    def __init__(self, forward: Forward, layers: tuple[Callable[[], nn.Module], ...]):
        super().__init__()
        self.run, self.layers = forward, nn.ModuleList(make() for make in layers)
        self.stem, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.stem(x))).square().mean((2, 3))  # a plain mean would hide some of it


def through(net: Net, x: Tensor) -> Tensor:
    for layer in net.layers:
        x = layer(x)
    return x


def layers(*made: Callable[[], nn.Module]) -> Net:
    return Net(through, made)


def using(*made: Callable[[], nn.Module]) -> Callable[[Forward], Net]:
    return lambda forward: Net(forward, made)


def conv(**settings) -> Callable[[], nn.Module]:
    return partial(nn.Conv2d, 4, 4, settings.pop("kernel_size", 3), **settings)


def alternatives(*makers: Callable[[], Net]) -> list[tuple[Callable[[], Net], Callable[[], Net]]]:
    return list(itertools.combinations(makers, 2))


def inserted(*makers: Callable[[], nn.Module]) -> list[tuple[Callable[[], Net], Callable[[], Net]]]:
    return alternatives(*(partial(layers, make, conv(kernel_size=1)) for make in makers))


def ways(make: Callable[[Forward], Net], *forwards: Forward) -> list[tuple[Callable[[], Net], Callable[[], Net]]]:
    return alternatives(*(partial(make, forward) for forward in forwards))


ONE, TWO = using(conv(padding=1)), using(conv(padding=1), conv(padding=1))
NORM = using(conv(padding=1), partial(nn.BatchNorm2d, 4))
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.Sigmoid, nn.LeakyReLU, nn.Hardtanh, nn.Identity)
PAIRS = {
    "activation": inserted(*ACTIVATIONS),
    "slope of an activation": inserted(partial(nn.LeakyReLU, 0.1), partial(nn.LeakyReLU, 0.2)),
    "alpha of an activation": inserted(partial(nn.ELU, 0.5), partial(nn.ELU, 2.0)),
    "form of gelu": inserted(nn.GELU, partial(nn.GELU, "tanh")),
    "stride": inserted(conv(), conv(stride=2), conv(stride=(1, 2)), conv(stride=(2, 1))),
    "padding": inserted(conv(), conv(padding=1), conv(padding=(1, 0)), conv(padding=(0, 1)), conv(padding=2)),
    "dilation": inserted(conv(), conv(dilation=2), conv(dilation=(1, 2)), conv(dilation=(2, 1))),
    "padding of an even kernel": [
        *inserted(conv(kernel_size=2, padding="same"), conv(kernel_size=2, padding=1), conv(kernel_size=2)),
        *ways(
            using(conv(kernel_size=2)),
            lambda net, x: net.layers[0](F.pad(x, (0, 1, 0, 1))),
            lambda net, x: net.layers[0](F.pad(x, (1, 0, 1, 0))),
            lambda net, x: net.layers[0](F.pad(x, (1, 0, 0, 1))),
        ),
    ],
    "what is padded with": ways(
        using(conv()),
        lambda net, x: net.layers[0](F.pad(x, (1, 1, 1, 1))),
        lambda net, x: net.layers[0](F.pad(x, (1, 1, 1, 1), value=1.0)),
        lambda net, x: net.layers[0](F.pad(x, (1, 1, 1, 1), mode="reflect")),
        lambda net, x: net.layers[0](F.pad(x, (1, 1, 1, 1), mode="replicate")),
        lambda net, x: net.layers[0](F.pad(x, (1, 1, 1, 1), mode="circular")),
    ),
    "kind of pool": inserted(partial(nn.MaxPool2d, 2), partial(nn.AvgPool2d, 2), nn.Identity),
    "size of a pool": inserted(*(partial(nn.MaxPool2d, size, 1) for size in (2, 3, (2, 3), (3, 2)))),
    "stride of a pool": inserted(*(partial(nn.AvgPool2d, 3, stride) for stride in (1, 2, (1, 2), (2, 1)))),
    "padding of a pool": inserted(partial(nn.AvgPool2d, 3, 2), partial(nn.AvgPool2d, 3, 2, 1)),
    "response of neighbouring channels": inserted(
        *(partial(nn.LocalResponseNorm, size, alpha) for size in (1, 3) for alpha in (0.1, 1.0))
    ),
    "what a layer norm is taken over": ways(
        using(partial(nn.LayerNorm, 6, elementwise_affine=False), partial(nn.Conv2d, 4, 4, (2, 1))),
        lambda net, x: net.layers[1](net.layers[0](x)),
        lambda net, x: net.layers[1](F.layer_norm(x, (7, 6))),
        lambda net, x: net.layers[1](F.layer_norm(x, (4, 7, 6))),
        lambda net, x: net.layers[1](F.layer_norm(x.movedim(1, -1), (4,)).movedim(-1, 1)),
        lambda net, x: net.layers[1](F.layer_norm(x.mT, (7,)).mT),
        lambda net, x: net.layers[1](F.layer_norm(x, (6,), eps=1e-2)),
    ),
    "windows": ways(
        using(partial(nn.Conv2d, 4, 4, 1)),
        lambda net, x: net.layers[0](x.unfold(3, 3, 1).sum(-1)),
        lambda net, x: net.layers[0](x.unfold(3, 3, 2).sum(-1)),
        lambda net, x: net.layers[0](x.unfold(3, 2, 1).sum(-1)),
        lambda net, x: net.layers[0](x.unfold(2, 3, 1).sum(-1)),
        lambda net, x: net.layers[0](x.unfold(2, 3, 1).amax(-1)),
    ),
    "place of a computed kernel": ways(
        using(partial(nn.Conv2d, 4, 4, 3, bias=False)),
        lambda net, x: F.conv2d(x, net.layers[0].get_parameter("weight").tanh()),
        lambda net, x: F.conv2d(x, net.layers[0].get_parameter("weight").tanh(), stride=2),
        lambda net, x: F.conv2d(x, net.layers[0].get_parameter("weight").tanh(), padding=1),
        lambda net, x: F.conv2d(x, net.layers[0].get_parameter("weight").tanh(), dilation=2),
        lambda net, x: F.conv2d(x, net.layers[0].get_parameter("weight").tanh().mT),
        lambda net, x: F.conv2d(x, net.layers[0].get_parameter("weight").tanh().transpose(0, 1)),
    ),
    "relation and its sides": ways(
        ONE,
        lambda net, x: net.layers[0](x) * (x > 0.1),
        lambda net, x: net.layers[0](x) * (x < 0.1),
        lambda net, x: net.layers[0](x) * (x > 0.3),
        lambda net, x: net.layers[0](x) * (x > net.layers[0](x)),
        lambda net, x: net.layers[0](x) * (x < net.layers[0](x)),
        lambda net, x: torch.where(x > 0.1, net.layers[0](x), x),
        lambda net, x: torch.where(x > 0.1, x, net.layers[0](x)),
        lambda net, x: torch.maximum(x, net.layers[0](x)),
        lambda net, x: torch.minimum(x, net.layers[0](x)),
    ),
    "what is reduced": ways(
        ONE,
        lambda net, x: net.layers[0](x) * x.cumsum(2),
        lambda net, x: net.layers[0](x) * x.cumsum(3),
        lambda net, x: net.layers[0](x) * x.prod(2, keepdim=True),
        lambda net, x: net.layers[0](x) * x.max(2, keepdim=True)[0],
        lambda net, x: net.layers[0](x) * x.max(1, keepdim=True)[0],
        lambda net, x: net.layers[0](x) * x.prod(1, keepdim=True),
        lambda net, x: net.layers[0](x) * x.floor(),
        lambda net, x: net.layers[0](x) * x.to(torch.int64),
    ),
    "channels chosen by the code": ways(
        ONE,
        lambda net, x: net.layers[0](x[:, [1, 2, 3, 0]]),
        lambda net, x: net.layers[0](x[:, [1, 1, 3, 0]]),
        lambda net, x: net.layers[0](x[:, [1, 1, 3, 2]]),
        lambda net, x: x[:, [1, 2, 3, 0]] + net.layers[0](x),
        lambda net, x: x[:, [1, 0, 3, 2]] + net.layers[0](x),
    ),
    "counted padding": inserted(*(partial(nn.AvgPool2d, 3, 2, 1, count_include_pad=yes) for yes in (True, False))),
    "rounding of a pool": inserted(*(partial(nn.MaxPool2d, 2, ceil_mode=yes) for yes in (True, False))),
    "dilation of a pool": inserted(*(partial(nn.MaxPool2d, 2, 1, dilation=step) for step in (1, 2))),
    "output of a pool": inserted(*(partial(nn.AdaptiveAvgPool2d, size) for size in (2, 3, (2, 3), (3, 2)))),
    "upsampling": alternatives(
        *(
            partial(layers, partial(nn.Upsample, **settings), conv())
            for settings in (
                {"scale_factor": 2},
                {"scale_factor": 3},
                {"scale_factor": 2, "mode": "bilinear"},
                {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
            )
        )
    ),
    "order of steps": ways(
        ONE,
        lambda net, x: F.avg_pool2d(torch.relu(net.layers[0](x)), 2),
        lambda net, x: torch.relu(F.avg_pool2d(net.layers[0](x), 2)),
        lambda net, x: net.layers[0](F.avg_pool2d(torch.relu(x), 2)),
        lambda net, x: net.layers[0](torch.relu(F.avg_pool2d(x, 2))),
        lambda net, x: torch.relu(net.layers[0](F.avg_pool2d(x, 2))),
    ),
    "place of a norm": ways(
        NORM,
        lambda net, x: torch.relu(net.layers[1](net.layers[0](x))),
        lambda net, x: net.layers[1](torch.relu(net.layers[0](x))),
        lambda net, x: net.layers[0](torch.relu(net.layers[1](x))),
        lambda net, x: net.layers[0](net.layers[1](torch.relu(x))),
    ),
    "pre- and post-norm": ways(
        NORM,
        lambda net, x: x + net.layers[0](net.layers[1](x)),
        lambda net, x: x + net.layers[1](net.layers[0](x)),
        lambda net, x: net.layers[1](x + net.layers[0](x)),
        lambda net, x: net.layers[1](x) + net.layers[0](x),
    ),
    "eps": inserted(partial(nn.BatchNorm2d, 4), partial(nn.BatchNorm2d, 4, eps=1e-2)),
    "eps of a group norm": inserted(partial(nn.GroupNorm, 2, 4), partial(nn.GroupNorm, 2, 4, eps=1e-2)),
    "groups of a norm": inserted(*(partial(nn.GroupNorm, groups, 4) for groups in (1, 2, 4))),
    "residual": ways(
        ONE,
        lambda net, x: net.layers[0](x),
        lambda net, x: net.layers[0](x) + x,
        lambda net, x: net.layers[0](x) + 0.5 * x,
        lambda net, x: net.layers[0](x) - x,
        lambda net, x: x - net.layers[0](x),
        lambda net, x: net.layers[0](x) * x,
        lambda net, x: net.layers[0](x) + x + x,
    ),
    "where a residual starts": ways(
        TWO,
        lambda net, x: net.layers[1](torch.relu(net.layers[0](x))) + x,
        lambda net, x: net.layers[1](torch.relu(net.layers[0](x))) + torch.relu(x),
        lambda net, x: net.layers[1](y := torch.relu(net.layers[0](x))) + y,
        lambda net, x: net.layers[1](torch.relu(y := net.layers[0](x))) + y,
    ),
    "what is beside and what behind": ways(
        TWO,
        lambda net, x: net.layers[1](net.layers[0](x)),
        lambda net, x: net.layers[0](net.layers[1](x)),
        lambda net, x: net.layers[0](x) + net.layers[1](x),
        lambda net, x: net.layers[0](x) * net.layers[1](x),
    ),
    "side of a gate": ways(
        TWO,
        lambda net, x: net.layers[0](x) * torch.sigmoid(net.layers[1](x)),
        lambda net, x: net.layers[1](x) * torch.sigmoid(net.layers[0](x)),
        lambda net, x: torch.sigmoid(net.layers[0](x) * net.layers[1](x)),
        lambda net, x: net.layers[0](x) * torch.tanh(net.layers[1](x)),
    ),
    "order of a concatenation": ways(
        using(conv(padding=1), partial(nn.Conv2d, 8, 4, 1)),
        lambda net, x: net.layers[1](torch.cat([net.layers[0](x), x], 1)),
        lambda net, x: net.layers[1](torch.cat([x, net.layers[0](x)], 1)),
        lambda net, x: net.layers[1](torch.cat([y := net.layers[0](x), y], 1)),
    ),
    "order of parts": ways(
        using(partial(nn.Conv2d, 4, 8, 1)),
        lambda net, x: F.glu(net.layers[0](x), 1),
        lambda net, x: torch.sigmoid((y := net.layers[0](x)).chunk(2, 1)[0]) * y.chunk(2, 1)[1],
        lambda net, x: (y := net.layers[0](x))[:, ::2] * torch.sigmoid(y[:, 1::2]),
    ),
    "order of flattening": ways(
        using(partial(nn.Linear, 168, 4)),
        lambda net, x: net.layers[0](x.flatten(1))[..., None, None],
        lambda net, x: net.layers[0](x.permute(0, 1, 3, 2).flatten(1))[..., None, None],
        lambda net, x: net.layers[0](x.permute(0, 2, 3, 1).flatten(1))[..., None, None],
        lambda net, x: net.layers[0](x.permute(0, 3, 2, 1).flatten(1))[..., None, None],
    ),
    "constant": ways(
        ONE,
        lambda net, x: 2 * net.layers[0](x),
        lambda net, x: 3 * net.layers[0](x),
        lambda net, x: 2 + net.layers[0](x),
    ),
    "one layer twice": ways(ONE, lambda net, x: net.layers[0](x), lambda net, x: net.layers[0](net.layers[0](x))),
    "which of two equal layers": ways(
        TWO,
        lambda net, x: net.layers[1](torch.relu(net.layers[0](x))),
        lambda net, x: torch.relu(net.layers[1](net.layers[0](x))),
        lambda net, x: net.layers[1](torch.relu(net.layers[0](torch.relu(x)))),
    ),
}


def graph_of(net: nn.Module, state: dict[str, Tensor], shape: tuple[int, ...] = IMAGE) -> ParameterGraph:
    return metanet.trace(net.float().eval(), torch.zeros(shape)).graph(state)


def drawn(net: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    entries = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    state = {name: torch.randn(value.shape, generator=generator) for name, value in entries.items()}
    return {name: value.abs() if name.endswith("running_var") else value for name, value in state.items()}


def outputs(net: nn.Module, state: dict[str, Tensor], shape: tuple[int, ...] = IMAGE) -> Tensor:
    net.load_state_dict(state, strict=False)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return net.double().eval()(image).detach()


@pytest.mark.parametrize("difference", PAIRS)
def test_different_functions_of_the_same_weights_have_different_graphs(difference):
    hashes: dict[Callable[[], Net], tuple[str, Tensor]] = {}
    for pair in PAIRS[difference]:
        for make in pair:
            if make not in hashes:
                net = make()
                hashes[make] = canonical_hash(graph_of(net, drawn(net))), outputs(net, drawn(net))
        (one, before), (other, after) = (hashes[make] for make in pair)
        assert before.shape != after.shape or (after - before).abs().max() > 1e-6 * before.abs().max()
        assert one != other


class OfTwo(nn.Module):
    """Two layers on two inputs of one shape; `order` says which layer reads which, and which result comes first."""

    def __init__(self, order: tuple[int, int] = (0, 1), results: tuple[int, int] | None = None):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])
        self.order, self.results = order, results

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        one, other = (layer(inputs[place]) for layer, place in zip(self.layers, self.order, strict=True))
        whole = (torch.tanh(one), torch.sigmoid(other))
        return whole[0] * whole[1] if self.results is None else tuple(whole[i] for i in self.results)


@pytest.mark.parametrize(
    ("one", "other"),
    [(OfTwo(), OfTwo((1, 0))), (OfTwo(), OfTwo((0, 0))), (OfTwo(results=(0, 1)), OfTwo(results=(1, 0)))],
    ids=["swapped inputs", "an input that is not read", "swapped outputs"],
)
def test_the_place_of_inputs_and_outputs_of_one_shape_is_in_the_hash(one, other):
    state = {name: torch.full_like(value, 0.5) for name, value in one.state_dict().items()}  # equal layers
    state["layers.1.bias"] += 1
    inputs = torch.zeros(1, 3), torch.zeros(1, 3)
    hashes = [canonical_hash(metanet.trace(net.eval(), *inputs).graph(state)) for net in (one, one, other)]
    assert hashes[0] == hashes[1] != hashes[2]


SAME = {
    "dropout": (lambda: layers(conv(), nn.ReLU), lambda: layers(conv(), partial(nn.Dropout, 0.5), nn.ReLU)),
    "identity": (lambda: layers(conv(), nn.ReLU), lambda: layers(conv(), nn.Identity, nn.ReLU)),
    "function or module": (lambda: layers(conv(), nn.ReLU), lambda: ONE(lambda net, x: F.relu(conv_of(net, x)))),
    "in place": (lambda: layers(conv(), nn.ReLU), lambda: layers(conv(), partial(nn.ReLU, inplace=True))),
    "same padding": (lambda: layers(conv(padding="same")), lambda: layers(conv(padding=1))),
}


def conv_of(net: Net, x: Tensor) -> Tensor:
    return F.conv2d(x, net.layers[0].get_parameter("weight"), net.layers[0].get_parameter("bias"))


@pytest.mark.parametrize("difference", SAME)
def test_what_the_function_does_not_show_is_not_in_the_graph(difference):
    nets = [make() for make in SAME[difference]]
    state = drawn(nets[0])
    assert torch.equal(*(outputs(net, state) for net in nets))
    one, other = (canonical_hash(graph_of(net, state)) for net in nets)
    assert one == other


def test_names_of_layers_and_the_size_of_the_images_are_not_in_the_hash():
    one = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    other = nn.ModuleDict({"first": one[0]})
    other.forward = lambda x: torch.relu(other["first"](x)).mean((2, 3), keepdim=True)  # type: ignore[method-assign]
    hashes = {
        canonical_hash(graph_of(net, net.state_dict(), shape)) for net, shape in ((one, IMAGE), (other, (1, 2, 7, 7)))
    }
    assert len(hashes) == 1


def tiny() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1, groups=3), nn.Flatten(), nn.Linear(12, 2)
    )


@pytest.mark.parametrize("seed", range(4))
def test_symmetric_copies_have_one_hash_and_other_permutations_do_not(seed):
    """networkx's exact isomorphism test is the oracle."""
    net, image = tiny(), torch.zeros(1, 1, 3, 3)
    template, state = metanet.trace(net, image), drawn(net)
    symmetric = template.symmetry.sample(torch.Generator().manual_seed(seed))(state)
    order = torch.tensor([1, 2, 0])
    broken = state | {"0.bias": state["0.bias"][order], "1.weight": state["1.weight"][order]}
    graphs = [canonical_hash(template.graph(one)) for one in (state, symmetric, broken)]
    exact = [template.to_networkx(one) for one in (state, symmetric, broken)]

    def nodes_alike(one: dict, other: dict) -> bool:
        fixed = one["space"] in ("input", "5")
        return one == other if fixed else {**one, "place": 0} == {**other, "place": 0}

    def edges_alike(one: dict, other: dict) -> bool:
        return dict(one) == dict(other)

    for other in (1, 2):
        same = nx.is_isomorphic(exact[0], exact[other], node_match=nodes_alike, edge_match=edges_alike)
        assert (graphs[0] == graphs[other]) == same == (other == 1)


def test_every_bit_of_weights_and_statistics_counts():
    net = tiny()
    template, state = metanet.trace(net, torch.zeros(1, 1, 3, 3)), drawn(net)
    seen = {canonical_hash(template.graph(state))}
    for name, value in state.items():
        changed = value.clone()
        changed.view(-1)[0] = torch.nextafter(value.view(-1)[0], torch.tensor(9.0))
        seen.add(canonical_hash(template.graph(state | {name: changed})))
    assert len(seen) == 1 + len(state)
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    assert canonical_hash(template.graph(zeros)) == canonical_hash(template.graph({n: -z for n, z in zeros.items()}))
