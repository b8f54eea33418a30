"""Residual nets of 6 n + 2 layers: a convolution, three stages of n blocks at widths w, 2 w and 4 w, average, head.

A block is norm(conv(activation(norm(conv(x))))) plus a shortcut, then the activation; its first convolution halves the
image in the second and third stage, and there the shortcut is a 1 x 1 convolution with norm. "norm" is batch norm,
group norm in groups of 4 channels, layer norm over channels and pixels, or none (then convolutions have biases).
Source: He et al. (2016), arXiv:1512.03385, section 4.2, with shortcuts of kind B: 272,474 parameters for 20 layers,
width 16, batch norm, 3x32x32 images and 10 classes. Group norm: Wu and He (2018); layer norm: Ba et al. (2016).
"""

from torch import Tensor, fx, nn

from metanet.zoo.distributions import one_of
from metanet.zoo.fields import Arch, Field, Layers

FIELDS = {"depth": Field("-"), "width": Field("x"), "norm": Field("-", one_of(("batch", "group", "layer", "none")))}
_GROUP = 4  # channels


class Block(nn.Module):
    """Two convolutions beside a shortcut, images [batch, channels, h, w] -> [batch, out, h / stride, w / stride]."""

    def __init__(self, channels: int, out: int, stride: int, norm: str, activation: type[nn.Module]):
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=bias)
        self.norm1 = _norm(norm, out)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=bias)
        self.norm2 = _norm(norm, out)
        self.activation2 = activation()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=bias), _norm(norm, out))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor | fx.Proxy):  # a stack traces it
        inner = self.activation1(self.norm1(self.conv1(x)))
        return self.activation2(self.norm2(self.conv2(inner)) + self.shortcut(x))


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    return nn.GroupNorm(channels // _GROUP if kind == "group" else 1, channels)


def expects(arch: Arch) -> str | None:
    if arch["depth"] not in (8, 14, 20):
        return "depth of 8, 14 or 20"
    if arch["norm"] == "group" and arch["width"] % _GROUP:
        return f"a width that is a multiple of {_GROUP} for group norm"
    return None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    channels = arch["width"]
    yield "conv", nn.Conv2d(arch["image_shape"][0], channels, 3, padding=1, bias=arch["norm"] == "none")
    yield "norm", _norm(arch["norm"], channels)
    yield "activation", activation()
    for stage in range(3):
        out = arch["width"] << stage
        for number in range(1, (arch["depth"] - 2) // 6 + 1):
            stride = 2 if stage and number == 1 else 1
            yield f"block{stage + 1}_{number}", Block(channels, out, stride, arch["norm"], activation)
            channels = out
    yield "pool", nn.AdaptiveAvgPool2d(1)
    yield "flatten", nn.Flatten()
    yield "dropout", nn.Dropout(dropout)
    yield "head", nn.Linear(channels, arch["num_classes"])
