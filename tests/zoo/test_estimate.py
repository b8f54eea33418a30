"""An estimate covers every group, and is in proportion to what there is to do."""

from dataclasses import replace

import pytest

from metanet.zoo import estimate, plan
from metanet.zoo.estimate import Measured
from metanet.zoo.spec import Spec, check_spec


@pytest.fixture
def spec(tiny_spec) -> Spec:
    return check_spec(tiny_spec | {"num_nets": 30, "num_architectures": 5, "architectures": FAMILIES}, "here")


FAMILIES = [
    {"family": "mlp", "weight": 2, "depth": [2, 3], "width": [8, 24], "batch_norm": False},
    {"family": "small_cnn", "conv_depth": 2, "conv_width": [4, 12, 16], "batch_norm": False},
]


def test_the_sample_holds_the_cheapest_and_the_dearest_group_of_every_family(spec, monkeypatch):
    monkeypatch.setattr(estimate, "SAMPLES", 6)
    groups = plan.plan(spec.nets())
    sample = estimate._sample(groups)
    for family in ("mlp", "small_cnn"):
        members = sorted((group for group in groups if group.arch["family"] == family), key=estimate._unit)
        chosen = [group for group in sample if group.arch["family"] == family]
        assert len(chosen) == min(3, len(members))
        assert chosen[0] is members[0]
        assert chosen[-1] is members[-1]


def test_a_measured_group_is_estimated_at_what_was_measured(spec):
    groups = plan.plan(spec.nets())
    measured = {group.name: Measured(step=0.01 * i, evaluation=0.2) for i, group in enumerate(groups, 1)}
    for i, group in enumerate(groups, 1):
        evaluations = 2 * 64 / (2 * estimate.EVAL_BATCH) * len(group.snapshot_steps)  # of 64 images of either part
        expected = group.steps * 0.01 * i + 0.2 * evaluations
        assert estimate.interpolated(group, [group], measured) == pytest.approx(expected)


def test_twice_the_epochs_take_twice_as_long(spec):
    groups = plan.plan(spec.nets())
    measured = {group.name: Measured(step=0.01, evaluation=0.0) for group in groups}
    for group in groups:
        nets = tuple(replace(net, epochs=2 * net.epochs) for net in group.nets)
        once, twice = (estimate.interpolated(of, [group], measured) for of in (group, replace(group, nets=nets)))
        assert twice == pytest.approx(2 * once)


def test_the_time_is_written_as_people_write_it():
    text = str(estimate.Estimate(seconds=3725.4, processes=2, bytes=1_234_567_890))
    assert "time           about 1:02:05 in 2 processes here" in text
    assert "memory         about 1,235 MB in each" in text
