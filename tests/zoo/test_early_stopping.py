"""A net that stops early is the net that an ordinary loop stops there, and no other net notices."""

from dataclasses import replace

import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metanet.zoo import plan
from metanet.zoo.early_stopping import EarlyStopping
from metanet.zoo.images import load
from metanet.zoo.make import make_zoo
from metanet.zoo.plan import Group
from metanet.zoo.spec import check_spec, load_spec
from tests.zoo.making import tree
from tests.zoo.plain_loop import CNN, MLP, assert_equals_the_plain_loop, group, snapshots, stops

EPOCHS = 14
# rates from those that learn steadily to those that jump about
RESTLESS = [
    {"early_stopping": 1 + i % 2, "learning_rate": rate, "image_set": ("digits", "negative")[i % 2]}
    for i, rate in enumerate((1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1))
]


def stopping(changes=RESTLESS, arch=MLP, epochs: int = EPOCHS) -> Group:
    """Nets with a snapshot after every third epoch."""
    of = group(changes, arch, steps=(epochs, 3))
    snapshots = (*(epoch / epochs for epoch in range(0, epochs + 1, 3)), 1.0)
    return Group(of.name, tuple(replace(net, snapshots=snapshots) for net in of.nets))


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


@pytest.mark.parametrize("arch", [MLP, CNN], ids=lambda arch: arch["family"])
def test_a_net_that_stops_early_equals_a_plain_loop_that_stops(arch, images):
    of = stopping([{**change, "optimizer": "sgd"} for change in RESTLESS], arch)
    ends = snapshots(of, images)[-1].resume_state["stopping.ended"]
    assert len(set(ends.tolist())) > 2, "the test needs nets that end at different times"
    assert (ends < 0).any() or ends.max() > 3 * 8
    assert_equals_the_plain_loop(of, images)


def test_neighbours_do_not_notice_that_a_net_stops(images):
    usual = {"early_stopping": 3, "learning_rate": 1e-3}
    calm, restless = (
        snapshots(stopping([usual, usual | change, usual], CNN), images, torch.float32)
        for change in ({}, {"early_stopping": 1, "learning_rate": 0.3})
    )
    assert restless[-1].nets == [0, 2]
    for shot, other in zip(calm, restless, strict=True):
        for row in (0, 2):
            one, same = shot.nets.index(row), other.nets.index(row)
            assert all(torch.equal(value[one], other.state_dict[name][same]) for name, value in shot.state_dict.items())
            assert all(torch.equal(value[one], other.metrics[name][same]) for name, value in shot.metrics.items())


def test_snapshots_end_with_the_first_after_the_stop(images):
    of = stopping()
    taken = snapshots(of, images, torch.float32)
    ends = taken[-1].resume_state["stopping.ended"].tolist()
    for place, end in enumerate(ends):
        had = [shot for shot in taken if place in shot.nets]
        assert [shot.step for shot in had] == list(of.snapshot_steps[: len(had)])
        steps = [int(shot.steps[shot.nets.index(place)]) for shot in had]
        assert steps == sorted(set(steps))
        assert steps[-1] == (of.steps if end < 0 else end)
    assert all(len(shot.nets) == len(shot.diverged) == len(shot.metrics["test_loss"]) for shot in taken)


def test_training_goes_on_from_any_snapshot_bit_for_bit(images):
    of = stopping()
    taken = snapshots(of, images, torch.float32)
    for shot in taken[:-1]:
        *_, last = snapshots(of, images, torch.float32, resume=shot.resume_state)
        assert last.nets == taken[-1].nets
        assert all(torch.equal(last.resume_state[name], value) for name, value in taken[-1].resume_state.items())


def test_a_group_of_which_all_nets_have_stopped_is_trained_no_further(images):
    of = stopping([{"early_stopping": 1, "learning_rate": 0.3}] * 2, epochs=60)
    *_, before, last = snapshots(of, images, torch.float32)
    assert before.nets == last.nets == []
    assert last.step == of.steps
    assert torch.equal(before.resume_state["weights"], last.resume_state["weights"])
    assert all(len(value) == 0 for value in last.state_dict.values())


def test_a_zoo_whose_nets_stop_early_is_whole_and_reads_back(tmp_path, tiny_spec):
    tiny_spec |= {"epochs": 10, "snapshots": [0.0, 0.25, 0.5, 0.75, 1.0], "num_nets": 6, "num_architectures": 1}
    tiny_spec["architectures"] = tiny_spec["architectures"][1:]
    tiny_spec["hyperparameters"] |= {"early_stopping": [0, 1], "learning_rate": {"log_uniform": [1e-3, 0.3]}}
    spec = check_spec(tiny_spec, "here")
    groups = plan.plan(spec.nets())
    assert all(len({net.valid_images for net in of.nets}) == 1 for of in groups)
    assert {of.train_images + of.valid_images for of in groups} == {256}
    zoo = make_zoo(spec, tmp_path / "zoo", processes=1)
    assert zoo.verify() == []
    assert zoo.finished
    assert len(zoo) < 5 * spec.num_nets
    for net in range(spec.num_nets):
        rows = zoo.manifest.filter(pc.field("net") == net).to_pylist()
        epochs = [row["epoch"] for row in rows]
        assert epochs == sorted(set(epochs))
        assert (epochs[-1] == 10 and len(epochs) == 5) or rows[-1]["early_stopping"]
        assert len({row["sha256"] for row in rows}) == len(rows)
        assert rows[-1]["test_accuracy"] == pytest.approx(accuracy_of(zoo.module(net, rows[-1]["step"])))
    before = tree(tmp_path / "zoo")
    (tmp_path / "zoo" / "manifest.parquet").unlink()
    make_zoo(spec, tmp_path / "zoo", processes=1)
    assert tree(tmp_path / "zoo") == before


def accuracy_of(net: nn.Module) -> float:
    digits = load("digits", shape=(1, 8, 8))
    found = net(digits.test[:64].float() / 127.5 - 1).argmax(1)
    return (found == digits.test_labels[:64]).double().mean().item()


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
