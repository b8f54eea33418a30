"""Small vision transformers: square patches become tokens of `width` numbers, `depth` blocks, norm, readout, head.

A block is attention of `heads` heads, then a dense layer to 4 times the width and back; both read the layer norm of
the residual stream and add to it, after dropout. "class" reads a class token out, "mean" averages over tokens.
Positions are drawn by the net's initialisation; the class token starts at 0; keys have no bias.
Source: Dosovitskiy et al. (2021), arXiv:2010.11929, with the net's own activation in the place of GELU.
"""

from torch import Tensor, fx, nn

from metanet.zoo.distributions import one_of
from metanet.zoo.fields import Arch, Field, Layers
from metanet.zoo.layers import Attend, ReadOut, Tokens

FIELDS = {
    "depth": Field("-"),
    "width": Field("x"),
    "heads": Field("-h"),
    "patch": Field("-p"),
    "readout": Field("-", one_of(("class", "mean"))),
}
_EXPANSION = 4


class Block(nn.Module):
    """[batch, tokens, width] -> the same."""

    def __init__(self, width: int, heads: int, activation: type[nn.Module], dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax would cancel it
        self.attend = Attend(heads)
        self.out = nn.Linear(width, width)
        self.dropout1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, _EXPANSION * width)
        self.activation = activation()
        self.contract = nn.Linear(_EXPANSION * width, width)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor | fx.Proxy):  # a stack traces it
        read = self.norm1(x)
        x = x + self.dropout1(self.out(self.attend(self.query(read), self.key(read), self.value(read))))
        return x + self.dropout2(self.contract(self.activation(self.expand(self.norm2(x)))))


def expects(arch: Arch) -> str | None:
    height, width = arch["image_shape"][1:]
    if height % arch["patch"] or width % arch["patch"]:
        return f"a patch that divides {height} and {width}"
    if arch["width"] % arch["heads"]:
        return "a width that is a multiple of heads"
    return None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    (channels, height, width), patch = arch["image_shape"], arch["patch"]
    class_token = arch["readout"] == "class"
    yield "patches", nn.Conv2d(channels, arch["width"], patch, stride=patch)
    yield "tokens", Tokens(height // patch * (width // patch), arch["width"], class_token)
    for number in range(1, arch["depth"] + 1):
        yield f"block{number}", Block(arch["width"], arch["heads"], activation, dropout)
    yield "norm", nn.LayerNorm(arch["width"])
    yield "readout", ReadOut(class_token)
    yield "head", nn.Linear(arch["width"], arch["num_classes"])
