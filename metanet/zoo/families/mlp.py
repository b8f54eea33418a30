"""`depth` hidden layers of `width` units, each dense -> norm -> activation -> dropout."""

import math

from torch import nn

from metanet.zoo.fields import BATCH_NORM, Arch, Field, Layers

FIELDS = {"depth": Field("-"), "width": Field("x"), "batch_norm": BATCH_NORM}


def expects(arch: Arch) -> str | None:
    return None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    features = math.prod(arch["image_shape"])
    yield "flatten", nn.Flatten()
    for layer in range(1, arch["depth"] + 1):
        yield f"dense{layer}", nn.Linear(features, arch["width"])
        if arch["batch_norm"]:
            yield f"norm{layer}", nn.BatchNorm1d(arch["width"])
        yield f"activation{layer}", activation()
        yield f"dropout{layer}", nn.Dropout(dropout)
        features = arch["width"]
    yield "head", nn.Linear(features, arch["num_classes"])
