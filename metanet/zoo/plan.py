"""Plan: which nets are trained together. A group is one stacked training, and one folder of shards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metanet.zoo.families import FAMILIES
from metanet.zoo.spec import Net

STACK = {"cpu": 16, "cuda": 512}  # most nets in a group; on CPU 8 are slower for small nets, 32 for large ones


@dataclass(frozen=True)
class Group:
    """Nets of one architecture, batch size and numbers of images, hence of equal tensor shapes and steps.

    Image sets may mix.
    """

    name: str
    nets: tuple[Net, ...]  # equal activations and optimizers stand side by side
    kept: tuple[int, ...] | None = None  # the snapshots it has after a split; None: all of its nets'

    @property
    def arch(self) -> Mapping[str, Any]:
        return self.nets[0].arch

    @property
    def arch_name(self) -> str:
        return self.nets[0].arch_name

    @property
    def batch_size(self) -> int:
        return self.nets[0].hyperparameters["batch_size"]

    @property
    def train_images(self) -> int:
        return self.nets[0].train_images

    @property
    def valid_images(self) -> int:
        return self.nets[0].valid_images

    @property
    def epochs(self) -> int:
        return self.nets[0].epochs

    @property
    def steps_per_epoch(self) -> int:
        return self.nets[0].steps_per_epoch

    @property
    def steps(self) -> int:
        return self.nets[0].steps

    @property
    def stops_early(self) -> bool:
        """Whether each of its nets ends by itself, and has its snapshots at fractions of its own training."""
        return self.valid_images > 0

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """When all of its nets have their snapshots, where none stops early."""
        return self.nets[0].snapshot_steps if self.kept is None else self.kept

    @property
    def shards(self) -> tuple[int | None, ...]:
        """The step of each of its shards; None for the one that has all snapshots of nets that stop early."""
        return (None,) if self.stops_early else self.snapshot_steps

    @property
    def num_snapshots(self) -> int:
        """Of each net, and the most where nets stop early: in few epochs fractions may fall together."""
        return len(self.nets[0].snapshots) if self.kept is None else len(self.kept)

    def __len__(self) -> int:
        return len(self.nets)


def plan(nets: Iterable[Net], stack: int = STACK["cpu"]) -> list[Group]:
    """Groups of at most `stack` nets, of nearly equal size where an architecture and batch size has more.

    Nets of a family that is cheap are trained in `STACKS` times as many (see families/__init__.py).
    """
    alike: dict[tuple[Any, ...], list[Net]] = {}
    for net in nets:
        images = f"n{net.train_images}" + (f"-v{net.valid_images}" if net.valid_images else "")
        alike.setdefault((net.arch_name, net.hyperparameters["batch_size"], images), []).append(net)
    groups: list[Group] = []
    for (arch_name, batch_size, images), members in alike.items():
        members.sort(key=lambda net: (net.hyperparameters["activation"], net.hyperparameters["optimizer"], net.net))
        family = FAMILIES[members[0].arch["family"]]
        parts = -(-len(members) // (stack * getattr(family, "STACKS", 1)))
        for part in range(parts):
            chosen = members[len(members) * part // parts : len(members) * (part + 1) // parts]
            groups.append(Group(f"{arch_name}-b{batch_size}-{images}-{part}", tuple(chosen)))
    return groups


def to_json(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """What zoo.json records of the plan."""
    return [
        {"group": group.name, "nets": [net.net for net in group.nets]}
        | ({} if group.stops_early else {"steps": list(group.snapshot_steps)})
        for group in groups
    ]


def from_json(recorded: Iterable[Mapping[str, Any]], nets: Iterable[Net]) -> list[Group]:
    """The recorded plan, over the nets of the same spec."""
    by_number = {net.net: net for net in nets}
    groups = []
    for entry in recorded:
        members = tuple(by_number[net] for net in entry["nets"])
        steps = tuple(entry["steps"]) if "steps" in entry else members[0].snapshot_steps
        groups.append(Group(entry["group"], members, None if steps == members[0].snapshot_steps else steps))
    return groups


def split(group: Group, acknowledged: Collection[int | None]) -> list[Group]:
    """What replaces a group that needs too much memory: itself with the snapshots that it has, if it has any, and two
    halves with the others. The halves are trained from their start, so that their bits depend on the plan alone.

    A group whose nets stop early has all of its snapshots or none, and is only split before it has them.
    """
    had = tuple(step for step in group.snapshot_steps if step in acknowledged)
    left = tuple(step for step in group.snapshot_steps if step not in acknowledged) if had else group.kept
    middle = len(group) // 2
    halves = {"a": group.nets[:middle], "b": group.nets[middle:]}
    rest = [Group(group.name, group.nets, had)] if had else []
    return rest + [Group(group.name + letter, nets, left) for letter, nets in halves.items()]
