"""Layers that torch lacks. Families build nets of them as of torch's own; stack_rules.py runs many of each at once."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class Sin(nn.Module):
    """sin(x), the activation of Sitzmann et al. (2020)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


class Scale(nn.Module):
    """x times a whole number."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class AddShared(nn.Module):
    """x plus another image on the channels that both have, the first ones; the rest of x stays."""

    def forward(
        self, x: Float[Tensor, "batch channels h w"], other: Float[Tensor, "batch others h w"]
    ) -> Float[Tensor, "batch channels h w"]:
        shared = min(x.shape[1], other.shape[1])
        total = x[:, :shared] + other[:, :shared]
        return total if shared == x.shape[1] else torch.cat((total, x[:, shared:]), 1)


class Rows(nn.Module):
    """An image as a sequence of its rows from top to bottom; the pixels of a row are the channels."""

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch pixels h"]:
        return x.transpose(2, 3).flatten(1, 2)


class PixelSet(nn.Module):
    """An image as a set of pixels, each with its place (x to the right, y down, in [-1, 1]) and then its values.

    Of every `stride` rows and columns one is taken.
    """

    def __init__(self, height: int, width: int, stride: int):
        super().__init__()
        self.stride = stride
        y, x = (torch.linspace(-1, 1, size)[::stride] for size in (height, width))
        places = torch.stack((x.repeat(len(y)), y.repeat_interleave(len(x))), 1)
        self.register_buffer("places", places, persistent=False)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch pixels features"]:
        values = x[:, :, :: self.stride, :: self.stride].flatten(2).transpose(1, 2)
        places = self.get_buffer("places").to(x)
        return torch.cat((places.expand(x.shape[0], -1, -1), values), 2)


class Tokens(nn.Module):
    """Pixels in reading order as tokens, after a learned class token if there is one, each plus its learned position.

    Source: Dosovitskiy et al. (2021), equation 1.
    """

    def __init__(self, pixels: int, width: int, class_token: bool):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(width)) if class_token else None
        self.position = nn.Parameter(torch.zeros(pixels + class_token, width))

    def forward(self, x: Float[Tensor, "batch width h w"]) -> Float[Tensor, "batch tokens width"]:
        x = x.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], 1, -1), x), 1)
        return x + self.position


class Attend(nn.Module):
    """Scaled dot-product attention of several heads, side by side in the width. Source: Vaswani et al. (2017)."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(
        self,
        query: Float[Tensor, "batch tokens width"],
        key: Float[Tensor, "batch tokens width"],
        value: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch tokens width"]:
        q, k, v = (rearrange(x, "b t (heads d) -> b heads t d", heads=self.heads) for x in (query, key, value))
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b heads t d -> b t (heads d)")


class Largest(nn.Module):
    """The largest value of each feature over tokens."""

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width"]:
        return x.amax(1)


class ReadOut(nn.Module):
    """The class token, or the mean over tokens."""

    def __init__(self, class_token: bool):
        super().__init__()
        self.class_token = class_token

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width"]:
        return x[:, 0] if self.class_token else x.mean(1)
