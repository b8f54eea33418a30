"""gnn: it tells nets apart by what only the links between their spaces show."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metanet
from metanet.arch.template import Template
from metanet.dataset import Nets, Schema
from metanet.models.gnn import GNN
from metanet.targets import Target


class Computed(nn.Module):
    """A convolution whose kernel is computed from weights, and may be turned on the way."""

    def __init__(self, turned: bool):
        super().__init__()
        self.turned, self.kernel, self.last = turned, nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.tanh()
        return self.last(F.conv2d(x, kernel.mT if self.turned else kernel).square().mean((2, 3)))


def summary(template: Template, state: dict[str, Tensor]) -> Tensor:
    """What an untrained gnn of fixed weights tells of one net."""
    target = Target("learning_rate", "regression", log=True, mean=-3.0, std=0.5)
    torch.manual_seed(0)
    model = GNN(Schema((target,), {"net": template}), width=16, edge_width=8, token_width=16).double().eval()
    nets = Nets("net", template, {name: tensor[None].double() for name, tensor in state.items()}, torch.arange(1), {})
    model.prepare([[nets]])
    with torch.no_grad():
        return model.summary(nets)


@pytest.mark.parametrize("turned", [False, True])
def test_it_sees_how_a_link_walks_through_the_positions(turned):
    modules = [Computed(False), Computed(turned)]
    state = modules[0].state_dict()
    one, other = (summary(metanet.trace(module, torch.randn(2, 2, 6, 6)), state) for module in modules)
    assert torch.equal(one, other) == (not turned)
