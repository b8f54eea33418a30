"""Nets that write into parts of tensors: what a write changes, and who sees it, as in a net without writes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from metanet.arch.check import check_symmetry
from metanet.arch.trace import UnsupportedOperator, trace
from metanet.views.isomorphism import canonical_hash

TOKENS = torch.zeros(2, 5, 3)


class Between(nn.Module):
    """Two layers, and a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function, self.norm = function, nn.LayerNorm(4)
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.function(self.norm(self.stem(x))))


def shifted(x: Tensor) -> Tensor:
    """As decoders shift their words: a place of zeros, and all but the last."""
    y = x.new_zeros(x.shape)
    y[:, 1:] = x[:, :-1].clone()
    return y


def aliased(x: Tensor) -> Tensor:
    alias = x.view(x.shape)
    return torch.relu_(x) + alias


def read_twice(x: Tensor) -> Tensor:
    y = x.relu()
    return y + y.view(x.shape)


def added_to_zeros(x: Tensor) -> Tensor:
    y = torch.zeros(x.shape, dtype=x.dtype)
    y[:, :, 1:3].add_(x[:, :, 1:3])
    return y


PAIRS = {
    "places behind zeros": (shifted, lambda x: torch.cat([torch.zeros(2, 1, 4, dtype=x.dtype), x[:, :-1]], 1)),
    "memory of a view": (aliased, read_twice),
}


def graph_of(net: nn.Module) -> str:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return canonical_hash(trace(net, TOKENS).graph(net.state_dict()))


@pytest.mark.parametrize("name", PAIRS)
def test_a_net_that_writes_has_the_graph_of_one_that_does_not(name):
    writes, ordinary = PAIRS[name]
    assert graph_of(Between(writes)) == graph_of(Between(ordinary))


@pytest.mark.parametrize("function", [shifted, aliased, added_to_zeros, *(pair[1] for pair in PAIRS.values())])
def test_a_net_that_writes_is_sound(function):
    net = Between(function)
    template = trace(net, TOKENS)
    assert template.coverage() == 1
    assert template.symmetry.permutations
    assert check_symmetry(template, net, TOKENS) <= 1e-10


def test_a_write_into_zeros_is_not_lost():
    """The memory is a constant of the code until it is written to."""
    assert graph_of(Between(added_to_zeros)) != graph_of(Between(lambda x: torch.zeros(x.shape) + 0 * x))
    template = trace(Between(added_to_zeros), TOKENS)
    assert {link.kind for link in template.links} >= {"cat"}


def test_channels_that_are_overwritten_in_steps_move_together():
    def rotated(x):
        y = torch.zeros_like(x)
        y[..., ::2], y[..., 1::2] = -x[..., 1::2], x[..., ::2]
        return y + x

    net = Between(rotated)
    template = trace(net, TOKENS)
    assert check_symmetry(template, net, TOKENS) <= 1e-10


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(x) * self.get_buffer("count").add_(1)


def test_a_buffer_that_the_net_changes_stays_as_it_was():
    net = Buffered()
    trace(net, TOKENS)
    assert net.get_buffer("count").item() == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x + torch.randn(x.shape), r"aten.randn.*draws random numbers.*let the numbers be an input"),
        (lambda x: x + torch.rand_like(x), r"aten.rand_like.*test_writing.py:\d+.*draws random numbers"),
    ],
)
def test_a_net_that_draws_random_numbers_is_refused(function, message):
    with pytest.raises(UnsupportedOperator, match=message):
        trace(Between(function), TOKENS)


def test_a_write_into_one_place_twice_is_refused():
    def function(x):
        x = x.clone()
        x[:, torch.tensor([0, 0])] = x[:, :2]
        return x

    with pytest.raises(UnsupportedOperator, match=r"aten.index_put.*writes into one place twice"):
        trace(Between(function), TOKENS)


def test_words_that_are_shifted_are_still_words():
    """As a decoder makes its words from the encoder's."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, words):
            before = words.new_zeros(words.shape)
            before[:, 1:] = words[:, :-1].clone()
            before[:, 0] = 2
            return self.head(self.table(before).tanh() * self.table(words))

    net, words = Shifted(), torch.randint(0, 9, (2, 5))
    template = trace(net, words)
    assert template.symmetry.log10_order == pytest.approx(1.380211, abs=1e-6)  # 4!
    assert check_symmetry(template, net, words) <= 1e-10
