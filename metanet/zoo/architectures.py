"""Architectures of a spec: how they are checked and drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metanet import seeding
from metanet.zoo.distributions import check_distribution, check_mapping, check_value, draw, integer, one_of
from metanet.zoo.families import FAMILIES, settled, task
from metanet.zoo.hyperparameters import NEUTRAL
from metanet.zoo.nets import OWN, brings_activation
from metanet.zoo.tasks import TASKS

if TYPE_CHECKING:
    from metanet.zoo.spec import Spec


def check_family(raw: Any, where: str) -> dict[str, Any]:
    """An entry of a spec's `architectures`, checked.

    Raises:
        ValueError: an unknown family, key or value.
    """
    family = str(raw.get("family")) if isinstance(raw, dict) else ""
    check_value(family, one_of(FAMILIES), f"{where}.family")
    checks = {name: field.check for name, field in FAMILIES[family].FIELDS.items()}
    check_mapping(raw, ["family", *checks], where, optional=["weight"])
    check_value(raw.get("weight", 1), integer(1), f"{where}.weight")
    return raw | {name: check_distribution(raw[name], check, f"{where}.{name}") for name, check in checks.items()}


def check_task(architectures: list[dict[str, Any]], hyperparameters: dict[str, Any], where: str) -> None:
    """One task for all families, no hyperparameter that would do nothing in it, and activations from one place.

    Raises:
        ValueError: otherwise.
    """
    found = {family["family"]: task(family) for family in architectures}
    if len(set(found.values())) > 1:
        raise ValueError(
            f"{where}: architectures: found {', '.join(f'{family} for {of}' for family, of in found.items())}, "
            f"expected one task: make two zoos"
        )
    (name,) = set(found.values())
    own = {family["family"]: brings_activation(family) for family in architectures}
    activation = hyperparameters["activation"]
    if set(own.values()) != {activation == OWN} or (isinstance(activation, list) and OWN in activation):
        raise ValueError(
            f"{where}: hyperparameters.activation: found {activation!r}, expected {OWN} if and only if every family "
            f"brings its activations; of these do: {', '.join(name for name in own if own[name]) or 'none'}"
        )
    all_neutral = {"augmentation": False, "dropout": 0.0} | NEUTRAL
    for ignored in TASKS[name].ignored:
        neutral = all_neutral[ignored]
        if (value := hyperparameters.get(ignored, neutral)) != neutral:
            raise ValueError(
                f"{where}: hyperparameters.{ignored}: found {value!r}, expected {neutral!r}: it does nothing in {name}"
            )


def draw_architectures(spec: Spec) -> list[dict[str, Any]]:
    """`spec.num_architectures` distinct ones, shared out between the families by weight.

    Raises:
        ValueError: a family's distributions hold too few.
    """
    shares = _shares([family.get("weight", 1) for family in spec.architectures], spec.num_architectures)
    common = {"image_shape": spec.image_shape, "num_classes": spec.num_classes}
    found: list[dict[str, Any]] = []
    for position, (family, share) in enumerate(zip(spec.architectures, shares, strict=True)):
        distinct: dict[str, dict[str, Any]] = {}
        for attempt in range(100 * share):
            drawn = settled(_draw(family, spec.seed, position, attempt))
            distinct.setdefault(json.dumps(drawn), drawn | common)
            if len(distinct) == share:
                break
        if len(distinct) < share:
            raise ValueError(
                f"spec {spec.name}: architectures[{position}] ({family['family']}) should give {share} distinct "
                f"architectures, but its choices hold only {len(distinct)}. "
                f"Give it more choices or a smaller weight, or lower num_architectures."
            )
        found += distinct.values()
    return found


def _draw(family: Mapping[str, Any], seed: int, position: int, attempt: int) -> dict[str, Any]:
    """One architecture of a family; a field of each layer, once the number of layers is drawn."""
    fields = FAMILIES[family["family"]].FIELDS
    of_each = {name: field.of_each for name, field in fields.items() if field.of_each}
    drawn: dict[str, Any] = {}
    for name, distribution in family.items():
        if name != "weight" and name not in of_each:
            drawn[name] = draw(distribution, seeding.key(seed, "architecture", position, name, attempt))
    for name, layers in of_each.items():
        keys = (seeding.key(seed, "architecture", position, name, attempt, layer) for layer in range(drawn[layers]))
        drawn[name] = "-".join(str(draw(family[name], key)) for key in keys)
    return drawn


def _shares(weights: list[int], total: int) -> list[int]:
    """`total` shared out by weight, at least 1 each; what rounding leaves goes to the largest remainders."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [max(1, math.floor(share)) for share in exact]
    while sum(shares) != total:
        step = 1 if sum(shares) < total else -1
        able = [i for i in range(len(shares)) if shares[i] + step >= 1]
        shares[max(able, key=lambda i: step * (exact[i] - shares[i]))] += step
    return shares
