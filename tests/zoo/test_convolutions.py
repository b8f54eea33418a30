"""Every way to convolve a stack gives the values and gradients of its nets' own convolutions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet.zoo import convolutions
from metanet.zoo.convolutions import VARIANTS, Fastest, Options, grouped, unfolded

small = st.integers(1, 3)


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=15, deadline=None)
@given(
    nets=small, inputs=small, outputs=small, taps=st.tuples(small, small), stride=st.tuples(small, small),
    padding=st.tuples(small, small), dilation=st.tuples(small, small), bias=st.booleans(), relu=st.booleans(),
)  # fmt: skip
def test_every_variant_is_a_convolution_per_net(name, nets, inputs, outputs, taps, bias, relu, **chosen):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    x, weight = draw(2, nets * inputs, 9, 8), draw(nets * outputs, inputs, *taps)
    sources = [x, weight, *([draw(nets * outputs)] if bias else [])]
    options = Options(chosen["stride"], chosen["padding"], chosen["dilation"], nets, relu)
    found = VARIANTS[name](x, weight, sources[2] if bias else None, options)
    pieces = zip(*(source.chunk(nets, 1 if source is x else 0) for source in sources), strict=True)
    expected = torch.cat([F.conv2d(*of, **chosen) for of in pieces], 1)
    torch.testing.assert_close(found, expected.relu() if relu else expected)
    gradient = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, sources, gradient), torch.autograd.grad(expected, sources, gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_fastest_is_chosen_once_for_every_shape_and_one_without_memory_never(monkeypatch):
    clock = iter(map(float, range(1000)))
    monkeypatch.setattr(convolutions.time, "perf_counter", lambda: next(clock))
    calls = []

    def slow(*arguments):
        calls.append(next(clock))
        return unfolded(*arguments)

    def hungry(*arguments):
        raise torch.OutOfMemoryError

    fastest = Fastest(hungry, slow, grouped)
    options = Options((1, 1), (0, 0), (1, 1), 2)
    for _ in range(2):
        fastest(torch.rand(1, 4, 5, 5), torch.rand(2, 2, 3, 3), None, options)
    assert list(fastest.chosen.values()) == [grouped]
    assert len(calls) == 4
    fastest(torch.rand(1, 4, 6, 6), torch.rand(2, 2, 3, 3), None, options)
    assert len(calls) == 8
