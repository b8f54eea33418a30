"""Ways to run one convolution of every net of a stack at once. Which is fastest depends on the shapes and the device.

Each takes x [batch, nets * in, h, w], the weights [nets * out, in, *taps], the biases [nets * out] and `Options`. What
it gives may lie in another memory format than x.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from metanet import machine

Pixels = Float[Tensor, "batch channels h w"]
Convolved = Float[Tensor, "batch outputs new_h new_w"]
Weights = Float[Tensor, "outputs inputs kh kw"]
Bias = Float[Tensor, " outputs"] | None


@dataclass(frozen=True)
class Options:
    """Of all nets together, as in torch.nn.functional.conv2d."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int  # nets times those of one net
    relu: bool = False  # on what the convolution gives; its gradient is left to the caller


Convolve = Callable[[Pixels, Weights, Bias, Options], Convolved]


def grouped(x: Pixels, weight: Weights, bias: Bias, options: Options) -> Convolved:
    """One grouped convolution of cuDNN or oneDNN, in the memory format of x: a stack's has channels innermost."""
    return _Grouped.apply(x, weight, bias, options)  # type: ignore[return-value]


def planar(x: Pixels, weight: Weights, bias: Bias, options: Options) -> Convolved:
    """The same with pixels innermost."""
    return _Grouped.apply(x.contiguous(), weight, bias, options)  # type: ignore[return-value]


class _Grouped(torch.autograd.Function):
    """F.conv2d with the bias's gradient as a plain sum: oneDNN's own takes half as long again as the whole backward."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        stride, padding, dilation, groups = options.stride, options.padding, options.dilation, options.groups
        if not options.relu:
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            fused = torch.ops.mkldnn._convolution_pointwise
            return fused(x, weight, bias, padding, stride, dilation, groups, "relu", [], "")
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups).relu_()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x, weight), options = ctx.saved_tensors, ctx.options
        to_x, to_weight, _ = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            options.stride,
            options.padding,
            options.dilation,
            False,
            (0, 0),
            options.groups,
            (ctx.needs_input_grad[0], True, False),
        )
        to_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return to_x, to_weight, to_bias, None


def unfolded(x: Pixels, weight: Weights, bias: Bias, options: Options) -> Convolved:
    """Every window copied out, then one batched product over nets. Takes a kernel's number of taps times the memory."""
    height, width = _new_size(x, weight, options)
    windows = F.unfold(x, (weight.shape[2], weight.shape[3]), options.dilation, options.padding, options.stride)
    windows = rearrange(windows, "b (g i) p -> g i (b p)", g=options.groups)
    products = torch.bmm(rearrange(weight, "(g o) i kh kw -> g o (i kh kw)", g=options.groups), windows)
    if bias is not None:
        products = products + bias.view(options.groups, -1, 1)
    y = rearrange(products, "g o (b h w) -> b h w (g o)", h=height, w=width).contiguous().movedim(3, 1)
    if options.relu:
        y.detach().relu_()  # no gradient above reads y
    return y


def gathered(x: Pixels, weight: Weights, bias: Bias, options: Options) -> Convolved:
    """Products of windows that Triton gathers on the way (implicit_gemm.py).

    Raises:
        ValueError: no Triton, or none that runs on this device.
    """
    return _Gathered.apply(x, weight, bias, options)  # type: ignore[return-value]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        weight = weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.bias = options, bias is not None
        return _kernels(x.device).values(x, weight, bias, _new_size(x, weight, options), options)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x, weight), options, kernels = ctx.saved_tensors, ctx.options, _kernels(gradient.device)
        to_x = kernels.to_input(gradient, weight, x, options) if ctx.needs_input_grad[0] else None
        return to_x, *kernels.to_weight(gradient, x, weight, ctx.bias, options), None


def _kernels(device: torch.device) -> ModuleType:
    check("triton", device)
    from metanet.zoo import implicit_gemm  # only here: it needs Triton

    return implicit_gemm


def _new_size(x: Tensor, weight: Tensor, options: Options) -> tuple[int, int]:
    """Height and width of what a convolution gives."""
    sizes = zip(x.shape[2:], options.padding, options.dilation, weight.shape[2:], options.stride, strict=True)
    height, width = (_new_length(*of) for of in sizes)
    return height, width


def _new_length(size: int, pad: int, gap: int, taps: int, step: int) -> int:
    return (size + 2 * pad - gap * (taps - 1) - 1) // step + 1


@dataclass(frozen=True)
class Case:
    """What decides which way is fastest."""

    x: tuple[int, ...]
    strides: tuple[int, ...]  # of x
    weight: tuple[int, ...]
    bias: bool
    options: Options
    device: torch.device
    dtype: torch.dtype
    tf32: bool  # whether a GPU may round float32 to it
    backward: str  # gradients that are wanted: "no", "of weights", "of all"

    @property
    def flops(self) -> int:
        """Of the products, forward and for the gradients; one net's inputs times its weights, at every new pixel."""
        sizes = zip(
            self.x[2:], self.options.padding, self.options.dilation, self.weight[2:], self.options.stride, strict=True
        )
        pixels = math.prod(_new_length(*of) for of in sizes)
        times = {"no": 1, "of weights": 2, "of all": 3}[self.backward]
        return 2 * times * self.x[0] * pixels * math.prod(self.weight)

    def __str__(self) -> str:
        inner = "channels" if self.strides[1] == 1 else "pixels"
        taken = f"stride {self.options.stride}, padding {self.options.padding}, dilation {self.options.dilation}"
        return (
            f"x {list(self.x)} with {inner} innermost, weights {list(self.weight)} in {self.options.groups} groups, "
            f"{taken}, gradients {self.backward}, {'tf32' if self.tf32 else self.dtype} on {self.device}"
        )


class Fastest:
    """That of some ways which keeps the device busy for the least time, measured once in a process for every case."""

    def __init__(self, ways: Mapping[str, Convolve]):
        self.ways = ways
        self.seconds: dict[Case, dict[str, float]] = {}  # by way, infinite where the memory did not suffice
        self.chosen: dict[Case, str] = {}
        self._told = 0

    def __call__(self, x: Pixels, weight: Weights, bias: Bias, options: Options) -> Convolved:
        backward = "no" if not torch.is_grad_enabled() else "of all" if x.requires_grad else "of weights"
        shapes = tuple(x.shape), x.stride(), tuple(weight.shape)
        tf32 = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
        case = Case(*shapes, bias is not None, options, x.device, x.dtype, tf32, backward)
        if case not in self.chosen:
            seconds = {
                name: self._seconds(way, case, x, weight, bias)
                for name, way in self.ways.items()
                if why_not(name, x.device) is None
            }
            self.seconds[case], self.chosen[case] = seconds, min(seconds, key=lambda name: seconds[name])
        return self.ways[self.chosen[case]](x, weight, bias, options)

    def _seconds(self, way: Convolve, case: Case, x: Tensor, weight: Tensor, bias: Tensor | None) -> float:
        """Forward, and backward where gradients are wanted."""
        x = x.detach().requires_grad_(case.backward == "of all")
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        learned = [value.requires_grad_() for value in (weight, bias) if value is not None]

        def run() -> None:
            y = way(x, weight, bias, case.options)
            if case.backward != "no":
                torch.autograd.grad(y, [x, *learned] if x.requires_grad else learned, torch.ones_like(y))

        try:
            return machine.busy_seconds(run, x.device)
        except (MemoryError, RuntimeError) as error:
            if not machine.is_out_of_memory(error):
                raise
            return float("inf")

    def news(self) -> dict[str, str]:
        """What has been chosen since this was last asked, for people."""
        new = list(self.chosen.items())[self._told :]
        self._told = len(self.chosen)
        return {str(case): name for case, name in new}


def why_not(name: str, device: torch.device) -> str | None:
    """What keeps a way from running on a device; None if nothing does."""
    if name != "triton":
        return None
    try:
        import triton  # noqa: F401  # type: ignore[import-not-found]
    except ImportError as error:
        return f"Triton is missing ({error}); torch's builds for CUDA bring it"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None  # Triton's own simulation, for tests: it runs anywhere
    if device.type != "cuda":
        return f"its kernels run on a GPU, found device={device}"
    if not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))):
        return "Triton builds its launchers with a C compiler, and there is none: install gcc, or set CC"
    return None


def check(name: str, device: torch.device) -> None:
    """ValueError for a way that does not exist, or does not run on the device."""
    if name not in VARIANTS:
        raise ValueError(f"convolution={name}: expected one of {', '.join(VARIANTS)}")
    if reason := why_not(name, device):
        raise ValueError(
            f"convolution={name}: {reason}. Choose one of {', '.join(other for other in VARIANTS if other != name)}."
        )


WAYS: dict[str, Convolve] = {"grouped": grouped, "planar": planar, "unfolded": unfolded, "triton": gathered}
FASTEST = Fastest(WAYS)
VARIANTS: dict[str, Convolve] = {**WAYS, "fastest": FASTEST}
