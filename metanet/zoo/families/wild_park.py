"""The CNN Wild Park: every convolution with its own kernel and width, each perhaps plus an earlier one; average; head.

`kernels`, `widths` and `skips` say so layer by layer, "3-7-5": a skip of s adds the output s layers back, on the
channels that both have, before the activation; 0 adds nothing. In a spec each layer is drawn by itself, and a skip that
reaches before the first layer adds nothing. Images keep their size.
Source: Kofinas et al. (2024), arXiv:2403.12143, appendix, and their code. Departures: one activation per net, where
they draw one per layer (family wild_park_mixed has theirs); dropout before the head.
"""

from torch import Tensor, fx, nn

from metanet.zoo.distributions import Check, integer
from metanet.zoo.fields import Arch, Field, Layers
from metanet.zoo.layers import AddShared

SKIP = Check(int, "0, or an integer of at least 2", lambda value: type(value) is int and (value == 0 or value >= 2))
ODD = Check(int, "an odd integer of at least 1", lambda value: type(value) is int and value > 0 and value % 2 == 1)
FIELDS = {
    "depth": Field("-"),
    "kernels": Field("-f", ODD, of_each="depth"),
    "widths": Field("-x", integer(1), of_each="depth"),
    "skips": Field("-s", SKIP, of_each="depth"),
}


class Body(nn.Module):
    """Images [batch, channels, h, w] -> [batch, widths[-1], h, w]."""

    def __init__(
        self,
        channels: int,
        kernels: list[int],
        widths: list[int],
        skips: list[int],
        activations: list[type[nn.Module]],
    ):
        super().__init__()
        self.skips, self.add = skips, AddShared()
        for number, (kernel, width, activation) in enumerate(zip(kernels, widths, activations, strict=True), 1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, width, kernel, padding=kernel // 2))
            self.add_module(f"activation{number}", activation())
            channels = width

    def forward(self, x: Tensor | fx.Proxy):  # a stack traces it
        outputs = []
        for number, skip in enumerate(self.skips, 1):
            x = self.get_submodule(f"conv{number}")(x)
            if skip:
                x = self.add(x, outputs[-skip])
            x = self.get_submodule(f"activation{number}")(x)
            outputs.append(x)
        return x


def settle(arch: Arch) -> Arch:
    skips = [skip if skip < layer else 0 for layer, skip in enumerate(_numbers(arch["skips"]), 1)]
    return {**arch, "skips": "-".join(map(str, skips))}


def expects(arch: Arch) -> str | None:
    return None if settle(arch) == dict(arch) else "skips that reach no further back than the first layer"


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    return layers_of(arch, [activation] * arch["depth"], dropout)


def layers_of(arch: Arch, activations: list[type[nn.Module]], dropout: float) -> Layers:
    """The layers with an activation for each convolution."""
    kernels, widths, skips = (_numbers(arch[name]) for name in ("kernels", "widths", "skips"))
    yield "body", Body(arch["image_shape"][0], kernels, widths, skips, activations)
    yield "pool", nn.AdaptiveAvgPool2d(1)
    yield "flatten", nn.Flatten()
    yield "dropout", nn.Dropout(dropout)
    yield "head", nn.Linear(widths[-1], arch["num_classes"])


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split("-")]
