"""The table of public networks: a row for what traces, and one that says why for what does not."""

import pytest
import torch
from torch import nn

from scripts import trace_networks

TOKENS = torch.zeros(2, 5, 3)


def test_a_network_that_traces_has_its_order_and_the_error_of_a_permuted_copy():
    row = trace_networks.row(
        "mine", lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (TOKENS,), True
    )
    name, count, seconds, order, error = (cell.strip() for cell in row.strip("|").split("|"))
    assert (name, count, order) == ("mine", "26", "1.380")  # log10 4!
    assert float(seconds) >= 0
    assert float(error) <= 1e-10


def test_a_network_that_is_refused_has_the_reason_and_one_whose_package_is_missing_says_so():
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return self.layer(x).as_strided((2, 4), (4, 1))

    row = trace_networks.row("mine", Strided, (TOKENS,), False)
    assert "| aten.as_strided in the outermost module: no rule for this operator." in row

    def missing() -> nn.Module:
        raise ImportError("nobody")

    assert "package not installed" in trace_networks.row("mine", missing, (TOKENS,), False)


def test_every_network_of_the_table_has_a_name_of_its_own():
    names = [name for name, _, _ in trace_networks.networks()]
    assert len(set(names)) == len(names) >= 40


@pytest.mark.parametrize("name", ["torch:nn.GRU", "torch:nn.MultiheadAttention"])
def test_networks_of_torch_are_in_the_table(name):
    make, inputs = next((make, inputs) for known, make, inputs in trace_networks.networks() if known == name)
    assert float(trace_networks.row(name, make, inputs, True).split("|")[-2]) <= 1e-10
