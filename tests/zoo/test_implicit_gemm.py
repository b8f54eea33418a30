"""The Triton kernels give the values and gradients of every net's own convolution: on a GPU, or in Triton's simulation,

pip install triton      # 286 MB, so CI does without
TRITON_INTERPRET=1 pytest tests/zoo/test_implicit_gemm.py
"""

import importlib.util
import os
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.zoo import convolutions
from metanet.zoo.convolutions import Options, gathered

SIMULATED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton asks for it when it is imported
DEVICE = "cpu" if SIMULATED else "cuda"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (SIMULATED or torch.cuda.is_available()),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1",
)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(DEVICE, dtype).requires_grad_()


def by_loop(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    """One convolution after another."""
    nets = options.groups
    biases = [None] * nets if bias is None else bias.chunk(nets)
    own = zip(x.chunk(nets, 1), weight.chunk(nets), biases, strict=True)
    y = torch.cat([F.conv2d(*of, options.stride, options.padding, options.dilation) for of in own], 1)
    return y.relu() if options.relu else y


# nets, channels in and out, taps, stride, padding, dilation, image
CASES = {
    "as in the published zoos": (3, 2, 3, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8)),
    "one channel, odd sizes": (2, 1, 5, (5, 3), (1, 1), (0, 2), (1, 1), (9, 7)),
    "one net": (1, 3, 2, (3, 3), (1, 1), (0, 0), (1, 1), (5, 6)),
    "a stride that leaves pixels over": (2, 2, 2, (3, 2), (2, 3), (1, 0), (1, 1), (8, 9)),
    "dilated": (2, 2, 3, (2, 3), (1, 2), (2, 1), (3, 2), (7, 8)),
    "pointwise": (2, 3, 4, (1, 1), (1, 1), (0, 0), (1, 1), (3, 5)),
    "more columns than a tile has": (2, 9, 70, (3, 3), (1, 1), (1, 1), (1, 1), (4, 3)),
    "more pixels than a tile has": (1, 1, 2, (3, 3), (1, 1), (1, 1), (1, 1), (23, 29)),
    "one pixel": (2, 2, 3, (3, 3), (1, 1), (0, 0), (1, 1), (3, 3)),
}


@pytest.mark.parametrize("inner", ["channels", "pixels"])
@pytest.mark.parametrize("case", CASES)
@needs_triton
def test_values_and_gradients_are_those_of_every_net_alone(case, inner):
    nets, inputs, outputs, taps, stride, padding, dilation, size = CASES[case]
    options = Options(stride, padding, dilation, nets, relu=case == "pointwise")
    memory_format = torch.channels_last if inner == "channels" else torch.contiguous_format
    x = draw(2, nets * inputs, *size).detach().contiguous(memory_format=memory_format).requires_grad_()
    sources = [x, draw(nets * outputs, inputs, *taps)]
    if case != "dilated":  # that one has no bias
        sources.append(draw(nets * outputs))
    bias = sources[2] if len(sources) > 2 else None
    found, expected = gathered(x, sources[1], bias, options), by_loop(x, sources[1], bias, options)
    torch.testing.assert_close(found, expected)
    if x.shape[1] > 1:
        assert found.is_contiguous(memory_format=memory_format)
    gradient = draw(*expected.shape).detach()
    own = gradient * (expected > 0) if options.relu else gradient  # relu's is left to the caller
    for ours, theirs in zip(
        torch.autograd.grad(found, sources, own), torch.autograd.grad(expected, sources, gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@needs_triton
def test_a_net_with_other_weights_or_images_gives_other_values_and_its_neighbours_the_same_bits():
    """The twin: nothing above passes because all nets are computed from one."""
    options = Options((1, 1), (1, 1), (1, 1), 3)

    def run(scale: float) -> list[Tensor]:
        x, weight = draw(2, 3 * 2, 6, 6, dtype=torch.float32), draw(3 * 4, 2, 3, 3, dtype=torch.float32)
        with torch.no_grad():
            x[:, 2:4] *= scale
            weight[4:8] *= scale
        y = gathered(x, weight, None, options)
        to_x, to_weight = torch.autograd.grad(y.square().sum(), [x, weight])
        return [y.detach().unflatten(1, (3, -1)).movedim(1, 0), to_x.unflatten(1, (3, -1)).movedim(1, 0), to_weight]

    for calm, disturbed in zip(run(1.0), run(float("nan")), strict=True):
        calm, disturbed = calm.reshape(3, -1), disturbed.reshape(3, -1)
        assert torch.equal(calm[[0, 2]], disturbed[[0, 2]])
        assert not torch.equal(calm[1], disturbed[1])


@needs_triton
def test_sums_are_of_float32_and_products_too_unless_tf32_is_allowed(monkeypatch):
    from metanet.zoo import implicit_gemm

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert implicit_gemm._precision() == "ieee"
    options = Options((1, 1), (0, 0), (1, 1), 1)
    x, weight = draw(1, 16, 6, 6, dtype=torch.float32), draw(4, 16, 3, 3, dtype=torch.float32)
    exact = by_loop(x.double(), weight.double(), None, options)
    torch.testing.assert_close(gathered(x, weight, None, options).double(), exact, rtol=1e-6, atol=1e-5)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert implicit_gemm._precision() == "tf32"  # which the simulation computes as float32


@needs_triton
def test_what_is_too_large_to_be_counted_in_32_bits_is_refused():
    from metanet.zoo import implicit_gemm

    wide = torch.empty(1, 2**19, 2**6, 2**5, device="meta")
    with pytest.raises(ValueError, match=r"too large for convolution=triton: expected less than 2\^30"):
        implicit_gemm._check_size(wide)
    implicit_gemm._check_size(wide[:, :-1])


def test_without_triton_or_a_device_for_it_the_reason_is_told(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it fails
    with pytest.raises(
        ValueError, match=r"convolution=triton: Triton is missing \(.*\); torch's builds for CUDA bring it"
    ):
        gathered(torch.rand(1, 2, 3, 3), torch.rand(2, 1, 3, 3), None, Options((1, 1), (0, 0), (1, 1), 2))
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    with pytest.raises(ValueError, match=r"its kernels run on a GPU, found device=cpu\. Choose one of grouped"):
        convolutions.check("triton", torch.device("cpu"))
    monkeypatch.setattr(convolutions.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="with a C compiler, and there is none"):
        convolutions.check("triton", torch.device("cuda"))
    with pytest.raises(
        ValueError, match="convolution=cudnn: expected one of grouped, planar, unfolded, triton, fastest"
    ):
        convolutions.check("cudnn", torch.device("cuda"))
