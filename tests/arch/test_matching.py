"""Matching finds a net again in every symmetric copy of itself, keeps functions, and never makes things worse."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import metanet
from metanet.arch.matching import distance, match
from metanet.arch.responses import responses
from metanet.arch.template import Template


class Residual(nn.Module):
    """A stream that two branches write, one of them from the stream to itself, with norms of every kind."""

    def __init__(self):
        super().__init__()
        self.stem, self.same = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.up, self.down = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)
        self.norm, self.groups, self.head = nn.BatchNorm2d(6), nn.GroupNorm(4, 8), nn.Linear(54, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.same(x)
        x = x + self.down(torch.tanh(self.groups(self.up(x))))
        return self.head(x.flatten(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def cnn() -> nn.Module:
    first = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 2), nn.Tanh()]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Linear(7, 2))


def grouped() -> nn.Module:
    first = [nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Tanh(), nn.Conv2d(4, 4, 1, groups=2)]
    return nn.Sequential(*first, nn.Tanh(), nn.Conv2d(4, 8, 1, groups=4), nn.Tanh(), nn.Conv2d(8, 2, 1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6, 4)),
    "cnn": (cnn, (6, 2, 5, 5)),
    "residual": (Residual, (6, 2, 5, 5)),
    "grouped": (grouped, (6, 2, 5, 5)),
}
_known: dict[str, tuple[nn.Module, Template]] = {}


def traced(name: str) -> tuple[nn.Module, Template]:
    if name not in _known:
        make, shape = NETS[name]
        net = make().double().eval()
        _known[name] = net, metanet.trace(net, torch.zeros(shape, dtype=torch.float64))
    return _known[name]


def drawn(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Values of a net of its own, with variances that are positive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in net.state_dict().items():
        state[name] = value
        if value.is_floating_point():
            state[name] = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            state[name] = state[name].abs() + 0.5 if name.endswith("running_var") else state[name]
    return state


def inputs(name: str) -> Tensor:
    return torch.randn(NETS[name][1], generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", [1])
def test_a_net_is_found_again_in_any_symmetric_copy_of_itself(name, method, seed):
    net, template = traced(name)
    state = drawn(net, seed)
    moved = template.symmetry.sample(torch.Generator().manual_seed(seed))(state)
    evidence = {} if method == "weights" else {"module": net, "inputs": [inputs(name)]}
    found = match(template, state, moved, method, **evidence)(moved)
    assert distance(template, state, moved) > 1
    assert all(torch.equal(found[entry], value) for entry, value in state.items())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", [10])
def test_the_aligned_net_is_closer_and_computes_the_same(name, seed):
    net, template = traced(name)
    a, b = drawn(net, seed), drawn(net, seed + 1)
    aligned = match(template, a, b)(b)
    assert distance(template, a, aligned) < distance(template, a, b)
    before, after = (functional_call(net, state, inputs(name)) for state in (b, aligned))
    assert (after - before).abs().max() <= 1e-10 * before.abs().max()
    again = match(template, a, aligned)(aligned)
    assert distance(template, a, again) <= distance(template, a, aligned)


def test_one_hidden_layer_is_matched_as_well_as_by_trying_every_permutation():
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    template = metanet.trace(net, torch.zeros(1, 3, dtype=torch.float64))
    a, b = drawn(net, 1), drawn(net, 2)
    ways = [list(order) for order in itertools.permutations(range(6))]
    copies = [
        {"0.weight": b["0.weight"][way], "0.bias": b["0.bias"][way], "2.weight": b["2.weight"][:, way]} for way in ways
    ]
    best = min(distance(template, a, b | copy) for copy in copies)
    assert distance(template, a, match(template, a, b)(b)) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_matched_as_well_as_by_trying_every_permutation(seed):
    """A wreath product: every order of the groups, with every order of the members of each."""
    net = nn.Sequential(nn.Linear(2, 6), nn.GroupNorm(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    template = metanet.trace(net, torch.zeros(2, 2, dtype=torch.float64))
    a, b = drawn(net, seed), drawn(net, seed + 50)
    pairs = list(itertools.permutations(range(2)))
    distances = []
    for groups in itertools.permutations(range(3)):
        for members in itertools.product(pairs, repeat=3):
            way = [2 * group + member for group, inner in zip(groups, members, strict=True) for member in inner]
            copy = {name: value[way] for name, value in b.items() if len(value) == 6}
            distances.append(distance(template, a, b | copy | {"3.weight": b["3.weight"][:, way]}))
    assert len(distances) == 48
    assert distance(template, a, match(template, a, b)(b)) == pytest.approx(min(distances), rel=1e-12)


def test_straight_through_matching_is_never_worse_halfway_than_by_weights():
    net, template = traced("mlp")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    batches = [(part, (part.sum(1) > 0).long()) for part in images.split(32)]
    a, b = drawn(net, 5), drawn(net, 6)

    def halfway(aligned: dict[str, Tensor]) -> float:
        middle = {name: (a[name] + aligned[name]) / 2 for name in a}
        return sum(nn.functional.cross_entropy(functional_call(net, middle, x), y).item() for x, y in batches)

    by_weights = match(template, a, b)
    settings = {"module": net, "batches": batches, "learning_rate": 0.1}
    by_loss = match(template, a, b, "straight_through", epochs=6, **settings)
    assert halfway(by_loss(b)) < halfway(by_weights(b)) < halfway(b)
    before, after = (functional_call(net, state, images) for state in (b, by_loss(b)))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
    untrained = match(template, a, b, "straight_through", epochs=0, **settings)
    assert all(torch.equal(value, by_weights(b)[name]) for name, value in untrained(b).items())


def test_running_statistics_move_along_but_do_not_count():
    net, template = traced("cnn")
    a = drawn(net, 3)
    moved = template.symmetry.sample(torch.Generator().manual_seed(1))(a)
    other = moved | {"1.running_mean": 1e6 * torch.arange(5.0, dtype=torch.float64)}
    aligned = match(template, a, other)(other)
    assert torch.equal(aligned["1.running_var"], a["1.running_var"])
    assert not torch.equal(aligned["1.running_mean"], other["1.running_mean"])
    assert distance(template, a, a | {"1.running_mean": other["1.running_mean"]}) == 0


def test_what_cannot_be_matched_is_refused_by_name():
    net, template = traced("cnn")
    state = drawn(net, 0)
    with pytest.raises(ValueError, match="found method 'weight', expected one of weights, activations, straight_thr"):
        match(template, state, state, "weight")
    with pytest.raises(ValueError, match=r"entry '6\.bias': found none, the template expects \[7\]"):
        match(template, state, {name: value for name, value in state.items() if name != "6.bias"})
    with pytest.raises(ValueError, match=r"entry '6\.bias': found shape \[3\], the template expects \[7\]"):
        match(template, state | {"6.bias": torch.zeros(3)}, state)
    with pytest.raises(ValueError, match="at least one batch of inputs"):
        match(template, state, state, "activations", module=net, inputs=[])
    with pytest.raises(ValueError, match=r"at least one batch of \(inputs, targets\)"):
        match(template, state, state, "straight_through", module=net, batches=[])
    broken = state | {"0.bias": state["0.bias"] * torch.inf}
    with pytest.raises(ValueError, match=r"what '0\.weight' writes is not finite"):
        match(template, broken, state, "activations", module=net, inputs=[inputs("cnn")])


class Products(nn.Module):
    """Weights that are used in other ways than nn.Linear's."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.tanh(x @ self.first.T) @ self.second))


def test_activations_of_plain_products_are_heard_on_the_axis_that_they_write():
    net, image = Products().double(), torch.randn(32, 3, dtype=torch.float64)
    state = drawn(net, 0)
    heard = responses(net, state, image)
    torch.testing.assert_close(heard["first", 0], (image @ state["first"].T).T)
    torch.testing.assert_close(heard["second", 1], (torch.tanh(image @ state["first"].T) @ state["second"]).T)
    assert heard.keys() == {("first", 0), ("second", 1), ("head.weight", 0)}


def test_a_transformer_layer_is_heard_projection_by_projection():
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.0).double().eval()
    sequence = torch.randn(3, 5, 6, dtype=torch.float64)
    heard = responses(layer, layer.state_dict(), sequence)
    attention = layer.self_attn
    whole = sequence @ attention.in_proj_weight.T + attention.in_proj_bias
    assert heard["self_attn.in_proj_weight", 0].shape == (18, 15)
    torch.testing.assert_close(heard["self_attn.in_proj_weight", 0].sum(1), whole.flatten(0, 1).sum(0))
    assert torch.backends.mha.get_fastpath_enabled()


class ByHand(nn.Module):
    """Its first layer is a sum of products, which no operator of a layer computes."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh((x[:, None] * self.first.weight).sum(-1) + self.first.bias))


def test_activations_that_cannot_be_heard_are_refused():
    linear = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    template = metanet.trace(linear, torch.zeros(2, 3))
    names = {"first.weight": "0.weight", "first.bias": "0.bias", "head.weight": "2.weight", "head.bias": "2.bias"}
    renamed = dict(zip(names.values(), names, strict=True))
    text = template.to_json()
    for old, new in renamed.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    state = ByHand().state_dict()
    with pytest.raises(ValueError, match=r"writes the channels of first\.weight \(axis 0\).*match by weights"):
        match(Template.from_json(text), state, state, "activations", module=ByHand(), inputs=[torch.randn(4, 3)])


class LastHidden(nn.Module):
    """A model of transformers as a function of one tensor."""

    def __init__(self, model: nn.Module, argument: str, **settings: bool):
        super().__init__()
        self.model, self.argument, self.settings = model, argument, settings

    def forward(self, x: Tensor) -> Tensor:
        return self.model(**{self.argument: x}, **self.settings).last_hidden_state


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_public_transformers_are_found_again_by_weights_and_by_activations(name):
    library = pytest.importorskip("transformers")
    if name == "gpt2":
        config = library.GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=16, eos_token_id=0)
        net, example = LastHidden(library.GPT2Model(config), "input_ids", use_cache=False), torch.arange(14).view(2, 7)
    else:
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = library.ViTConfig(hidden_size=32, image_size=32, patch_size=8, **sizes)
        net = LastHidden(library.ViTModel(config, add_pooling_layer=False), "pixel_values")
        example = torch.randn(2, 3, 32, 32)
    template = metanet.trace(net.eval(), example)
    state = {entry: value / 4 for entry, value in drawn(net.double(), 0).items()}
    moved = template.symmetry.sample(torch.Generator().manual_seed(0))(state)
    example = example.double() if example.is_floating_point() else example
    for method, evidence in (("weights", {}), ("activations", {"module": net, "inputs": [example]})):
        found = match(template, state, moved, method, **evidence)(moved)
        assert distance(template, state, moved) > 1
        assert all(torch.equal(found[entry], state[entry]) for entry in template.shapes)
