"""The benchmark compares like with like: a plain loop over nets makes the very graphs that `sparse` makes."""

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metanet.arch.trace import trace
from metanet.views import graph
from metanet.zoo import nets
from scripts import benchmark_graphs


@pytest.mark.parametrize("arch", benchmark_graphs.ARCHITECTURES, ids=nets.arch_name)
def test_the_loop_over_nets_makes_the_same_graphs(arch):
    template = trace(nets.build(arch).eval(), torch.randn(2, *arch["image_shape"]))
    params = {name: torch.randn(2, *shape) for name, shape in template.shapes.items()}
    benchmark_graphs.check(template, params)


@settings(max_examples=8)
@given(
    family=st.sampled_from(["nws_cnn", "small_cnn", "mlp"]),
    width=st.integers(1, 9),
    depth=st.integers(1, 3),
    filter_size=st.sampled_from([1, 3, 5]),
    batch_norm=st.booleans(),
    count=st.integers(1, 5),
    at_once=st.sampled_from([1, 3 * 10**4, graph.CHUNK_BYTES]),
)
def test_the_layouts_are_those_of_the_loop_for_any_net(family, width, depth, filter_size, batch_norm, count, at_once):
    """Bit for bit, with zeros of both signs, infinities and nan, however many nets are filled at once."""
    arch: dict[str, Any] = {"family": family, "image_shape": [1, 16, 16], "num_classes": 3, "batch_norm": batch_norm}
    if family == "mlp":
        arch |= {"depth": depth, "width": width}
    else:
        arch |= {"conv_depth": depth + 2 * (family == "nws_cnn"), "conv_width": width}
    if family == "nws_cnn":
        arch |= {"filter_size": filter_size, "dense_depth": depth, "dense_width": 4 * width}
    template = benchmark_graphs.traced(arch)
    assume(not template.links)  # the loop makes none
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45])
    params = {name: special[torch.randint(6, (count, *shape))] for name, shape in template.shapes.items()}
    with mock.patch.object(graph, "CHUNK_BYTES", at_once):
        benchmark_graphs.check(template, params)


def test_a_stack_needs_a_net():
    with pytest.raises(ValueError, match="nets=0: expected at least 1"):
        benchmark_graphs.main(benchmark_graphs.Options(nets=0))
