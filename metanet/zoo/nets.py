"""The families of nets that a zoo trains, their activations and their initialisations.

A net is an ordinary `nn.Module`, built from a flat dict that fits into JSON: "family", "image_shape" [channels, height,
width], "num_classes", "batch_norm", and the fields of the family. A new family is an entry of FAMILIES and of _LAYERS.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metanet import seeding

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}

# family -> its integer fields, each with what precedes its value in the architecture's name
FAMILIES: dict[str, dict[str, str]] = {
    "nws_cnn": {"filter_size": "-f", "conv_depth": "-c", "conv_width": "x", "dense_depth": "-d", "dense_width": "x"},
    "small_cnn": {"conv_depth": "-", "conv_width": "x"},
    "mlp": {"depth": "-", "width": "x"},
}

_Layers = Iterator[tuple[str, nn.Module]]


def build(arch: Mapping[str, Any], *, activation: str = "relu", dropout: float = 0.0) -> nn.Sequential:
    """The net of an architecture, images [batch, channels, height, width] -> logits [batch, num_classes].

    Raises:
        ValueError: unknown family, field or activation, a missing field, or sizes that make no net.
    """
    check(arch)
    _one_of(activation, ACTIVATIONS, "activation")
    return nn.Sequential(OrderedDict(_LAYERS[arch["family"]](arch, ACTIVATIONS[activation], dropout)))


def arch_name(arch: Mapping[str, Any]) -> str:
    """A readable name, different for different architectures: "nws_cnn-f5-c3x8-d2x64-bn-1x14x14-10"."""
    check(arch)
    family = "".join(f"{prefix}{arch[field]}" for field, prefix in FAMILIES[arch["family"]].items())
    shape = "x".join(str(size) for size in arch["image_shape"])
    return f"{arch['family']}{family}{'-bn' if arch['batch_norm'] else ''}-{shape}-{arch['num_classes']}"


def check(arch: Mapping[str, Any]) -> None:
    """Raises ValueError where `arch` describes no net."""
    _one_of(arch.get("family"), FAMILIES, "family")
    expected = ["family", "image_shape", "num_classes", "batch_norm", *FAMILIES[arch["family"]]]
    if set(arch) != set(expected):
        raise ValueError(f"architecture {dict(arch)}: found the fields {sorted(arch)}, expected {sorted(expected)}")
    sizes = {field: arch[field] for field in FAMILIES[arch["family"]]} | {"num_classes": arch["num_classes"]}
    for field, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"architecture {dict(arch)}: found {field} {size!r}, expected an integer of at least 1")
    if len(arch["image_shape"]) != 3 or min(arch["image_shape"]) < 1:
        raise ValueError(f"architecture {dict(arch)}: found image_shape {arch['image_shape']}, expected three sizes")
    if arch["family"] == "nws_cnn":
        if arch["filter_size"] % 2 == 0:
            raise ValueError(f"architecture {dict(arch)}: expected an odd filter_size, which keeps the image's size")
        if arch["conv_depth"] < 3 or arch["dense_width"] >> (arch["dense_depth"] - 1) == 0:
            raise ValueError(
                f"architecture {dict(arch)}: expected conv_depth of at least 3 and a dense_width "
                f"that can be halved {arch['dense_depth'] - 1} times"
            )
    least = 2 ** (arch["conv_depth"] + 1) - 1 if arch["family"] == "small_cnn" else 1
    if min(arch["image_shape"][1:]) < least:
        raise ValueError(f"architecture {dict(arch)}: expected images of at least {least} x {least} pixels")


def _one_of(name: object, known: Iterable[str], what: str) -> None:
    known = list(known)
    if name not in known:
        close = get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown {what} {name!r}, expected one of {', '.join(known)}{hint}")


def _nws_cnn(arch: Mapping[str, Any], activation: type[nn.Module], dropout: float) -> _Layers:
    """Three blocks of convolution -> norm -> activation, each closed by a pool; dense -> activation -> norm -> dropout.

    Extra convolutions go to the later blocks; the width doubles per block and halves per dense layer. Pools round up,
    so that images down to 1 x 1 pass. Source: Eilertsen et al. (2020), "Classifying the classifier", arXiv:2002.05688,
    table 1 and code; filter 5, 3 + 2 layers, widths 8 and 128, 3x32x32 images, 20 outputs give their 92,868 numbers.
    """
    channels, height, width = arch["image_shape"]
    number = 0
    for block in range(3):
        out = arch["conv_width"] << block
        for _ in range((arch["conv_depth"] + block) // 3):
            number += 1
            yield f"conv{number}", nn.Conv2d(channels, out, arch["filter_size"], padding=arch["filter_size"] // 2)
            if arch["batch_norm"]:
                yield f"conv_norm{number}", nn.BatchNorm2d(out)
            yield f"conv_activation{number}", activation()
            channels = out
        yield f"pool{block + 1}", nn.MaxPool2d(2, ceil_mode=True)
        height, width = -(-height // 2), -(-width // 2)
    yield "flatten", nn.Flatten()
    features = channels * height * width
    for layer in range(arch["dense_depth"]):
        out = arch["dense_width"] >> layer
        yield f"dense{layer + 1}", nn.Linear(features, out)
        yield f"dense_activation{layer + 1}", activation()
        if arch["batch_norm"]:
            yield f"dense_norm{layer + 1}", nn.BatchNorm1d(out)
        yield f"dropout{layer + 1}", nn.Dropout(dropout)
        features = out
    yield "head", nn.Linear(features, arch["num_classes"])


def _small_cnn(arch: Mapping[str, Any], activation: type[nn.Module], dropout: float) -> _Layers:
    """3 x 3 convolutions of stride 2 without padding, each -> activation -> dropout -> norm; average over pixels; head.

    Source: Unterthiner et al. (2020), "Predicting neural network accuracy from weights", arXiv:2002.11448, and their
    code; 3 x 16 on 1x28x28 images: their 4,970 numbers.
    """
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


def _mlp(arch: Mapping[str, Any], activation: type[nn.Module], dropout: float) -> _Layers:
    """`depth` hidden layers of `width` units, each dense -> norm -> activation -> dropout."""
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


_LAYERS: dict[str, Callable[[Mapping[str, Any], type[nn.Module], float], _Layers]] = {
    "nws_cnn": _nws_cnn,
    "small_cnn": _small_cnn,
    "mlp": _mlp,
}


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight [out, in, *taps]."""
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def _uniform(keys: Int64[Tensor, " nets"], shape: Sequence[int], variance: float) -> Float[Tensor, "nets ..."]:
    return (2 * seeding.uniform(keys, *shape) - 1) * math.sqrt(3 * variance)


def _normal(keys: Int64[Tensor, " nets"], shape: Sequence[int], variance: float) -> Float[Tensor, "nets ..."]:
    return seeding.normal(keys, *shape) * math.sqrt(variance)


def _orthogonal(keys: Int64[Tensor, " nets"], shape: Sequence[int]) -> Float[Tensor, "nets ..."]:
    """Orthonormal rows or columns, whichever are fewer, of [out, in * taps]. Source: Saxe et al. (2014).

    In float64, so that rounding, which may depend on the company in memory, does not reach the float32 weights.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    drawn = seeding.normal(keys, max(rows, columns), min(rows, columns)).double()
    q, r = torch.linalg.qr(drawn)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # uniform over the orthogonal matrices
    return (q if rows >= columns else q.mT).reshape(-1, *shape).float()


# (keys [nets], shape of a weight [out, in, *taps]) -> [nets, *shape]
INITIALISATIONS: dict[str, Callable[[Int64[Tensor, " nets"], Sequence[int]], Float[Tensor, "nets ..."]]] = {
    "constant": lambda keys, shape: torch.full((len(keys), *shape), 0.1, device=keys.device),
    "normal": lambda keys, shape: _normal(keys, shape, 1.0),
    "glorot_uniform": lambda keys, shape: _uniform(keys, shape, 2 / sum(_fans(shape))),
    "glorot_normal": lambda keys, shape: _normal(keys, shape, 2 / sum(_fans(shape))),
    "he_uniform": lambda keys, shape: _uniform(keys, shape, 2 / _fans(shape)[0]),
    "he_normal": lambda keys, shape: _normal(keys, shape, 2 / _fans(shape)[0]),
    "orthogonal": _orthogonal,
}


def initialise(
    arch: Mapping[str, Any], schemes: Sequence[str], keys: Int64[Tensor, " nets"]
) -> dict[str, Float[Tensor, "nets ..."] | Int64[Tensor, " nets"]]:
    """The state_dict of `len(keys)` fresh nets, stacked: weights by each net's scheme, biases 0, norms the identity.

    A weight is a function of its net's key, its scheme and its name. "constant" is .1 and "normal" is N(0, 1), as in
    Eilertsen et al. (2020); Glorot and Bengio (2010) and He et al. (2015) without truncation.
    """
    fresh: dict[str, Tensor] = {}
    device = keys.device
    for path, module in build(arch).named_modules():
        for name, own in module.state_dict(prefix=f"{path}.").items() if isinstance(module, _WITH_WEIGHTS) else ():
            fresh[name] = own.to(device).expand(len(keys), *own.shape).clone()
            if own.dim() >= 2:
                for scheme in sorted(set(schemes)):
                    rows = torch.tensor([i for i, chosen in enumerate(schemes) if chosen == scheme], device=device)
                    fresh[name][rows] = INITIALISATIONS[scheme](seeding.fold(keys[rows], name), own.shape)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fresh[name].zero_()
    return fresh


_WITH_WEIGHTS = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
