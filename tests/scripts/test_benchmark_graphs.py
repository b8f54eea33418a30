"""The benchmark compares like with like: a plain loop over nets makes the very graphs that `sparse` makes."""

import pytest
import torch

from metanet.arch.trace import trace
from metanet.zoo import nets
from scripts import benchmark_graphs


@pytest.mark.parametrize("arch", benchmark_graphs.ARCHITECTURES, ids=nets.arch_name)
def test_the_loop_over_nets_makes_the_same_graphs(arch):
    template = trace(nets.build(arch).eval(), torch.randn(2, *arch["image_shape"]))
    params = {name: torch.randn(2, *shape) for name, shape in template.shapes.items()}
    benchmark_graphs.check(template, params)


def test_a_stack_needs_a_net():
    with pytest.raises(ValueError, match="nets=0: expected at least 1"):
        benchmark_graphs.main(benchmark_graphs.Options(nets=0))
