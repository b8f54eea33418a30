"""The CNN Wild Park as it was published: the nets of family wild_park, each convolution with its own activation.

`activations` says so layer by layer, "relu-none-gelu". In a spec it is drawn whole, so its depth must fit.
Source: Kofinas et al. (2024), arXiv:2403.12143, appendix, and their code.
"""

from torch import nn

from metanet.zoo.distributions import Check
from metanet.zoo.families import wild_park
from metanet.zoo.fields import Arch, Field, Layers

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}
NAMES = Check(
    str,
    f"names joined by -, each one of {', '.join(ACTIVATIONS)}",
    lambda value: isinstance(value, str) and set(value.split("-")) <= set(ACTIVATIONS),
)
FIELDS = {**wild_park.FIELDS, "activations": Field("-", NAMES)}
OWN_ACTIVATION = True
settle = wild_park.settle


def expects(arch: Arch) -> str | None:
    count = len(arch["activations"].split("-"))
    return wild_park.expects(arch) if count == arch["depth"] else f"{arch['depth']} activations"


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    return wild_park.layers_of(arch, [ACTIVATIONS[name] for name in arch["activations"].split("-")], dropout)
