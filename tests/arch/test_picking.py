"""Places that the input chooses: sorting, the largest, reading and writing at computed places."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanet.arch.check import check_symmetry
from metanet.arch.trace import UnsupportedOperator, trace
from metanet.views.isomorphism import canonical_hash

TOKENS = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """Two layers over tokens [samples, places, channels], and a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function, self.stem, self.head = function, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.function(self.stem(x)))


class Router(nn.Module):
    """A mixture of experts: two of three layers for every token, as its largest scores say."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.experts = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(self, x):
        x = self.stem(x)
        values, places = self.gate(x).softmax(-1).topk(2, -1)
        scores = torch.zeros(*x.shape[:2], 3, dtype=x.dtype).scatter(-1, places, values)
        return self.head(sum(scores[..., k : k + 1] * expert(x).relu() for k, expert in enumerate(self.experts)))


def pooled_at(score: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The token of the highest score."""
    return lambda x: x[torch.arange(len(x)), score(x.sum(2)).argmax(1)]


FUNCTIONS = {
    "token of the largest sum": pooled_at(lambda s: s),
    "token of the smallest sum": pooled_at(lambda s: -s),
    "first in descending order": lambda x: x.gather(
        1, x.sum(2).argsort(descending=True)[:, :1, None].expand(-1, -1, 4)
    ),
    "last in ascending order": lambda x: x.gather(1, x.sum(2).argsort()[:, 1:2, None].expand(-1, -1, 4)),
    "largest per channel": lambda x: x.topk(2, 1)[0],
    "smallest per channel": lambda x: x.topk(2, 1, largest=False)[0],
    "written": lambda x: x.scatter(1, x.sum(2).argsort()[:, :, None].expand_as(x), x.tanh()),
    "added": lambda x: x.scatter_add(1, x.sum(2).argsort()[:, :, None].expand_as(x), x.tanh()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_the_input_chooses_leaves_the_channels_free(name):
    net = Between(FUNCTIONS[name])
    template = trace(net, TOKENS)
    assert template.coverage() == 1
    assert template.symmetry.log10_order == pytest.approx(1.380211, abs=1e-6)  # 4!
    assert check_symmetry(template, net, TOKENS) <= 1e-10


def test_what_is_chosen_shows_in_the_graph():
    hashes = set()
    for function in FUNCTIONS.values():
        torch.manual_seed(0)
        net = Between(function)
        hashes.add(canonical_hash(trace(net, TOKENS).graph(net.state_dict())))
    assert len(hashes) == len(FUNCTIONS)


def test_experts_that_scores_choose_keep_their_order_and_free_units():
    net = Router().double()
    template = trace(net, TOKENS.double())
    assert check_symmetry(template, net, TOKENS.double()) <= 1e-10
    axes = template.symmetry.axes
    assert not axes["gate.weight"][0], "the order of the experts is what their places say"
    assert axes["stem.weight"][0]
    swapped = dict(net.state_dict())
    swapped["gate.weight"] = swapped["gate.weight"].flip(0)
    out = torch.func.functional_call(net, swapped, TOKENS.double())
    assert (out - net(TOKENS.double())).abs().max() > 1e-6


def test_channels_that_are_sorted_do_not_move():
    net = Between(lambda x: x * x.argsort(2))
    template = trace(net, TOKENS)
    assert not template.symmetry.permutations
    net = Between(lambda x: x.sort(2)[0])
    assert check_symmetry(trace(net, TOKENS), net, TOKENS) <= 1e-10


def test_words_that_are_looked_up_at_computed_places_are_rows_of_the_table():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.table[x.argmax(1)])

    net = Table()
    template = trace(net, TOKENS)
    assert template.symmetry.log10_order == pytest.approx(1.380211, abs=1e-6)
    assert check_symmetry(template, net, TOKENS) <= 1e-10


def test_positions_may_be_cut_where_they_do_not_divide():
    """Relative shift, as Transformer-XL does it."""

    def shifted(x):
        scores = F.pad(x @ x.mT, (1, 0))
        return (scores.view(2, 6, 5)[:, 1:].reshape(2, 5, 5)).softmax(-1) @ x

    net = Between(shifted)
    template = trace(net, TOKENS)
    assert template.symmetry.log10_order == pytest.approx(1.380211, abs=1e-6)
    assert check_symmetry(template, net, TOKENS) <= 1e-10


def test_what_no_rule_knows_is_refused():
    with pytest.raises(UnsupportedOperator, match=r"aten.argmax in the outermost module.*along one axis only"):
        trace(Between(lambda x: x * x.argmax()), TOKENS)
