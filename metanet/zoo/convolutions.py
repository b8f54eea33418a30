"""Ways to run one convolution of every net of a stack at once. Which is fastest depends on the shapes and the device.

Each takes x [batch, nets * in, h, w], the weights [nets * out, in, *taps], the biases [nets * out] and `Options`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

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
    """One grouped convolution of cuDNN or oneDNN."""
    return _Grouped.apply(x, weight, bias, options)  # type: ignore[return-value]


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
    taps = (weight.shape[2], weight.shape[3])
    height, width = (
        (size + 2 * pad - spread * (tap - 1) - 1) // stride + 1
        for size, pad, spread, tap, stride in zip(
            x.shape[2:], options.padding, options.dilation, taps, options.stride, strict=True
        )
    )
    windows = F.unfold(x, taps, options.dilation, options.padding, options.stride)
    windows = rearrange(windows, "b (g i) p -> g i (b p)", g=options.groups)
    products = torch.bmm(rearrange(weight, "(g o) i kh kw -> g o (i kh kw)", g=options.groups), windows)
    if bias is not None:
        products = products + bias.view(options.groups, -1, 1)
    y = rearrange(products, "g o (b h w) -> b h w (g o)", h=height, w=width).contiguous().movedim(3, 1)
    if options.relu:
        y.detach().relu_()  # no gradient above reads y
    return y


class Fastest:
    """That of some variants which was fastest forward and backward, measured once for shapes that are new."""

    def __init__(self, *variants: Convolve, repeats: int = 3):
        self.variants, self.repeats = variants, repeats
        self.chosen: dict[tuple[object, ...], Convolve] = {}

    def __call__(self, x: Pixels, weight: Weights, bias: Bias, options: Options) -> Convolved:
        shapes = (x.shape, weight.shape, options, x.device, x.dtype)
        if shapes not in self.chosen:
            seconds = [self._seconds(variant, x, weight, bias, options) for variant in self.variants]
            self.chosen[shapes] = self.variants[seconds.index(min(seconds))]
        return self.chosen[shapes](x, weight, bias, options)

    def _seconds(self, variant: Convolve, x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> float:
        """The least of some measurements after one that does not count; infinite where the memory does not suffice."""
        copies = [None if value is None else value.detach().requires_grad_() for value in (x, weight, bias)]
        sources = [copy for copy in copies if copy is not None]
        taken = []
        for _ in range(self.repeats + 1):
            _wait(x.device)
            start = time.perf_counter()
            try:
                with torch.enable_grad():
                    y = variant(*copies, options)  # type: ignore[arg-type]
                    torch.autograd.grad(y, sources, torch.ones_like(y))
            except torch.OutOfMemoryError:
                return float("inf")
            _wait(x.device)
            taken.append(time.perf_counter() - start)
        return min(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


VARIANTS: dict[str, Convolve] = {
    "grouped": grouped,
    "unfolded": unfolded,
    "fastest": Fastest(grouped, unfolded),
}
