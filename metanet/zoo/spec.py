"""Spec: what a zoo contains. A YAML file of distributions that expands to nets, each fully determined.

The drawing uses integer hashes of (seed, purpose, net) alone, so the same spec gives the same nets on every machine.
The format is explained in docs/zoo.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metanet import seeding
from metanet.zoo import early_stopping, images, nets
from metanet.zoo.architectures import check_family, check_task, draw_architectures
from metanet.zoo.distributions import (
    Check,
    check_distribution,
    check_list,
    check_mapping,
    check_value,
    draw,
    integer,
    one_of,
    real,
)
from metanet.zoo.families import task
from metanet.zoo.hyperparameters import HYPERPARAMETERS, NEUTRAL, REQUIRED
from metanet.zoo.tasks import TASKS

NUMBERS: dict[str, Check] = {
    "name": Check(
        str,
        "a name of letters, digits, _ and -",
        lambda value: bool(re.fullmatch(r"[\w-]+", value if isinstance(value, str) else "")),
    ),
    "seed": integer(0),
    "num_nets": integer(1),
    "num_classes": integer(2),
    "train_images": integer(1).or_none(),
    "eval_images": integer(1).or_none(),
    "epochs": integer(1),
    "learning_rate_decay": real("a factor above 0", lambda value: value > 0),
    "num_architectures": integer(1),
}
FRACTION = real("a fraction in [0, 1]", lambda value: 0 <= value <= 1)


@dataclass(frozen=True)
class Net:
    """One training, fully determined."""

    net: int  # its number in the zoo, and the word that keys all its randomness
    lineage: int  # nets of one training run share it; a net that starts from scratch has its own
    arch: Mapping[str, Any]  # what metanet.zoo.nets.build takes
    arch_name: str
    image_set: str
    hyperparameters: Mapping[str, Any]  # all of HYPERPARAMETERS
    train_images: int  # trains on the first so many images of the set
    eval_images: int | None  # accuracies and losses on the first so many of either part; None = all
    epochs: int
    steps_per_epoch: int  # whole batches only
    learning_rate_decay: float  # factor after every epoch
    snapshots: tuple[float, ...]  # ascending fractions of the training
    valid_images: int = 0  # the images after train_images, by which it stops early

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Ascending and distinct, each in [0, steps]; the weights are taken after so many steps."""
        return tuple(round(fraction * self.steps) for fraction in self.snapshots)


@dataclass(frozen=True)
class Spec:
    """A checked spec; made by `load_spec` or `check_spec`."""

    name: str
    seed: int
    num_nets: int
    images: list[str]
    image_shape: list[int]  # channels, height, width
    num_classes: int
    train_images: int | None  # None = all
    eval_images: int | None
    epochs: int
    learning_rate_decay: float
    num_architectures: int
    architectures: list[dict[str, Any]]
    hyperparameters: dict[str, Any]
    snapshots: list[float]  # ascending fractions of training in [0, 1]

    @property
    def task(self) -> str:
        """What its nets are trained to do, a name of TASKS."""
        return task(self.architectures[0])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def restricted(self, names: Sequence[str]) -> Spec:
        """The spec with only these of its image sets; the nets are as many, each drawing one of them.

        Raises:
            ValueError: none, or one that the spec does not have.
        """
        check_list(list(names), one_of(self.images), f"spec {self.name}: images=")
        return replace(self, images=list(names))

    def nets(self) -> list[Net]:
        """Every net of the zoo: spread evenly over the architectures, all else drawn independently.

        Raises:
            ValueError: the distributions hold too few distinct architectures, or a net would have no step to train
                or two snapshots at one step.
        """
        archs = [(arch, nets.arch_name(arch)) for arch in draw_architectures(self)]
        return [self._net(net, *archs[net % len(archs)]) for net in range(self.num_nets)]

    def _net(self, net: int, arch: dict[str, Any], arch_name: str) -> Net:
        drawn = NEUTRAL | {
            name: draw(distribution, seeding.key(self.seed, "hyperparameter", name, net))
            if isinstance(distribution, list | dict)
            else distribution
            for name, distribution in self.hyperparameters.items()
        }
        image_set = draw(self.images, seeding.key(self.seed, "image_set", net))
        available = images.SETS[image_set].num_train
        train_images = int(min(self.train_images or available, available) * drawn["train_fraction"])
        valid_images = early_stopping.split(train_images, drawn["early_stopping"], self.epochs, f"spec {self.name}")
        train_images -= valid_images
        unit, samples = TASKS[self.task].unit, TASKS[self.task].samples(train_images, self.image_shape)
        found = Net(
            net=net,
            lineage=net,
            arch=arch,
            arch_name=arch_name,
            image_set=image_set,
            hyperparameters=drawn,
            train_images=train_images,
            eval_images=self.eval_images,
            epochs=self.epochs,
            steps_per_epoch=samples // drawn["batch_size"],
            learning_rate_decay=self.learning_rate_decay,
            snapshots=tuple(self.snapshots),
            valid_images=valid_images,
        )
        if valid_images and len(early_stopping.chosen(found.snapshots, self.epochs)) < len(self.snapshots):
            raise ValueError(
                f"spec {self.name}: nets that stop early have their snapshots between epochs; {self.epochs} epochs are "
                f"too few for the snapshots {self.snapshots}. Raise epochs, or take fewer snapshots."
            )
        if not found.steps or len(set(found.snapshot_steps)) < len(self.snapshots):
            raise ValueError(
                f"spec {self.name}: {self.epochs} epochs of {samples} {image_set} {unit} in batches of "
                f"{drawn['batch_size']} are {found.steps} steps, too few for the snapshots {self.snapshots}. "
                f"Raise epochs or the {unit}, or take smaller batches or fewer snapshots."
            )
        return found


def load_spec(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Spec:
    """The spec in a YAML file, with fields replaced by `overrides` (entry by entry inside `hyperparameters`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, an unknown or missing key, a value that is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        close = get_close_matches(path.name, [other.name for other in path.parent.glob("*.yaml")], n=1)
        hint = f" Did you mean {path.parent / close[0]}?" if close else " The shipped specs are in zoo_specs/."
        raise FileNotFoundError(f"{path}: no such spec file.{hint}")
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    check_mapping(raw, [], str(path), optional=[field.name for field in fields(Spec)])
    assert isinstance(raw, dict)
    overrides = dict(overrides or {})
    if isinstance(raw.get("hyperparameters"), dict) and isinstance(overrides.get("hyperparameters"), dict):
        overrides["hyperparameters"] = raw["hyperparameters"] | overrides["hyperparameters"]
    return check_spec(raw | overrides, where=str(path))


def check_spec(raw: Mapping[Any, Any], where: str) -> Spec:
    """`raw` as a Spec; `where` names its file in errors.

    Raises:
        ValueError: an unknown or missing key, a value that is not allowed.
    """
    check_mapping(raw, [field.name for field in fields(Spec)], where)
    for name, check in NUMBERS.items():
        check_value(raw[name], check, f"{where}: {name}")
    check_list(raw["images"], one_of(images.SETS), f"{where}: images")
    check_list(raw["image_shape"], integer(1), f"{where}: image_shape", length=3)
    check_list(raw["snapshots"], FRACTION, f"{where}: snapshots")
    check_mapping(raw["hyperparameters"], REQUIRED, f"{where}: hyperparameters", optional=list(NEUTRAL))
    hyperparameters = {
        name: check_distribution(raw["hyperparameters"][name], check, f"{where}: hyperparameters.{name}")
        for name, check in HYPERPARAMETERS.items()
        if name in raw["hyperparameters"]
    }
    if not isinstance(raw["architectures"], list) or not raw["architectures"]:
        raise ValueError(f"{where}: architectures: found {raw['architectures']!r}, expected a list of families")
    architectures = [
        check_family(family, f"{where}: architectures[{position}]")
        for position, family in enumerate(raw["architectures"])
    ]
    check_task(architectures, hyperparameters, where)
    for name in raw["images"]:
        if images.SETS[name].num_classes > raw["num_classes"]:
            raise ValueError(
                f"{where}: num_classes: found {raw['num_classes']}, expected at least the "
                f"{images.SETS[name].num_classes} classes of {name}"
            )
    if not raw["num_nets"] >= raw["num_architectures"] >= len(architectures):
        raise ValueError(
            f"{where}: found {raw['num_nets']} nets, {raw['num_architectures']} architectures and {len(architectures)} "
            f"families, expected num_nets >= num_architectures >= the number of families"
        )
    checked = {
        "architectures": architectures,
        "hyperparameters": hyperparameters,
        "snapshots": sorted(float(fraction) for fraction in raw["snapshots"]),
        "learning_rate_decay": float(raw["learning_rate_decay"]),
    }
    return Spec(**{**raw, **checked})
