"""Random changes of training images: moved, re-lit, recoloured and made noisy, differently for every net and sample."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from metanet import seeding

TRANSLATION = 3 / 32  # of the side
ROTATION = math.radians(15)
ZOOM = 0.1
SHEAR = math.radians(3)
BRIGHTNESS = 0.2  # added to values in [0, 1]
CONTRAST = (0.5, 1.5)
HUE = 0.08  # turns of the colour circle
SATURATION = (0.3, 1.5)
NOISE = 0.03  # the largest standard deviation


def augment(
    images: Float[Tensor, "nets batch channels height width"], keys: Int64[Tensor, " nets"]
) -> Float[Tensor, "nets batch channels height width"]:
    """Changed copies of images with values in [0, 1], with values in [0, 1]; all randomness comes from `keys`.

    What happens to a net's images depends on its key, on the batch size and on nothing else, bit for bit on a CPU.

    Source: Eilertsen et al. (2020), "Classifying the classifier", the released training script. It draws brightness,
    contrast, hue, saturation and the size of the noise once per batch; here they too are drawn per sample.
    """
    nets, batch = images.shape[:2]
    draws = (
        seeding.uniform(keys, 11, batch).double().transpose(0, 1).flatten(1)
    )  # [11, samples], samples = nets * batch
    samples = warp(images.flatten(0, 1), *_geometry(draws[:6], *images.shape[3:]))
    samples = relight(samples, _between(-BRIGHTNESS, BRIGHTNESS, draws[6]), _between(*CONTRAST, draws[7]))
    if images.shape[2] == 3:
        samples = recolour(samples, _between(-HUE, HUE, draws[8]), _between(*SATURATION, draws[9]))
    noise = seeding.normal(seeding.fold(keys, "noise"), *images.shape[1:]).flatten(0, 1).to(images.dtype)
    samples = samples.addcmul_(noise, _per_sample(NOISE * draws[10], samples))
    return samples.clamp_(0, 1).unflatten(0, (nets, batch))


def warp(
    images: Float[Tensor, "samples channels height width"],
    matrix: Float[Tensor, "2 2 samples"],
    shift: Float[Tensor, "2 samples"],
) -> Float[Tensor, "samples channels height width"]:
    """Each new pixel at p (x to the right, y down, from the centre) is the old value at matrix @ (p + shift).

    Lengths are in pixels; values between pixels are bilinear, and beyond the image 0.
    """
    (xx, xy), (yx, yy) = matrix.to(images.dtype)[..., None, None]  # each [samples, 1, 1]
    height, width = images.shape[2:]
    y, x = (torch.arange(n, device=images.device, dtype=images.dtype) - (n - 1) / 2 for n in (height, width))
    right, down = shift.to(images.dtype)[..., None, None]
    x, y = x + right, y[:, None] + down  # [samples, 1, width], [samples, height, 1]
    # sums and products one by one, not affine_grid: its matrix product may round differently in another batch
    grid = torch.stack(((xx * x + xy * y) * (2 / width), (yx * x + yy * y) * (2 / height)), -1)  # [-1, 1]: edge to edge
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def relight(
    images: Float[Tensor, "samples channels height width"],
    brightness: Float[Tensor, " samples"],
    contrast: Float[Tensor, " samples"],
) -> Float[Tensor, "samples channels height width"]:
    """Brightness is added; then the distance from the channel's mean over the image is scaled by contrast."""
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * _per_sample(contrast, images) + (mean + _per_sample(brightness, images))


def recolour(
    images: Float[Tensor, "samples 3 height width"],
    hue: Float[Tensor, " samples"],
    saturation: Float[Tensor, " samples"],
) -> Float[Tensor, "samples 3 height width"]:
    """Hue moves by `hue` turns and saturation is scaled, both in HSV; grey stays as it is.

    Values may lie outside [0, 1]; where the largest channel is not positive, the pixel becomes grey.
    Source: Smith (1978), "Color gamut transform pairs"; the way back in the closed form of de Vries (2013).
    """
    red, green, blue = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    safe = chroma.clamp_min(torch.finfo(images.dtype).tiny)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * _per_sample(hue, images)[:, 0]
    scaled = chroma * _per_sample(saturation, images)[:, 0]
    chroma = torch.where(value > 0, scaled.minimum(value), torch.zeros_like(value))  # saturation is at most 1
    offsets = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype).view(3, 1, 1)  # 5, 3, 1
    phase = (offsets + sixths[:, None]).remainder(6)
    return value[:, None] - chroma[:, None] * phase.minimum(4 - phase).clamp(0, 1)


def _geometry(
    draws: Float[Tensor, "6 samples"], height: int, width: int
) -> tuple[Float[Tensor, "2 2 samples"], Float[Tensor, "2 samples"]]:
    """The matrix and shift of `warp` from uniform numbers: two shifts, rotation, zoom, two shears.

    In float64: a last bit that depends on the place in a vector register is then rounded away.
    """
    right, down, turn, zoom, shear_x, shear_y = 2 * draws - 1
    turn, zoom, shear_x, shear_y = turn * ROTATION, 1 + zoom * ZOOM, shear_x * SHEAR, shear_y * SHEAR
    first, second = shear_x - turn, shear_y + turn
    matrix = torch.stack(
        (
            torch.stack((first.cos(), first.sin())) * zoom / shear_x.cos(),
            torch.stack((second.sin(), second.cos())) * zoom / shear_y.cos(),
        )
    )
    return matrix, torch.stack((right * TRANSLATION * width, down * TRANSLATION * height))


def _between(low: float, high: float, draw: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    return low + (high - low) * draw


def _per_sample(values: Float[Tensor, " samples"], images: Tensor) -> Float[Tensor, "samples 1 1 1"]:
    return values.to(images.dtype).view(-1, 1, 1, 1)
