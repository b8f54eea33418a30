"""A net that stops early is the net that an ordinary loop stops there, with snapshots at fractions of its own training,
and no other net notices.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metanet.zoo.early_stopping import LEAST, EarlyStopping, choosable, chosen
from metanet.zoo.fit import Snapshot
from metanet.zoo.fit_stopping import Candidate, StoppingFit
from metanet.zoo.plan import Group
from metanet.zoo.replay import Replay
from metanet.zoo.spec import check_spec, load_spec
from metanet.zoo.way import Way
from tests.zoo.plain_loop import CNN, MLP, SEED, group, plain_fit, stops
from tests.zoo.test_replay import by_calling_again

EPOCHS = 14
# rates from those that learn steadily to those that jump about
RESTLESS = [
    {"early_stopping": 1 + i % 2, "learning_rate": rate, "image_set": ("digits", "negative")[i % 2]}
    for i, rate in enumerate((1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1))
]
DIVERGING = {"early_stopping": 1, "learning_rate": 1e200, "optimizer": "sgd"}


def stopping(changes=RESTLESS, arch=MLP, epochs: int = EPOCHS, snapshots: int = 5) -> Group:
    """Nets with snapshots at equal distances."""
    of = group(changes, arch, steps=(epochs, 3))
    fractions = tuple(np.linspace(0, 1, snapshots).tolist())
    return Group(of.name, tuple(replace(net, snapshots=fractions) for net in of.nets))


class Kept:
    """A training from its start or a state to its end, with what it hands over after every epoch."""

    def __init__(self, of: Group, images, dtype=torch.float64, way: Way | None = None, resume: "Kept | None" = None):
        self.fit = StoppingFit(of, images, SEED, "cpu", dtype, way or Way())
        self.candidates: dict[int, Candidate] = {}
        self.states: list[dict[str, Tensor]] = []
        self.stacks: list[list[int]] = []
        self.needed: list[set[int]] = []
        if resume is None:
            self.fit.begin()
        else:
            self.candidates = {epoch: resume.candidates[epoch] for epoch in resume.needed[-1]}
            self.fit.load(resume.states[-1])
        while True:
            self._keep()
            if self.fit.over:
                break
            for _ in self.fit.advance():
                pass

    def _keep(self) -> None:
        if self.fit.candidate is not None:
            self.candidates[self.fit.epoch] = self.fit.candidate
        self.needed.append(self.fit.needed())
        self.states.append(self.fit.state())
        self.stacks.append(list(self.fit.stack))

    def until(self, epoch: int) -> "Kept":
        """What was kept by then."""
        before = copy.copy(self)
        before.states, before.needed = self.states[: epoch + 1], self.needed[: epoch + 1]
        return before

    def snapshots(self) -> Snapshot:
        return self.fit.snapshots(lambda epoch: self.candidates[epoch])


@given(
    accuracies=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=40),
    tolerance=st.integers(0, 3),
)
def test_a_net_ends_by_the_published_rule(accuracies, tolerance):
    found = EarlyStopping(torch.tensor([tolerance, 0]))
    expected = next(
        (epoch for epoch in range(len(accuracies)) if tolerance and stops(accuracies[: epoch + 1], tolerance)), -1
    )
    for epoch, accuracy in enumerate(accuracies):
        found.measure(torch.tensor([accuracy, accuracy], dtype=torch.float64), epoch)
    assert found.ended.tolist() == [expected, -1]


def test_five_falls_in_a_row_end_a_net_of_the_published_tolerance_after_nineteen_epochs_or_more():
    rising = [0.01 * i for i in range(16)]
    assert not stops([*rising, 0.5, 0.4, 0.3, 0.2], 5)
    assert stops([*rising, 0.5, 0.4, 0.3, 0.3, 0.2, 0.1, 0.05], 5)
    assert not stops([0.5, 0.4, 0.3, 0.2, 0.1, 0.05], 5)
    assert stops([0.1] * 31, 5)
    assert not stops([0.1] * 30, 5)


@given(
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=6).map(lambda of: tuple(sorted(of))),
    tolerance=st.integers(1, 4),
    last=st.integers(1, 40),
    data=st.data(),
)
def test_what_may_still_be_chosen_is_what_some_end_that_is_possible_chooses(fractions, tolerance, last, data):
    epoch = data.draw(st.integers(0, last - 1))
    ends = [end for end in range(epoch + 1, last + 1) if end >= LEAST * tolerance - 1 or end == last]
    found = choosable(fractions, tolerance, epoch, last)
    assert found == {round(fraction * end) for fraction in fractions for end in ends}
    kept = [own for own in found if own <= epoch]
    assert len(kept) <= min(epoch + 1, sum(fraction * (last - epoch) + 2 for fraction in fractions))


def test_snapshots_lie_where_the_neural_weight_space_has_them():
    fractions = load_spec("zoo_specs/nws_main.yaml", {"num_nets": 243}).nets()[0].snapshots
    for end in range(19, 1001):
        assert chosen(fractions, end) == tuple(np.round(np.linspace(0, end, 20)).astype(int).tolist())
    kept = [len([own for own in choosable(fractions, 5, epoch, 100) if own <= epoch]) for epoch in range(100)]
    assert max(kept) == kept[84] == 77


@pytest.mark.parametrize("arch", [MLP, CNN], ids=lambda arch: arch["family"])
def test_every_snapshot_of_a_net_that_stops_early_is_that_of_a_plain_loop_that_stops(arch, images):
    changes: list[dict[str, Any]] = [{**change, "optimizer": "sgd"} for change in RESTLESS]
    if arch is CNN:
        changes = [{**change, "early_stopping": 1} for change in changes]
    of = stopping([*changes, DIVERGING] if arch is MLP else changes, arch)
    kept = Kept(of, images)
    found = kept.snapshots()
    ends = kept.fit.stopping.ended.tolist()
    assert len(set(ends)) > 2, "the test needs nets that end at different times"
    assert len({len(stack) for stack in kept.stacks}) > 2, "the test needs a stack that shrinks"
    row = 0
    for place, net in enumerate(of.nets):
        plain: list[tuple[dict[str, Tensor], dict[str, float], bool]] = []

        def keep(module, metrics, diverged, plain=plain):
            state = {name: value.clone() for name, value in module.state_dict().items()}
            plain.append((state, metrics, diverged))

        plain_fit(net, images[net.image_set], keep)
        end = len(plain) - 1
        assert ends[place] == end
        for epoch in sorted(set(np.round(np.linspace(0, end, 5)).astype(int).tolist())):
            assert (found.nets[row], found.steps[row], found.ends[row]) == (place, 3 * epoch, 3 * end)
            state_dict, metrics, diverged = plain[epoch]
            for name, value in state_dict.items():
                torch.testing.assert_close(found.state_dict[name][row], value, rtol=1e-6, atol=1e-7)
            measured = {name: value[row].item() for name, value in found.metrics.items()}
            assert measured == pytest.approx(metrics, rel=1e-5, nan_ok=True)
            assert bool(found.diverged[row]) == diverged
            row += 1
    assert row == len(found.nets)
    assert found.diverged.any() == (arch is MLP)


def test_neighbours_do_not_notice_that_a_net_stops(images):
    """As long as the stack stays as it is: one that shrinks changes its rounding."""
    usual = {"early_stopping": 3, "learning_rate": 1e-3}
    calm, restless = (
        Kept(stopping([usual, usual | change, usual], CNN, epochs=12, snapshots=13), images, torch.float32)
        for change in ({}, {"early_stopping": 1, "learning_rate": 0.3})
    )
    assert restless.fit.stopping.ended[1] < 10
    assert restless.stacks[10] == calm.stacks[10] == [0, 1, 2]
    epochs = [epoch for epoch in calm.candidates if epoch <= 10]
    assert epochs == list(range(11))
    for epoch in epochs:
        one, other = calm.candidates[epoch], restless.candidates[epoch]
        for place in (0, 2):
            rows = one.nets.index(place), other.nets.index(place)
            for name, value in one.state_dict.items():
                assert torch.equal(value[rows[0]], other.state_dict[name][rows[1]])


def same(one: Snapshot, other: Snapshot) -> bool:
    assert (one.nets, one.steps, one.ends) == (other.nets, other.steps, other.ends)
    pairs = [*zip(one.state_dict.values(), other.state_dict.values(), strict=True)]
    pairs += zip(one.metrics.values(), other.metrics.values(), strict=True)
    return all(torch.equal(value, again) for value, again in [*pairs, (one.diverged, other.diverged)])


MIXED = [
    *RESTLESS,
    *({"early_stopping": 1, "learning_rate": 0.02, "optimizer": name} for name in ("rmsprop", "momentum", "adamw")),
    {"early_stopping": 2, "learning_rate": 1e38, "activation": "tanh"},
]


def test_training_goes_on_from_any_epoch_bit_for_bit_with_the_candidates_that_are_needed_there(images):
    kept = Kept(stopping(MIXED, CNN), images, torch.float32)
    assert len({len(stack) for stack in kept.stacks}) > 2
    expected = kept.snapshots()
    assert expected.diverged.any()
    for epoch in (0, 1, *range(4, len(kept.states), 4)):
        assert same(Kept(kept.fit.group, images, torch.float32, resume=kept.until(epoch)).snapshots(), expected), epoch


def test_a_state_holds_everything_that_matters(images):
    """The twin: with any one tensor of the state spoilt, resumed training goes elsewhere."""
    kept = Kept(stopping([{**change, "early_stopping": 2} for change in RESTLESS]), images, torch.float32)
    expected, half = kept.snapshots(), kept.until(5)
    state = half.states[-1]
    spoilt = {"weights": 1, "frozen": 1, "accuracy": 1, "mean": 1, "measured": -99, "falls": 9, "below": 9, "same": 20}
    for name, change in spoilt.items():
        name = name if name in state else f"stopping.{name}"
        half.states = [state | {name: state[name] + change}]
        try:
            found = Kept(kept.fit.group, images, torch.float32, resume=half).snapshots()
            changed = not same(found, expected)
        except (AssertionError, KeyError):
            changed = True
        assert changed, name


def test_a_stack_in_which_all_have_stopped_or_diverged_is_trained_no_further(images):
    of = stopping([{"early_stopping": 1, "learning_rate": 0.3}, DIVERGING], epochs=60)
    kept = Kept(of, images, torch.float32)
    assert kept.stacks[-1] == []
    frozen, ended = kept.fit.frozen[1], int(kept.fit.stopping.ended[1])
    assert len(kept.states) - 1 == max(frozen, int(kept.fit.stopping.ended[0])) < 20
    assert frozen == 1
    assert ended in (6, 7)  # six times in a row the same, maybe the same as before training
    found = kept.snapshots()
    assert found.steps[-1] == 3 * ended
    assert found.diverged.tolist() == [False] * 6 + [True] * 4


@pytest.mark.parametrize("graphs", [False, True])
def test_a_stack_that_shrinks_is_recorded_anew(images, monkeypatch, graphs):
    """Only a GPU records; here the recording is played by calling again."""
    recorded: list[int] = []

    def record(run: Callable[..., Tensor], inputs: list[Tensor]):
        recorded.append(len(inputs[0]))
        return by_calling_again(run, inputs)

    monkeypatch.setattr(Replay, "_record", staticmethod(record))
    of = stopping(arch=CNN)
    kept = Kept(of, images, torch.float32, Way(graphs=graphs))
    assert same(kept.snapshots(), Kept(of, images, torch.float32).snapshots())
    sizes = [len(stack) for stack in kept.stacks if stack]
    assert recorded == (sorted(set(sizes), reverse=True) if graphs else [])
    assert all(after == before or after <= before / 2 for before, after in pairwise(sizes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"early_stopping": -1}, "early_stopping: found -1, expected an integer of at least 0"),
        ({"early_stopping": 2.5}, "early_stopping: found 2.5, expected an integer"),
        (
            {"early_stopping": 1},
            "spec tiny: early_stopping 1 measures a net 4 times .*, after 3 epochs at the earliest; found 2 epochs",
        ),
    ],
)
def test_a_tolerance_that_means_nothing_is_refused(tiny_spec, change, message):
    tiny_spec["hyperparameters"] |= change
    with pytest.raises(ValueError, match=message):
        check_spec(tiny_spec, "here").nets()


def test_epochs_that_are_too_few_for_the_snapshots_are_refused(tiny_spec):
    tiny_spec["hyperparameters"] |= {"early_stopping": 1}
    few = {"epochs": 4, "snapshots": [i / 5 for i in range(6)]}
    with pytest.raises(ValueError, match=r"snapshots between epochs; 4 epochs are too few for the snapshots \[0"):
        check_spec(tiny_spec | few, "here").nets()


def test_too_few_images_to_keep_any_for_validation_are_refused(tiny_spec):
    tiny_spec["hyperparameters"] |= {"early_stopping": 1, "batch_size": 2}
    with pytest.raises(ValueError, match="early_stopping 1 needs one training image in 10 for validation; found 9"):
        check_spec(tiny_spec | {"epochs": 9, "train_images": 9}, "here").nets()


def test_the_neural_weight_space_stops_as_published():
    for name in ("nws_main", "nws_fixed"):
        for net in load_spec(f"zoo_specs/{name}.yaml", {"num_nets": 300}).nets():
            assert net.hyperparameters["early_stopping"] == 5
            kept = {"stl10": (4500, 500)}.get(net.image_set, (45_000, 5000))
            assert (net.train_images, net.valid_images) == kept
