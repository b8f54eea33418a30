"""What nets see that are fitted to one image each: places and values of its pixels, in a fresh order every epoch."""

from collections.abc import Callable, Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from metanet import seeding
from metanet.zoo.feed import Order, check_images, standardise
from metanet.zoo.images import Images
from metanet.zoo.plan import Group


class PixelFeed:
    """The task "image_fitting", with the methods of `metanet.zoo.feed.Feed`.

    A net's image is one of the first `train_images` of its set, drawn from its key.
    """

    def __init__(self, group: Group, images: Mapping[str, Images], seed: int, device: torch.device, dtype: torch.dtype):
        check_images(group, images)
        self.device = device
        self.nets = torch.tensor([net.net for net in group.nets], device=device)
        _, height, width = group.arch["image_shape"]
        self._order = Order(group, self.nets, seed, height * width)
        self._image = seeding.uniform(seeding.keys(seed, self.nets, "image"), 1)[:, 0].double().mul(group.train_images)
        self._image = self._image.long()
        pairs = [(images[net.image_set], row) for net, row in zip(group.nets, self._image.tolist(), strict=True)]
        self._label = torch.stack([of.train_labels[row] for of, row in pairs])
        pixels = torch.stack([of.train[row] for of, row in pairs])
        self._values = standardise(rearrange(pixels, "n c h w -> n c (h w)").to(dtype).div_(255))  # [nets, c, pixels]
        self._places = places(height, width).to(device, dtype)

    def train(self, step: int) -> tuple[Float[Tensor, "nets 2 batch"], Float[Tensor, "nets channels batch"]]:
        """The places and values of training step `step`, which counts from 0."""
        index = self._order.batch(step)
        spread = index[:, None].expand(-1, self._values.shape[1], -1)
        return self._places[:, index].transpose(0, 1), self._values.gather(2, spread)

    def losses(
        self, outputs: Float[Tensor, "nets channels batch"], values: Float[Tensor, "nets channels batch"]
    ) -> Float[Tensor, "nets batch"]:
        """Squared error, averaged over channels."""
        return (outputs - values).square().mean(1)

    def evaluate(self, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The net's image and its class, the mean squared error over all pixels, and the PSNR in decibels."""
        loss = self.losses(run(self._places.expand(len(self.nets), -1, -1)), self._values).mean(1)
        psnr = 10 * torch.log10(4 / loss)  # values reach from -1 to 1
        return {"image": self._image, "label": self._label, "train_loss": loss, "psnr": psnr}


def places(height: int, width: int) -> Float[Tensor, "2 pixels"]:
    """x and y of every pixel in reading order, in [-1, 1] with the outermost pixels at the ends; 0 for a single one."""
    y, x = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in (height, width))
    return torch.stack((x.repeat(height), y.repeat_interleave(width)))
