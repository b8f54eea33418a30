"""The CNN Wild Park as it was published: the nets of family wild_park, each convolution with its own activation.

`activations` says so layer by layer, "relu-none-gelu".
Source: Kofinas et al. (2024), arXiv:2403.12143, appendix, and their code.
"""

from torch import nn

from metanet.zoo.distributions import one_of
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
FIELDS = {**wild_park.FIELDS, "activations": Field("-", one_of(ACTIVATIONS), of_each="depth")}
OWN_ACTIVATION = True
settle, expects = wild_park.settle, wild_park.expects


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    return wild_park.layers_of(arch, [ACTIVATIONS[name] for name in arch["activations"].split("-")], dropout)
