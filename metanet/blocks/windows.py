"""Windows: how a model of fixed length reads nets of any length. A few at random in training, all of them otherwise."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from metanet import seeding


class Dice(nn.Module):
    """A seeded generator per training step. Its state is saved with the weights: a resumed training draws as if never
    stopped. It stays in Python: read off a GPU, it would make every step wait for the one before.
    """

    def __init__(self):
        super().__init__()
        self.seed = int(torch.randint(2**62, ()))  # follows the seed that initialises the weights
        self.step = 0

    def forward(self) -> torch.Generator:
        """A fresh generator (on the CPU, so that every device draws the same), another one at each call."""
        self.step += 1
        return torch.Generator().manual_seed(seeding.key(self.seed, self.step))

    def get_extra_state(self) -> Int64[Tensor, "2"]:
        return torch.tensor([self.seed, self.step])

    def set_extra_state(self, state: Int64[Tensor, "2"]) -> None:
        self.seed, self.step = state.tolist()


def random_starts(
    length: int, size: int, nets: int, count: int, generator: torch.Generator
) -> Int64[Tensor, "nets count"]:
    """`count` windows of `size` within `length` for every net, each place as likely as any other."""
    return torch.randint(max(length - size, 0) + 1, (nets, count), generator=generator)


def every_start(length: int, size: int, nets: int) -> Int64[Tensor, "nets count"]:
    """Windows side by side that cover `length`; where it is no multiple of `size`, the last two overlap."""
    last = max(length - size, 0)
    return torch.tensor([*range(0, last, size), last]).expand(nets, -1)


def windows(
    x: Shaped[Tensor, "nets length *rest"], starts: Int64[Tensor, "nets count"], size: int
) -> Shaped[Tensor, "nets count size *rest"]:
    """Cuts `starts.shape[1]` windows of min(size, length) out of each net's row."""
    views = x.unfold(1, min(size, x.shape[1]), 1)  # [nets, places, *rest, size], no copy
    net = torch.arange(len(x), device=x.device).unsqueeze(1)
    return views[net, starts.to(x.device)].movedim(-1, 2)
