"""Every way to convolve a stack gives the values and gradients of its nets' own convolutions (Triton's kernels:
test_implicit_gemm.py).
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet import machine
from metanet.zoo.convolutions import VARIANTS, Fastest, Options, grouped, unfolded

small = st.integers(1, 3)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "triton"])
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


OPTIONS = Options((1, 1), (0, 0), (1, 1), 2)


def test_the_fastest_is_chosen_once_for_every_case_and_one_without_memory_never(monkeypatch):
    clock = iter(map(float, range(1000)))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    calls = []

    def slow(*arguments):
        calls.append(next(clock))
        return unfolded(*arguments)

    def hungry(*arguments):
        raise torch.OutOfMemoryError

    fastest = Fastest({"hungry": hungry, "slow": slow, "grouped": grouped})
    x, weight = torch.rand(1, 4, 5, 5), torch.rand(2, 2, 3, 3)
    for _ in range(2):
        fastest(x, weight, None, OPTIONS)
    assert list(fastest.chosen.values()) == ["grouped"]
    assert len(calls) == 4
    others = [
        (torch.rand(1, 4, 6, 6), weight),
        (x, torch.rand(4, 2, 3, 3)),
        (x.double(), weight.double()),
        (x.clone(memory_format=torch.channels_last), weight),
        (x.clone().requires_grad_(), weight),
    ]
    for number, case in enumerate(others, 2):
        fastest(*case, None, OPTIONS)
        assert len(calls) == 4 * number
    with torch.no_grad():
        fastest(x, weight, None, OPTIONS)
    assert len(calls) == 4 * 7
    assert [case.backward for case in fastest.chosen] == ["of weights"] * 5 + ["of all", "no"]
    assert str(next(iter(fastest.chosen))) == (
        "x [1, 4, 5, 5] with pixels innermost, weights [2, 2, 3, 3] in 2 groups, stride (1, 1), padding (0, 0), "
        "dilation (1, 1), gradients of weights, torch.float32 on cpu"
    )
    assert [case.flops for case in fastest.chosen][::5] == [2 * 2 * 9 * 2 * 18, 3 * 2 * 9 * 2 * 18]
    assert list(fastest.seconds) == list(fastest.chosen)


def test_a_faster_way_that_comes_later_is_chosen_too(monkeypatch):
    """The twin: it is not the last or the first one that wins."""
    seconds = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(machine, "busy_seconds", lambda work, device: next(seconds))
    fastest = Fastest({"first": unfolded, "second": grouped, "third": unfolded})
    fastest(torch.rand(1, 4, 5, 5), torch.rand(2, 2, 3, 3), None, OPTIONS)
    assert list(fastest.chosen.values()) == ["second"]


def test_measuring_leaves_no_trace_and_passes_errors_on():
    x, weight = torch.rand(1, 4, 5, 5, requires_grad=True), torch.rand(2, 2, 3, 3, requires_grad=True)
    y = Fastest({"grouped": grouped, "unfolded": unfolded})(x, weight, None, OPTIONS)
    assert x.grad is None
    assert weight.grad is None
    torch.testing.assert_close(y, F.conv2d(x, weight, groups=2))
    with pytest.raises(RuntimeError, match="expected input"):
        Fastest({"grouped": grouped})(torch.rand(1, 3, 5, 5), weight, None, OPTIONS)
