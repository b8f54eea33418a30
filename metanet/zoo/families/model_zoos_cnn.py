"""The two CNNs of the Model Zoos: three convolutions, each -> pool -> activation -> dropout, then two dense layers.

"cnn" has 8, 6 and 4 channels (kernels 5, 5 and 2, no third pool nor its dropout), "cnn3" has 16, 32 and 15 (kernels 3).
Source: Schürholt et al. (2022), "Model Zoos", arXiv:2209.14764, and their code; 2,464 and 2,864 numbers for "cnn" on
1x28x28 and 3x28x28 images, 10,853 for "cnn3" on 3x32x32. Their biases start at .01, here at 0.
"""

from torch import nn

from metanet.zoo.distributions import one_of
from metanet.zoo.fields import Arch, Field, Layers

FIELDS = {"variant": Field("-", one_of(("cnn", "cnn3")))}
_CONVOLUTIONS = {
    "cnn": ((8, 5, True), (6, 5, True), (4, 2, False)),
    "cnn3": ((16, 3, True), (32, 3, True), (15, 3, True)),
}
_HIDDEN = 20


def _grid(arch: Arch) -> tuple[int, int]:
    """Height and width after the last convolution or pool; below 1 where the images are too small."""
    height, width = arch["image_shape"][1:]
    for _, kernel, pooled in _CONVOLUTIONS[arch["variant"]]:
        height, width = ((size - kernel + 1) // (2 if pooled else 1) for size in (height, width))
    return height, width


def expects(arch: Arch) -> str | None:
    least = {"cnn": 20, "cnn3": 22}[arch["variant"]]
    return f"images of at least {least} x {least} pixels" if min(_grid(arch)) < 1 else None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    channels = arch["image_shape"][0]
    for number, (out, kernel, pooled) in enumerate(_CONVOLUTIONS[arch["variant"]], 1):
        yield f"conv{number}", nn.Conv2d(channels, out, kernel)
        if pooled:
            yield f"pool{number}", nn.MaxPool2d(2)
        yield f"activation{number}", activation()
        if pooled:
            yield f"dropout{number}", nn.Dropout(dropout)
        channels = out
    height, width = _grid(arch)
    yield "flatten", nn.Flatten()
    yield "dense", nn.Linear(channels * height * width, _HIDDEN)
    yield "activation4", activation()
    yield "dropout4", nn.Dropout(dropout)
    yield "head", nn.Linear(_HIDDEN, arch["num_classes"])
