"""Nets: built, named and checked by their architecture, an ordinary `nn.Module` each. The families are in families/."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor, nn

from metanet import seeding
from metanet.zoo.families import FAMILIES, task
from metanet.zoo.layers import Sin

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "sin": Sin,
}
OWN = "own"  # the activation of a net whose architecture says it


def build(arch: Mapping[str, Any], *, activation: str = "relu", dropout: float = 0.0) -> nn.Sequential:
    """The net of an architecture: if it classifies, images [batch, channels, height, width] -> [batch, num_classes].

    Raises:
        ValueError: unknown family, field or activation, a missing field, or sizes that make no net.
    """
    check(arch)
    family = FAMILIES[arch["family"]]
    if brings_activation(arch):
        return nn.Sequential(OrderedDict(family.layers(arch, nn.Identity, dropout)))
    _one_of(activation, ACTIVATIONS, "activation")
    return nn.Sequential(OrderedDict(family.layers(arch, ACTIVATIONS[activation], dropout)))


def brings_activation(arch: Mapping[str, Any]) -> bool:
    """Whether the architecture itself says the activation."""
    return getattr(FAMILIES[arch["family"]], "OWN_ACTIVATION", False)


def own_names(tensors: Mapping[str, Tensor], arch: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state_dict of `build(arch)` under the names that the net's owner knows; `full_names` undoes it."""
    prefix = _prefix(arch)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def full_names(tensors: Mapping[str, Tensor], arch: Mapping[str, Any]) -> dict[str, Tensor]:
    """An owner's state_dict under the names of `build(arch)`."""
    prefix = _prefix(arch)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _prefix(arch: Mapping[str, Any]) -> str:
    layer = getattr(FAMILIES.get(arch["family"]), "LAYER", None)
    return f"{layer}." if layer else ""


def arch_name(arch: Mapping[str, Any]) -> str:
    """A readable name, different for different architectures: "nws_cnn-f5-c3x8-d2x64-bn-1x14x14-10"."""
    check(arch)
    fields = "".join(field.named(arch[name]) for name, field in FAMILIES[arch["family"]].FIELDS.items())
    shape = "x".join(str(size) for size in arch["image_shape"])
    return f"{arch['family']}{fields}-{shape}-{arch['num_classes']}"


def input_shape(arch: Mapping[str, Any]) -> list[int]:
    """Of what a net reads, without the batch: an image, a place in one, or what the family says."""
    own = getattr(FAMILIES[arch["family"]], "input_shape", None)
    if own is not None:
        return own(arch)
    return [2] if task(arch) == "image_fitting" else list(arch["image_shape"])


def example_input(arch: Mapping[str, Any]) -> Num[Tensor, "2 *shape"]:
    """Two inputs, always the same: noise in [0, 1), or words by their numbers where the family has a vocabulary."""
    noise = seeding.uniform(seeding.keys(0, torch.arange(2), "example_input"), *input_shape(arch))
    vocabulary = getattr(FAMILIES[arch["family"]], "vocabulary", None)
    words = vocabulary(arch) if vocabulary else 0
    return (noise * words).long() if words else noise


def reads_features(arch: Mapping[str, Any]) -> bool:
    """Whether a net flattens its images before anything else."""
    _, first = next(FAMILIES[arch["family"]].layers(arch, nn.ReLU, 0.0))
    return isinstance(first, nn.Flatten)


def check(arch: Mapping[str, Any]) -> None:
    """Raises ValueError where `arch` describes no net."""
    _one_of(arch.get("family"), FAMILIES, "family")
    family = FAMILIES[arch["family"]]
    expected = ["family", "image_shape", "num_classes", *family.FIELDS]
    if set(arch) != set(expected):
        raise ValueError(f"architecture {dict(arch)}: found the fields {sorted(arch)}, expected {sorted(expected)}")
    for name, field in family.FIELDS.items():
        if problem := field.problem(name, arch):
            raise ValueError(f"architecture {dict(arch)}: {problem}")
    shown = dict(arch) | {name: field.shown(arch[name]) for name, field in family.FIELDS.items()}
    sizes = [*arch["image_shape"], arch["num_classes"]]
    if len(sizes) != 4 or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(
            f"architecture {shown}: found image_shape {arch['image_shape']} and {arch['num_classes']} classes, "
            f"expected three sizes and a number of at least 1"
        )
    if expects := family.expects(arch):
        raise ValueError(f"architecture {shown}: expected {expects}")


def _one_of(name: object, known: Iterable[str], what: str) -> None:
    known = list(known)
    if name not in known:
        close = get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown {what} {name!r}, expected one of {', '.join(known)}{hint}")
