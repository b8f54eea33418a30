"""3 x 3 convolutions of stride 2 without padding, each -> activation -> dropout -> norm; average over pixels; head.

Source: Unterthiner et al. (2020), "Predicting neural network accuracy from weights", arXiv:2002.11448, and their code;
3 x 16 on 1x28x28 images: their 4,970 numbers.
"""

from torch import nn

from metanet.zoo.fields import BATCH_NORM, Arch, Field, Layers

FIELDS = {"conv_depth": Field("-"), "conv_width": Field("x"), "batch_norm": BATCH_NORM}


def expects(arch: Arch) -> str | None:
    least = 2 ** (arch["conv_depth"] + 1) - 1
    return f"images of at least {least} x {least} pixels" if min(arch["image_shape"][1:]) < least else None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    channels, out = arch["image_shape"][0], arch["conv_width"]
    for number in range(1, arch["conv_depth"] + 1):
        yield f"conv{number}", nn.Conv2d(channels, out, 3, stride=2)
        yield f"activation{number}", activation()
        yield f"dropout{number}", nn.Dropout(dropout)
        if arch["batch_norm"]:
            yield f"norm{number}", nn.BatchNorm2d(out)
        channels = out
    yield "pool", nn.AdaptiveAvgPool2d(1)
    yield "flatten", nn.Flatten()
    yield "head", nn.Linear(channels, arch["num_classes"])
