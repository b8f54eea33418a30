"""What modules take, give and hold: nested and missing inputs, lists of parameters, number types, changed buffers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace
from tests.arch.counted import Counted, log10_factorials, of


class Form(nn.Module):
    """Layers 3 -> 4 -> 2 and 2 -> 4, and a function of them and of the inputs."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function, self.one, self.two, self.head = function, nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)
        self.scalar, self.single = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor([0.5]))
        self.empty, self.frozen = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(self, *inputs, **named)


@dataclass
class Both:
    logits: Tensor
    mean: Tensor | None = None


torch.export.register_dataclass(Both)


def joined(net: Form, x: Tensor, y: Tensor | None) -> Tensor:
    return torch.tanh(net.one(x) if y is None else net.one(x) + net.two(y))


def tracked(net: Form, x: Tensor) -> Tensor:
    x = net.one(x)
    mean = net.get_buffer("mean")
    mean.mul_(0.9).add_(0.1 * x.mean(0))
    return net.head(torch.relu(x - mean))


def complexes(net: Form, x: Tensor) -> Tensor:
    x = torch.tanh(net.one(x))
    return torch.complex(net.head(x), net.head(x * net.frozen))


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4, 3), torch.randn(5, 4), torch.randn(2, 5)])
        self.biases = nn.ParameterDict({"0": torch.randn(4), "1": torch.randn(5)})

    def forward(self, x: Tensor) -> Tensor:
        for k, weight in enumerate(self.weights):
            x = F.linear(torch.relu(x), weight, self.biases.get(str(k)))
        return x


class Matrices(nn.Module):
    def __init__(self, left: bool):
        super().__init__()
        self.one, self.bias, self.two = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4)), nn.Linear(4, 2)
        self.left = left

    def forward(self, x: Tensor) -> Tensor:
        if self.left:
            return self.two.weight @ (self.one.T @ x + self.bias[:, None]).relu()
        return (x @ self.one + self.bias).relu() @ self.two.weight.T


class Projected(nn.Module):
    """An LSTM whose state is smaller than its cells."""

    def __init__(self, **settings: Any):
        super().__init__()
        self.lstm = nn.LSTM(3, 6, proj_size=4, batch_first=True, **settings)
        self.head, self.cells = nn.LazyLinear(2), nn.Linear(6, 2)
        self(torch.zeros(1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x, (_, cells) = self.lstm(x)
        return self.head(x) + self.cells(cells).sum(0)[:, None]


def form(function: Callable[..., Any]) -> Callable[[], nn.Module]:
    return lambda: Form(function)


PAIR = {"x": of(2, 3), "y": of(2, 2)}
CASES = {
    "dict": Counted(form(lambda net, one: {"y": net.head(joined(net, **one))}), (4,), (PAIR,)),
    "tuple": Counted(form(lambda net, one: (net.head(joined(net, *one)), None)), (4,), ((of(2, 3), of(2, 2)),)),
    "dataclass": Counted(
        form(lambda net, x: Both(net.head(joined(net, x, None)), net.one(x).mean())), (4,), (of(2, 3),)
    ),
    "none": Counted(form(lambda net, x, y: net.head(joined(net, x, y))), (4,), (of(2, 3), None)),
    "number": Counted(form(lambda net, x, k: net.head(k * joined(net, x, None))), (4,), (of(2, 3), 3)),
    "complex": Counted(form(complexes), (4,), (of(2, 3),)),
    "changed buffer": Counted(form(tracked), (4,), (of(2, 3),)),
    "scalars": Counted(
        form(lambda net, x: net.head(net.scalar.sigmoid() * joined(net, x, None) + net.single) * net.scalar.exp()),
        (4,),
        (of(2, 3),),
    ),
    "lists": Counted(Lists, (4, 5), (of(2, 3),)),
    "matrix on the right": Counted(lambda: Matrices(left=False), (4,), (of(2, 3),)),
    "matrix on the left": Counted(lambda: Matrices(left=True), (4,), (of(3, 2),)),
    "projected": Counted(Projected, (4, 6), (of(2, 5, 3),)),
    "projected both ways": Counted(
        lambda: Projected(num_layers=2, bidirectional=True, bias=False),
        (4, 4, 4, 4, 6),
        (of(2, 5, 3),),  # one layer reads all cells
    ),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", CASES)
def test_forms_of_modules_have_the_group_that_is_counted_by_hand(name):
    CASES[name].check()


def test_inputs_by_name_are_inputs():
    net = Form(lambda net, x, *, y, scale=1.0: net.head(scale * joined(net, x, y)))
    x, y = torch.randn(2, 3), torch.randn(2, 2)
    template = trace(net, x, y=y)
    assert template.symmetry.log10_order == pytest.approx(log10_factorials(4))
    assert check_symmetry(template, net, x, y=y) <= 1e-10
    assert trace(net, x, y=y, scale=2.0) != template


def test_a_module_of_half_precision_is_traced_as_it_is_and_checked_in_double():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)).bfloat16()
    x = torch.randn(2, 3, dtype=torch.bfloat16)
    template = trace(net, x)
    assert template.symmetry.log10_order == pytest.approx(log10_factorials(4))
    assert check_symmetry(template, net, x) <= 1e-10
    assert net[0].weight.dtype == torch.bfloat16


def test_tracing_a_net_that_changes_its_buffers_leaves_them_as_they_were():
    net = Form(tracked)  # its layer `two` is read by nothing, so the net is run as well
    trace(net, torch.randn(2, 3))
    assert not net.get_buffer("mean").any()


def test_complex_parameters_are_refused_by_name():
    net = Form(lambda net, x: net.head(joined(net, x, None)))
    net.register_parameter("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    with pytest.raises(ValueError, match=r"Form: phase holds complex numbers.*view_as_complex"):
        trace(net, torch.randn(2, 3))
