"""Deep sets: a dense net on every pixel by itself, the mean or the maximum over pixels, a dense net on that.

A pixel is its place and its values; of every `stride` rows and columns one is taken. `depth` layers of `width` units on
each pixel and `dense_depth` after them, each dense -> activation, then dropout and head.
Source: Zaheer et al. (2017), "Deep sets", arXiv:1703.06114, theorem 2, with the mean in the place of the sum; with the
maximum Qi et al. (2017), "PointNet", arXiv:1612.00593, without its transforms.
"""

from torch import nn

from metanet.zoo.distributions import one_of
from metanet.zoo.fields import Arch, Field, Layers
from metanet.zoo.layers import Largest, PixelSet, ReadOut

FIELDS = {
    "depth": Field("-"),
    "width": Field("x"),
    "dense_depth": Field("-d"),
    "stride": Field("-s"),
    "readout": Field("-", one_of(("mean", "max"))),
}


def expects(arch: Arch) -> str | None:
    height, width = arch["image_shape"][1:]
    return None if arch["stride"] < min(height, width) else f"a stride below {min(height, width)}"


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    channels, height, width = arch["image_shape"]
    features = 2 + channels
    yield "pixels", PixelSet(height, width, arch["stride"])
    for layer in range(1, arch["depth"] + 1):
        yield f"dense{layer}", nn.Linear(features, arch["width"])
        yield f"activation{layer}", activation()
        features = arch["width"]
    yield "readout", Largest() if arch["readout"] == "max" else ReadOut(class_token=False)
    for layer in range(1, arch["dense_depth"] + 1):
        yield f"set_dense{layer}", nn.Linear(features, features)
        yield f"set_activation{layer}", activation()
    yield "dropout", nn.Dropout(dropout)
    yield "head", nn.Linear(features, arch["num_classes"])
