"""What a group in training hands over and goes on from; that no net feels another."""

import gc
import weakref

import pytest
import torch

from metanet import seeding
from metanet.zoo import nets
from metanet.zoo.fit import Training
from metanet.zoo.initialisations import initialise
from tests.zoo.plain_loop import CNN, SEED, group, snapshots


def test_a_snapshot_has_the_state_of_the_module_and_the_metrics(images):
    of = group([{}, {}])
    first, middle, last = snapshots(of, images, torch.float32)
    assert [(shot.step, shot.steps) for shot in (first, middle, last)] == [(step, [step, step]) for step in (0, 6, 12)]
    nets.build(CNN).load_state_dict({name: value[1] for name, value in last.state_dict.items()})
    assert list(last.state_dict) == list(nets.build(CNN).state_dict())
    assert set(last.metrics) == {"train_accuracy", "train_loss", "test_accuracy", "test_loss"}
    assert middle.state_dict["conv_norm1.num_batches_tracked"].tolist() == [6, 6]
    assert not any(torch.equal(first.state_dict[name], last.state_dict[name]) for name in first.state_dict)
    fresh = initialise(CNN, ["he_normal"] * 2, seeding.keys(SEED, torch.arange(2), "initialisation"))
    assert all(torch.equal(value, fresh[name]) for name, value in first.state_dict.items())


# no decay for the adaptive ones: see the remark above test_a_stack_equals_plain_loops
MIXED = [
    {"optimizer": optimizer, "augmentation": i % 2 == 0, "dropout": 0.3, "weight_decay": 0.01 if i > 2 else 0.0}
    for i, optimizer in enumerate(("adam", "adamw", "rmsprop", "momentum", "sgd"))
]


def test_training_from_a_snapshot_equals_uninterrupted_training_bit_for_bit(images):
    of = group(MIXED)
    _, middle, last = snapshots(of, images, torch.float32)
    (resumed,) = snapshots(of, images, torch.float32, resume=middle.resume_state)
    for found, expected in ((resumed.state_dict, last.state_dict), (resumed.resume_state, last.resume_state)):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(resumed.metrics[name], value) for name, value in last.metrics.items())
    assert snapshots(of, images, torch.float32, resume=last.resume_state) == []


def test_a_resume_state_holds_everything_that_matters(images):
    """The twin: with any one tensor of the state spoilt, resumed training goes elsewhere."""
    of = group(MIXED)
    _, middle, last = snapshots(of, images, torch.float32)
    for name, value in middle.resume_state.items():
        if value.is_floating_point() and "moment" not in name:
            (resumed,) = snapshots(of, images, torch.float32, middle.resume_state | {name: value + 1e-3})
            assert any(not torch.equal(resumed.state_dict[key], last.state_dict[key]) for key in last.state_dict), name


@pytest.mark.parametrize(
    "wild", [{"learning_rate": 1e38}, {"optimizer": "sgd", "initialisation": "normal", "learning_rate": 1e30}]
)
def test_a_diverged_net_keeps_finite_weights_and_its_neighbours_do_not_notice(wild, images):
    usual = {"gradient_clip": 0.5, "label_smoothing": 0.1, "label_noise": 0.1}
    calm = group([{"optimizer": "adam"} | usual] * 4)
    with_wild = group([usual, {"optimizer": "adam"} | usual | wild, usual, usual])
    for undisturbed, disturbed in zip(
        snapshots(calm, images, torch.float32), snapshots(with_wild, images, torch.float32), strict=True
    ):
        assert not undisturbed.diverged.any()
        for rows in (0, 2, 3):
            for name, value in undisturbed.state_dict.items():
                assert torch.equal(disturbed.state_dict[name][rows], value[rows]), (rows, name)
            for name, value in undisturbed.metrics.items():
                assert torch.equal(disturbed.metrics[name][rows], value[rows]), (rows, name)
    assert disturbed.diverged.tolist() == [False, True, False, False]
    assert all(value.isfinite().all() for value in disturbed.state_dict.values())
    count = disturbed.state_dict["conv_norm1.num_batches_tracked"]
    assert count[1] < 12
    assert (count[[0, 2, 3]] == 12).all()


def test_running_statistics_that_overflow_stop_a_net_whose_loss_is_finite(images):
    training = Training(group([{}, {}]), images, SEED, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        training.parameters["conv1.weight"][1] = 1e22 * torch.rand(3, 1, 3, 3)
    training.step()
    assert training.alive.tolist() == [True, False]
    assert (training.buffers["conv_norm1.running_var"][1] == 1).all()
    assert (training.buffers["conv_norm1.running_var"][0] != 1).all()


def test_a_net_does_not_depend_on_its_company(images):
    together = snapshots(group(MIXED), images)[-1]
    for row, change in enumerate(MIXED):
        alone = snapshots(group([change], first=row), images)[-1]
        for name, value in alone.state_dict.items():
            torch.testing.assert_close(together.state_dict[name][row], value[0], rtol=1e-6, atol=1e-7)


def test_images_of_another_shape_are_refused(images):
    with pytest.raises(ValueError, match=r"group group: image set 'digits' .* shape \(1, 8, 8\), expected \(1, 9, 9\)"):
        snapshots(group([{}], CNN | {"image_shape": [1, 9, 9]}), images)


def test_a_training_that_is_done_gives_its_memory_back_at_once(images):
    """Before Python looks for cycles: a group that needed too much memory must leave it to its halves."""
    training = Training(group([{}, {}]), images, SEED, torch.device("cpu"), torch.float32)
    training.step()
    weights = weakref.ref(training.weights)
    gc.disable()
    try:
        del training
        assert weights() is None
    finally:
        gc.enable()
