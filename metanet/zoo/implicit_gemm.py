"""The convolution of every net of a stack as matrix products in Triton that gather their windows as they go.

A window is never written to memory, as it is by torch.nn.functional.unfold; a program is one tile of one net's product.
Needs Triton, which comes with torch's builds for CUDA; convolutions.py imports this file when it is asked for.

With rows m over the pixels of a batch and columns k over (taps, channels), the three products are

    values          y[m, out]  = sum over k of x[m, k] weight[k, out]
    to the input    dx[m, in]  = the same of dy, with the taps turned around and the weights transposed
    to the weights  dw[out, k] = sum over m of dy[m, out] x[m, k]

Source: Chetlur et al. (2014), "cuDNN: Efficient Primitives for Deep Learning", section 3.
"""

# Triton is optional, and kernels are started as kernel[programs](...)
# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from einops import rearrange
from torch import Tensor

from metanet.zoo.convolutions import Options

TILE, DEPTH = 128, 32  # pixels in a tile of values, and numbers that are multiplied and added at once
PROGRAMS = 2048  # about as many at once fill a large GPU: the sum over pixels is cut until there are so many


@triton.jit
@no_type_check  # checks of shapes, which tests switch on, would stand between the kernels
def _gathered(
    source, b, row, column, k, valid, height, width, stride_b, stride_c, stride_h, stride_w,
    CHANNELS: tl.constexpr, TAPS_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    DIVIDE_H: tl.constexpr, DIVIDE_W: tl.constexpr,
):  # fmt: skip
    """What columns k = (tap, channel) see from the places (b, row, column): [places, k], 0 outside of the image."""
    tap = k // CHANNELS
    up = row[:, None] + (tap // TAPS_W * STEP_H)[None, :]
    along = column[:, None] + (tap % TAPS_W * STEP_W)[None, :]
    inside = (up >= 0) & (along >= 0) & (up < height * DIVIDE_H) & (along < width * DIVIDE_W)
    inside &= (up % DIVIDE_H == 0) & (along % DIVIDE_W == 0)
    within = up // DIVIDE_H * stride_h + along // DIVIDE_W * stride_w + (k % CHANNELS * stride_c)[None, :]
    return tl.load(source + (b.to(tl.int64) * stride_b)[:, None] + within, mask=inside & valid, other=0.0)


@triton.jit
@no_type_check
def _products(
    source, weight, bias, result, rows, groups, height, width, new_height, new_width,
    stride_b, stride_c, stride_h, stride_w, new_b, new_c, new_h, new_w,
    CHANNELS: tl.constexpr, NEW_CHANNELS: tl.constexpr, OF_CHANNEL: tl.constexpr, OF_NEW: tl.constexpr,
    TAPS: tl.constexpr, TAPS_W: tl.constexpr, TIMES_H: tl.constexpr, TIMES_W: tl.constexpr,
    PLUS_H: tl.constexpr, PLUS_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    DIVIDE_H: tl.constexpr, DIVIDE_W: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr,
    PRECISION: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """result[place, n] = sum over (tap, channel) of source[(place * TIMES + PLUS + tap * STEP) / DIVIDE, channel] times
    the weight, where the quotient is whole and inside.
    """
    columns: tl.constexpr = (NEW_CHANNELS + WIDTH - 1) // WIDTH
    program = tl.program_id(0)  # neighbours are nets, whose channels lie side by side in memory
    group = program % groups
    n = program // groups % columns * WIDTH + tl.arange(0, WIDTH)
    m = (program // groups // columns) * TILE + tl.arange(0, TILE)
    column, row, b = m % new_width, m // new_width % new_height, m // new_width // new_height
    source += group.to(tl.int64) * CHANNELS * stride_c
    weight += group.to(tl.int64) * (TAPS * CHANNELS * NEW_CHANNELS)
    total = tl.zeros((TILE, WIDTH), dtype=result.dtype.element_ty)
    for start in range(0, TAPS * CHANNELS, DEPTH):
        k = start + tl.arange(0, DEPTH)
        known = k < TAPS * CHANNELS
        windows = _gathered(
            source, b, row * TIMES_H + PLUS_H, column * TIMES_W + PLUS_W, k, (m < rows)[:, None] & known[None, :],
            height, width, stride_b, stride_c, stride_h, stride_w,
            CHANNELS, TAPS_W, STEP_H, STEP_W, DIVIDE_H, DIVIDE_W,
        )  # fmt: skip
        places = (k % CHANNELS * OF_CHANNEL + k // CHANNELS)[:, None] + n[None, :] * OF_NEW
        weights = tl.load(weight + places, mask=known[:, None] & (n < NEW_CHANNELS)[None, :], other=0.0)
        total = tl.dot(windows, weights, total, input_precision=PRECISION, out_dtype=total.dtype)
    if BIAS:
        total += tl.load(bias + group * NEW_CHANNELS + n, mask=n < NEW_CHANNELS, other=0.0)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # as torch: what is not a number stays so
    places = (b.to(tl.int64) * new_b + row * new_h + column * new_w)[:, None]
    places += ((group * NEW_CHANNELS + n).to(tl.int64) * new_c)[None, :]
    tl.store(result + places, total, mask=(m < rows)[:, None] & (n < NEW_CHANNELS)[None, :])


@triton.jit
@no_type_check
def _sums(
    source, gradient, result, rows, share, groups, height, width, new_height, new_width,
    stride_b, stride_c, stride_h, stride_w, new_b, new_c, new_h, new_w,
    CHANNELS: tl.constexpr, NEW_CHANNELS: tl.constexpr, TAPS: tl.constexpr, TAPS_W: tl.constexpr,
    TIMES_H: tl.constexpr, TIMES_W: tl.constexpr, PLUS_H: tl.constexpr, PLUS_W: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr, DEPTH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """result[part, group, n, k] = sum over the part's places of gradient[place, n] source[place, k]; the bias is a last
    column that always sees 1.
    """
    numbers: tl.constexpr = TAPS * CHANNELS + BIAS
    bands: tl.constexpr = (NEW_CHANNELS + HEIGHT - 1) // HEIGHT
    columns: tl.constexpr = (numbers + WIDTH - 1) // WIDTH
    program = tl.program_id(0)
    group = program % groups
    n = program // groups % bands * HEIGHT + tl.arange(0, HEIGHT)
    k = program // groups // bands % columns * WIDTH + tl.arange(0, WIDTH)
    part = program // groups // bands // columns
    source += group.to(tl.int64) * CHANNELS * stride_c
    gradient += group.to(tl.int64) * NEW_CHANNELS * new_c
    total = tl.zeros((HEIGHT, WIDTH), dtype=result.dtype.element_ty)
    for start in range(part * share, tl.minimum(part * share + share, rows), DEPTH):
        m = start + tl.arange(0, DEPTH)
        column, row, b = m % new_width, m // new_width % new_height, m // new_width // new_height
        windows = _gathered(
            source, b, row * TIMES_H + PLUS_H, column * TIMES_W + PLUS_W, k,
            (m < rows)[:, None] & (k < TAPS * CHANNELS)[None, :],
            height, width, stride_b, stride_c, stride_h, stride_w, CHANNELS, TAPS_W, STEP_H, STEP_W, 1, 1,
        )  # fmt: skip
        if BIAS:
            windows = tl.where((k == TAPS * CHANNELS)[None, :], 1.0, windows)
        places = (b.to(tl.int64) * new_b + row * new_h + column * new_w)[:, None] + (n * new_c)[None, :]
        slopes = tl.load(gradient + places, mask=(m < rows)[:, None] & (n < NEW_CHANNELS)[None, :], other=0.0)
        total = tl.dot(tl.trans(slopes), windows, total, input_precision=PRECISION, out_dtype=total.dtype)
    result += (part.to(tl.int64) * groups + group) * (NEW_CHANNELS * numbers)
    tl.store(
        result + n[:, None] * numbers + k[None, :], total, mask=(n < NEW_CHANNELS)[:, None] & (k < numbers)[None, :]
    )


def values(x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[int, int], options: Options) -> Tensor:
    """What torch.nn.functional.conv2d gives, of height and width `size`, in the memory format of x."""
    y = _empty_like(x, len(weight), *size)
    _run_products(x, weight, bias, y, options, turned=False)
    return y


def to_input(gradient: Tensor, weight: Tensor, x: Tensor, options: Options) -> Tensor:
    """The gradient of x, which has the shape and memory format of x."""
    to_x = _empty_like(x, *x.shape[1:])
    _run_products(gradient, weight, None, to_x, options, turned=True)
    return to_x


def to_weight(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: bool, options: Options
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias. The order of their sums follows from the shapes alone."""
    inputs, taps, taps_w = weight.shape[1], weight[0, 0].numel(), weight.shape[3]
    outputs, numbers = len(weight) // options.groups, inputs * taps + bias
    rows = gradient.shape[0] * gradient.shape[2] * gradient.shape[3]
    tall, wide = _block(outputs), _block(numbers)
    tiles = options.groups * triton.cdiv(outputs, tall) * triton.cdiv(numbers, wide)
    share = DEPTH * triton.cdiv(rows, DEPTH * min(triton.cdiv(PROGRAMS, tiles), triton.cdiv(rows, 8 * DEPTH)))
    parts = triton.cdiv(rows, share)
    result = weight.new_empty(parts, options.groups, outputs, numbers)
    _check_size(x, gradient)
    with torch.cuda.device_of(x):
        _sums[(tiles * parts,)](
            x, gradient, result, rows, share, options.groups, *x.shape[2:], *gradient.shape[2:], *x.stride(),
            *gradient.stride(), inputs, outputs, taps, taps_w, *options.stride, *_minus(options.padding),
            *options.dilation, int(bias), _precision(), DEPTH, tall, wide,
        )  # fmt: skip
    sums = result.sum(0) if parts > 1 else result[0]
    to_weights = rearrange(sums[..., : inputs * taps], "g o (kh kw i) -> (g o) i kh kw", kw=taps_w, i=inputs)
    return to_weights.contiguous(), sums[..., -1].flatten() if bias else None


def _run_products(
    source: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor, options: Options, turned: bool
) -> None:
    """From inputs to outputs, or, `turned`, from the gradients of outputs to those of inputs."""
    inputs, taps, taps_w = weight.shape[1], weight[0, 0].numel(), weight.shape[3]
    channels = (inputs, taps), (len(weight) // options.groups, inputs * taps)  # how many, and their distance in memory
    places = (*options.stride, *_minus(options.padding), *options.dilation, 1, 1)
    if turned:
        channels = channels[::-1]
        places = (1, 1, *options.padding, *_minus(options.dilation), *options.stride)
    (read, of_channel), (made, of_new) = channels
    rows, wide = result.shape[0] * result.shape[2] * result.shape[3], _block(made)
    _check_size(source, result)
    with torch.cuda.device_of(source):
        _products[(options.groups * triton.cdiv(made, wide) * triton.cdiv(rows, TILE),)](
            source, weight, bias, result, rows, options.groups, *source.shape[2:], *result.shape[2:],
            *source.stride(), *result.stride(), read, made, of_channel, of_new, taps, taps_w, *places,
            bias is not None, options.relu and not turned, _precision(), TILE, wide, DEPTH,
        )  # fmt: skip


def _precision() -> str:
    """Of products of float32, whose sums are float32: as in torch's own convolutions. float64 stays as it is."""
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


def _block(count: int) -> int:
    """The width of a tile of so many columns: a power of 2 from 16, the least that tl.dot takes."""
    return max(16, min(64, triton.next_power_of_2(count)))


def _minus(sizes: tuple[int, int]) -> tuple[int, int]:
    return -sizes[0], -sizes[1]


def _empty_like(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    inner = x.stride(1) == 1 and x.shape[1] > 1
    memory_format = torch.channels_last if inner else torch.contiguous_format
    return torch.empty(len(x), channels, height, width, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _check_size(*tensors: Tensor) -> None:
    """Places within an image, and images times pixels, are counted in 32 bits."""
    for x in tensors:
        if max(x[0].numel(), x.shape[0] * x.shape[2] * x.shape[3]) >= 1 << 30:
            raise ValueError(
                f"a convolution of values {tuple(x.shape)} is too large for convolution=triton: expected less than "
                f"2^30 values an image and pixels a batch. Choose another way to convolve, or fewer nets in a stack."
            )
