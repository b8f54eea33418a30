"""Fitting: foreign tensors -> the state_dict of a module. A tensor that does not fit is named, never dropped."""

from __future__ import annotations

import functools
import marshal
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metanet.zoo import nets

MOST_SIZE = 1 << 16  # of any field of an architecture: a file may claim any
COUNTER = "num_batches_tracked"  # of batch norm; it changes no output, and many formats do not keep it


def _key(arch: Mapping[str, Any]) -> bytes:
    """The architecture as it can be looked up: exact (1 is not True), and ten times as fast as JSON."""
    return marshal.dumps(dict(arch), 2)


@functools.lru_cache(maxsize=4096)
def _expected(key: bytes) -> dict[str, tuple[torch.Size, bool]]:
    """Name -> shape, and whether it is floating-point, in the module's order."""
    described = marshal.loads(key)
    shape = described.get("image_shape")
    fields = [value for name, value in described.items() if name != "image_shape"]
    if not isinstance(shape, list) or any(isinstance(value, dict | list) for value in [*shape, *fields]):
        raise ValueError(f"found the architecture {described}, expected numbers and text, and image_shape [1, 28, 28]")
    large = {name: value for name, value in described.items() if isinstance(value, int) and value > MOST_SIZE}
    if large and not hasattr(nets.FAMILIES.get(described["family"]), "LAYER"):  # those have limits of their own
        raise ValueError(f"found the sizes {large}, expected at most {MOST_SIZE:,}")
    nets.check(described)
    with torch.device("cpu" if described["family"] == "factory" else "meta"):  # a claimed size allocates nothing
        state_dict = nets.build(described).state_dict()
    return {name: (tensor.shape, tensor.is_floating_point()) for name, tensor in state_dict.items()}


def expected(arch: Mapping[str, Any]) -> dict[str, tuple[torch.Size, bool]]:
    """Name -> (shape, whether it is floating-point) of an architecture's state_dict, in its order."""
    return _expected(_key(arch))


@functools.lru_cache(maxsize=4096)
def _name(key: bytes) -> str:
    return nets.arch_name(marshal.loads(key))


def name(arch: Mapping[str, Any]) -> str:
    """The architecture's name, as `nets.arch_name` gives it."""
    return _name(_key(arch))


def check(shapes: Mapping[str, tuple[int, ...]], arch: Mapping[str, Any], where: str) -> None:
    """Compares names and shapes with those of the architecture.

    Raises:
        ValueError: a tensor is missing or left over, or has another shape.
    """
    wanted = expected(arch)
    missing = [name for name in wanted if name not in shapes and not name.endswith(COUNTER)]
    extra = [name for name in shapes if name not in wanted and not name.endswith(COUNTER)]
    if missing or extra:
        raise ValueError(
            f"{where}: missing are {_some(missing)}; unexpected are {_some(extra)}; expected the tensors "
            f"{_some(list(wanted))}"
        )
    for name, (shape, _) in wanted.items():
        if name in shapes and shapes[name] != shape:
            raise ValueError(f"{where}: {name}: found the shape {tuple(shapes[name])}, expected {tuple(shape)}")


def fit(tensors: Mapping[str, Tensor], arch: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The state_dict in the module's order, floating-point tensors in float32.

    Raises:
        ValueError: a tensor is missing or left over, or has another shape or kind of numbers.
    """
    check({name: tensor.shape for name, tensor in tensors.items()}, arch, where)
    found: dict[str, Tensor] = {}
    for name, (shape, is_floating) in expected(arch).items():
        tensor = tensors.get(name)
        if tensor is None:
            tensor = torch.zeros(shape, dtype=torch.int64)
        if tensor.is_floating_point() != is_floating or tensor.is_complex():
            kind = "floating-point numbers" if is_floating else "whole numbers"
            raise ValueError(f"{where}: {name}: found {tensor.dtype}, expected {kind}")
        dtype = torch.float32 if is_floating else torch.int64
        found[name] = tensor if tensor.dtype is dtype else tensor.to(dtype)
    return found


def without_attribute(tensors: Mapping[str, Tensor], arch: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """An owner's tensors without the name of the attribute that a module around the net, as Lightning's, has it under.

    Taken away only where all have it, and where the names fit then and only then.
    """
    wanted = nets.own_names(dict.fromkeys(expected(arch), torch.empty(0)), arch).keys()
    prefix = f"{next(iter(tensors)).partition('.')[0]}." if tensors else ""
    if tensors.keys() == wanted or not all(name.startswith(prefix) for name in tensors):
        return tensors
    inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    differing = (name for name in inner.keys() ^ wanted if not name.endswith(COUNTER))
    return tensors if any(differing) else inner


def in_order(tensors: Mapping[str, Tensor], arch: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors under the module's names: layers are matched by their order, names inside a layer by themselves.

    For sources whose layers are numbered with gaps (dropout has no weights): numbers in names sort as numbers, and
    every shape must fit.

    Raises:
        ValueError: another number of layers, or a layer that does not fit.
    """
    ours, theirs = _layers(list(expected(arch))), _layers(sorted(tensors, key=_natural))
    if len(ours) != len(theirs):
        raise ValueError(
            f"{where}: found {len(theirs)} layers with weights ({_some(list(theirs))}), expected {len(ours)}"
        )
    renamed: dict[str, Tensor] = {}
    for (own, parts), (foreign, found) in zip(ours.items(), theirs.items(), strict=True):
        if set(parts) != set(found):
            raise ValueError(f"{where}: layer {foreign}: found {sorted(found)}, expected {sorted(parts)} as in {own}")
        for part in parts:
            tensor, shape = tensors[f"{foreign}.{part}"], expected(arch)[f"{own}.{part}"][0]
            if tensor.shape != shape:
                raise ValueError(f"{where}: {foreign}.{part}: found {tuple(tensor.shape)}, expected {tuple(shape)}")
            renamed[f"{own}.{part}"] = tensor
    return renamed


def _layers(names: list[str]) -> dict[str, list[str]]:
    """Layer -> the names of its tensors, in the order in which layers come."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer, _, part = name.rpartition(".")
        if part != COUNTER:
            layers.setdefault(layer, []).append(part)
    return layers


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "nothing") + more
