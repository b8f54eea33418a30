"""Trains one group of nets that stop early, each by itself, so that its snapshots lie at fractions of its own training.

When a net ends is known only then. So after every epoch the weights of the nets that may still have a snapshot there
(`early_stopping.choosable`) are handed over as *candidates*, and what no end that is still possible asks for can go.
When all nets have ended, `StoppingFit.snapshots` picks each net's own from them, and measures these.

What is trained shrinks: once at most half of the nets of a stack still train (the others have stopped or diverged), the
stack is made anew of these alone. That changes the rounding of what follows, so it happens between two epochs, by the
plan and by when nets ended alone, and the state that training goes on from tells which nets were left: its bits do not
depend on interruptions.

A net that diverges keeps its last finite weights, as everywhere. Its accuracy stays what it was at the end of the epoch
in which it diverged, until it stops by the rule; all its later snapshots are those weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metanet.zoo.early_stopping import EarlyStopping, choosable, chosen
from metanet.zoo.fit import Snapshot, Training
from metanet.zoo.images import Images
from metanet.zoo.plan import Group
from metanet.zoo.way import Way


@dataclass(frozen=True)
class Candidate:
    """Nets of a group after one epoch, of which each may have a snapshot there; on the CPU."""

    nets: list[int]  # places in the group
    state_dict: Mapping[str, Tensor]  # [nets, *shape] each


class StoppingFit:
    """A group whose nets stop early, in training: `begin` or `load`, and then `advance` until it is `over`.

    Args:
        images: every image set of the group, in the architecture's image shape, on `device`.
        seed: of the zoo.

    Raises:
        ValueError: images that do not fit the group, or a layer that cannot be stacked.
    """

    def __init__(
        self,
        group: Group,
        images: Mapping[str, Images],
        seed: int,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        way: Way = Way(),  # noqa: B008 (frozen)
    ):
        self.group, self.epoch = group, 0
        self.stopping = EarlyStopping(torch.tensor([net.hyperparameters["early_stopping"] for net in group.nets]))
        self.frozen = [-1] * len(group)  # after so many epochs a net was found diverged
        self.stack: list[int] = []  # places in the group of the nets that are in `training`
        self.training: Training | None = None
        self.candidate: Candidate | None = None  # of this epoch; None if no net can have a snapshot there
        self._of = images, seed, torch.device(device), dtype, way

    @property
    def over(self) -> bool:
        """Whether all nets have ended."""
        return bool((self.stopping.ended >= 0).all())

    def begin(self) -> None:
        """Before the first step."""
        self._train(range(len(self.group)))
        self._end_epoch()

    def advance(self) -> Iterator[int]:
        """Trains an epoch, a step of so many nets for every iteration, and finds out which nets end with it."""
        assert self.training is not None
        self.epoch += 1
        yield from self.training.advance(self.epoch * self.group.steps_per_epoch)
        self._end_epoch()

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on from here, bit for bit; on the CPU."""
        trained = {} if self.training is None else self.training.state()
        stopping = {f"stopping.{name}": value.clone() for name, value in self.stopping.state().items()}
        numbers = {"epoch": self.epoch, "frozen": self.frozen, "stack": self.stack}
        of_group = {name: torch.tensor(value, dtype=torch.int64) for name, value in numbers.items()}
        return trained | stopping | of_group

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from the `state` of the same group after any epoch."""
        for name, value in self.stopping.state().items():
            value.copy_(state[f"stopping.{name}"])
        self.epoch = int(state["epoch"])
        self.frozen = state["frozen"].tolist()
        if not self.over:
            self._train(state["stack"].tolist(), state)

    def needed(self) -> set[int]:
        """The epochs up to this one whose candidates some net has or can still have a snapshot in."""
        epochs = {self._held(place, epoch) for place, of_net in enumerate(self._epochs()) for epoch in of_net}
        return {epoch for epoch in epochs if epoch <= self.epoch}

    def snapshots(self, candidate: Callable[[int], Candidate]) -> Snapshot:
        """All snapshots of all nets, net after net, when it is over; `candidate` gives what was handed over after an
        epoch.
        """
        assert self.over
        rows = [(place, epoch) for place, epochs in enumerate(self._epochs()) for epoch in sorted(epochs)]
        state_dict: dict[str, Tensor] = {}
        held: dict[int, list[int]] = {}
        for row, of in enumerate(rows):
            held.setdefault(self._held(*of), []).append(row)
        for epoch, into in held.items():
            kept = candidate(epoch)
            there = {place: row for row, place in enumerate(kept.nets)}
            taken = [there[rows[row][0]] for row in into]
            for name, value in kept.state_dict.items():
                of_all = state_dict.setdefault(name, value.new_empty(len(rows), *value.shape[1:]))
                of_all[into] = value[taken]
        ends, steps = self.stopping.ended.tolist(), self.group.steps_per_epoch
        return Snapshot(
            step=None,
            nets=[place for place, _ in rows],
            steps=[epoch * steps for _, epoch in rows],
            ends=[ends[place] * steps for place, _ in rows],
            state_dict=state_dict,
            metrics=self._metrics([place for place, _ in rows], state_dict),
            diverged=torch.tensor([0 <= self.frozen[place] <= epoch for place, epoch in rows]),
            resume_state={},
        )

    def _metrics(self, places: Sequence[int], state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of every row: of the first snapshots of all nets at once, of their second ones, ..."""
        of_net: list[list[int]] = [[] for _ in self.group.nets]
        for row, place in enumerate(places):
            of_net[place].append(row)
        training = self._training(range(len(self.group)))
        found: dict[str, Tensor] = {}
        for number in range(max(map(len, of_net))):
            own = [of[min(number, len(of) - 1)] for of in of_net]
            for name, value in training.measured({name: value[own] for name, value in state_dict.items()}).items():
                found.setdefault(name, value.new_empty(len(places)))[own] = value
        return found

    def _epochs(self) -> list[frozenset[int]]:
        """After which epochs each net has snapshots, or may have some."""
        last = self.group.epochs
        return [
            frozenset(chosen(net.snapshots, end))
            if end >= 0
            else choosable(net.snapshots, net.hyperparameters["early_stopping"], self.epoch, last)
            for net, end in zip(self.group.nets, self.stopping.ended.tolist(), strict=True)
        ]

    def _held(self, place: int, epoch: int) -> int:
        """The epoch whose candidates have what a net was after `epoch` epochs."""
        frozen = self.frozen[place]
        return epoch if frozen < 0 else min(epoch, frozen)

    def _end_epoch(self) -> None:
        """Finds out which nets have ended, takes the candidates, and makes a stack smaller that has few left in it."""
        training, trained = self.training, self._trained()
        assert training is not None
        row_of = {place: row for row, place in enumerate(self.stack)}
        self._measure(training, {place: row_of[place] for place in trained})
        epochs = self._epochs()
        own = [place for place in trained if self.epoch in {self._held(place, epoch) for epoch in epochs[place]}]
        weights = training.weights_of([row_of[place] for place in own])
        self.candidate = Candidate(own, weights) if own else None
        going = self._trained()
        if self.over:
            self.training, self.stack = None, []
        elif 2 * len(going) <= len(self.stack):
            state = training.state_of([row_of[place] for place in going])
            self.training = training = None  # gives its memory back before the next one takes some
            self._train(going, state)
        else:
            self._mark_ended()

    def _measure(self, training: Training, row_of: Mapping[int, int]) -> None:
        """The nets that were trained in this epoch, by their place; ends those that end."""
        stopping, last, alive = self.stopping, self.group.epochs, training.alive.tolist()
        for place, row in row_of.items():
            if not alive[row]:
                self.frozen[place] = self.epoch
        if self.epoch < last:
            accuracy = stopping.accuracy.clone()
            accuracy[list(row_of)] = training.validate()[list(row_of.values())]
            stopping.measure(accuracy, self.epoch)
        over = self.epoch == last
        if not self._trained():  # what has not ended has diverged, and stays as it is
            for epoch in range(self.epoch + 1, last):
                stopping.measure(stopping.accuracy.clone(), epoch)
            over = True
        if over:
            stopping.ended.copy_(torch.where(stopping.ended < 0, last, stopping.ended))

    def _trained(self) -> list[int]:
        """Places of the nets that are to be trained on."""
        ended = self.stopping.ended.tolist()
        return [place for place, frozen in enumerate(self.frozen) if frozen < 0 and ended[place] < 0]

    def _mark_ended(self) -> None:
        """Those that are left in the stack."""
        assert self.training is not None
        going = (self.stopping.ended < 0)[self.stack]
        self.training.going = None if going.all() else going.to(self.training.alive.device)

    def _train(self, places: Sequence[int], state: Mapping[str, Tensor] | None = None) -> None:
        """Makes a stack of these nets, from their start or their state."""
        self.stack, self.training = list(places), self._training(places)
        if state is not None:
            self.training.load(state)
            self._mark_ended()

    def _training(self, places: Sequence[int]) -> Training:
        return Training(replace(self.group, nets=tuple(self.group.nets[place] for place in places)), *self._of)
