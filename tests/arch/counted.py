"""Small networks with the sizes of their symmetric groups, counted by hand: what the tests of this folder share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from metanet.arch.check import check_symmetry
from metanet.arch.template import Template
from metanet.arch.trace import trace
from metanet.views.graph import graph_of, state_dict_of


@dataclass(frozen=True)
class Counted:
    """A network, example inputs (shapes become random numbers), and the sizes n of the groups S_n of its symmetry."""

    make: Callable[[], nn.Module]
    sizes: tuple[int, ...]
    inputs: tuple[Any, ...]

    def check(self) -> Template:
        """The template: covered, sound to 1e-10, with the group counted by hand, and rebuilt bit for bit."""
        torch.manual_seed(0)
        net, inputs = self.make().eval(), self.drawn()
        template = trace(net, *inputs)
        assert template.coverage() == 1
        assert template.symmetry.log10_order == pytest.approx(log10_factorials(*self.sizes), abs=1e-9)
        assert check_symmetry(template, net, *inputs) <= 1e-10
        state = net.state_dict()
        rebuilt = state_dict_of(template, graph_of(template, {name: state[name] for name in template.shapes}))
        assert all(torch.equal(value, state[name]) for name, value in rebuilt.items())
        return template

    def drawn(self) -> tuple[Any, ...]:
        """The inputs with random numbers for their shapes."""
        return tree_map(
            lambda one: torch.randn(one) if isinstance(one, torch.Size) else one,
            self.inputs,
            is_leaf=lambda one: isinstance(one, torch.Size),
        )


def log10_factorials(*sizes: int) -> float:
    return sum(math.lgamma(size + 1) for size in sizes) / math.log(10)


def of(*sizes: int) -> torch.Size:
    """The shape of an input that is drawn."""
    return torch.Size(sizes)


def words(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape)).view(shape) % 5


class Cases(dict[str, Counted]):
    """The networks of a file by their names, as its decorator `case` adds them."""

    def case(
        self, *sizes: int, inputs: tuple[Any, ...] = (torch.Size((2, 3)),), name: str = ""
    ) -> Callable[[Callable[[], nn.Module]], Any]:
        def kept(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
            self[name or make.__name__] = Counted(make, sizes, inputs)
            return make

        return kept
