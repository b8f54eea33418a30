import json

import pytest

from metanet.zoo import plan
from metanet.zoo.spec import check_spec, load_spec


def test_groups_hold_every_net_once_and_only_equal_shapes(tiny_spec):
    nets = check_spec(tiny_spec | {"num_nets": 100}, "here").nets()
    groups = plan.plan(nets, stack=8)
    assert sorted(net.net for group in groups for net in group.nets) == list(range(100))
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert len(group) <= 8
        assert {net.arch_name for net in group.nets} == {group.arch_name}
        assert {net.hyperparameters["batch_size"] for net in group.nets} == {group.batch_size}
        assert {(net.steps, net.snapshot_steps) for net in group.nets} == {(group.steps, group.snapshot_steps)}


@pytest.mark.parametrize("num_nets", [3, 10, 47, 80])
@pytest.mark.parametrize("stack", [1, 2, 5, 12])
def test_groups_of_one_architecture_and_batch_size_differ_by_one_net_at_most(tiny_spec, num_nets, stack):
    groups = plan.plan(check_spec(tiny_spec | {"num_nets": num_nets}, "here").nets(), stack)
    for group in groups:
        alike = [len(other) for other in groups if other.name.rsplit("-", 1)[0] == group.name.rsplit("-", 1)[0]]
        assert max(alike) - min(alike) <= 1


def test_equal_activations_and_optimizers_stand_side_by_side(tiny_spec):
    for group in plan.plan(check_spec(tiny_spec | {"num_nets": 100}, "here").nets(), stack=16):
        values = [(net.hyperparameters["activation"], net.hyperparameters["optimizer"]) for net in group.nets]
        assert values == sorted(values)


def test_a_recorded_plan_comes_back_as_it_was(tiny_spec):
    nets = check_spec(tiny_spec, "here").nets()
    groups = plan.plan(nets, stack=2)
    recorded = json.loads(json.dumps(plan.to_json(groups)))
    assert plan.from_json(recorded, nets) == groups
    assert recorded[0]["steps"] == list(groups[0].snapshot_steps)


def test_a_split_group_keeps_its_snapshots_and_its_halves_get_the_others(tiny_spec):
    nets = check_spec(tiny_spec, "here").nets()
    group = max(plan.plan(nets), key=len)
    first, *others = group.snapshot_steps
    kept, a, b = plan.split(group, [first])
    assert (kept.name, kept.nets, kept.snapshot_steps) == (group.name, group.nets, (first,))
    assert (a.name, b.name) == (group.name + "a", group.name + "b")
    assert a.nets + b.nets == group.nets
    assert a.snapshot_steps == b.snapshot_steps == tuple(others)
    assert plan.from_json(json.loads(json.dumps(plan.to_json([kept, a, b]))), nets) == [kept, a, b]
    assert [len(part) for part in plan.split(group, [])] == [len(a), len(b)]
    assert plan.split(group, [])[0].snapshot_steps == group.snapshot_steps


def test_nets_that_are_little_work_make_larger_groups():
    spec = load_spec("zoo_specs/inr.yaml", {"num_nets": 130})
    assert [len(group) for group in plan.plan(spec.nets(), stack=16)] == [43, 43, 44]
