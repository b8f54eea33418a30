"""Implicit neural representations: each net is fitted to one image, from a pixel's place to its value.

`depth` hidden layers of `width` units, each dense -> times `omega` -> activation, then a dense layer. The input is the
place (x to the right, y down) in [-1, 1], the output a value per channel, in [-1, 1] as all images are fed.
Source: Sitzmann et al. (2020), arXiv:2006.09661, with activation sin, initialisation siren and omega 30; the zoos of
Navon et al. (2023), arXiv:2301.12780, have depth 2 and width 32. Biases start at 0, where their code draws them.
"""

from torch import nn

from metanet.zoo.fields import Arch, Field, Layers
from metanet.zoo.layers import Scale

TASK = "image_fitting"
STACKS = 4  # 64 nets on a CPU: 1.1 times as fast as 16 in batches of 784 pixels, 1.8 times in batches of 64
FIELDS = {"depth": Field("-"), "width": Field("x"), "omega": Field("-o")}


def expects(arch: Arch) -> str | None:
    return None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    features = 2
    for layer in range(1, arch["depth"] + 1):
        yield f"dense{layer}", nn.Linear(features, arch["width"])
        yield f"scale{layer}", Scale(arch["omega"])
        yield f"activation{layer}", activation()
        features = arch["width"]
    yield "head", nn.Linear(features, arch["image_shape"][0])
