import dataclasses
import types

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet.dataset import Dataset, Nets, Schema
from metanet.splits import PARTS


@pytest.fixture(scope="module")
def dataset(tiny_zoo) -> Dataset:
    return Dataset(tiny_zoo)


def changed(zoo, **attributes):
    """The zoo with attributes replaced, the rest unchanged and shared."""
    other = object.__new__(type(zoo))
    other.__dict__.update(zoo.__dict__ | attributes)
    return other


def with_column(zoo, name, values):
    return changed(zoo, manifest=zoo.manifest.set_column(zoo.manifest.column_names.index(name), name, pa.array(values)))


def test_targets_are_found_in_the_zoo_and_the_constant_ones_left_out(dataset):
    found = {target.name: target for target in dataset.targets}
    assert set(found) == {
        *("optimizer", "learning_rate", "batch_size", "activation", "initialisation", "augmentation", "dropout"),
        *("test_accuracy", "generalisation_gap", "snapshot_fraction"),
    }
    assert found["learning_rate"].log
    assert found["batch_size"].classes == ("32", "64")
    assert dataset.left_out == {
        "weight_decay": "the same for every net (0)",
        "image_set": "the same for every net (digits)",
    }


def test_no_template_shows_what_is_predicted(dataset, tiny_zoo):
    shown = {o.kind for nets in dataset.nets for space in nets.template.spaces for o in space.operations}
    assert "hidden" in shown
    assert not shown & {"relu", "tanh"}
    assert len(dataset.nets) == len(tiny_zoo.archs)
    others = Dataset(tiny_zoo, targets=["optimizer"])
    assert len(others.nets) > len(tiny_zoo.archs)
    assert {o.kind for nets in others.nets for s in nets.template.spaces for o in s.operations} & {"relu", "tanh"}


def test_every_net_has_its_own_weights_and_truth(dataset, tiny_zoo):
    seen = 0
    for nets in dataset.nets:
        for place, row in enumerate(nets.rows.tolist()):
            about = tiny_zoo.manifest.slice(row, 1).to_pylist()[0]
            state_dict = tiny_zoo.state_dict(about["net"], about["step"])
            for name, tensor in nets.params.items():
                torch.testing.assert_close(tensor[place], state_dict[name])
            for target in dataset.targets:
                if target.kind == "classification":
                    assert target.classes[int(nets.targets[target.name][place])] == _text(about[target.name])
            seen += 1
    assert seen == len(dataset) == tiny_zoo.manifest["status"].to_pylist().count("ok")


def _text(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_standardised_values_have_mean_0_and_variance_1_over_the_training_nets(dataset):
    for target in dataset.targets:
        if target.kind == "regression":
            values = torch.cat([nets.targets[target.name] for nets in dataset.part("train")])
            torch.testing.assert_close(values.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
            torch.testing.assert_close(values.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)


@settings(max_examples=20)
@given(
    part=st.sampled_from(PARTS),
    batch_nets=st.integers(1, 40),
    batch_elements=st.integers(1, 20_000),
    seed=st.none() | st.integers(0, 2**31),
    together=st.integers(1, 9),
)
def test_batches_hold_each_net_once_within_their_caps(dataset, part, batch_nets, batch_elements, seed, together):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rows = []
    for batch in dataset.batches(part, batch_nets, batch_elements, generator, together):
        count = sum(map(len, batch))
        elements = sum(tensor.numel() for nets in batch for tensor in nets.params.values())
        assert count == 1 or (count <= batch_nets and elements <= batch_elements)
        assert len({nets.arch for nets in batch}) == len(batch)
        rows += [row for nets in batch for row in nets.rows.tolist()]
    assert sorted(rows) == sorted(row for nets in dataset.part(part) for row in nets.rows.tolist())
    assert len(rows) == dataset.count(part)


def test_batches_repeat_with_the_generator_and_differ_without(dataset):
    def rows(seed: int) -> list[list[int]]:
        batches = dataset.batches("train", 8, 10**9, torch.Generator().manual_seed(seed), together=2)
        return [[row for nets in batch for row in nets.rows.tolist()] for batch in batches]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_the_last_batch_is_nearly_as_large_as_the_others(dataset):
    sizes = [sum(map(len, batch)) for batch in dataset.batches("train", dataset.count("train") - 1, 10**9)]
    assert len(sizes) == 2
    assert abs(sizes[0] - sizes[1]) <= 1


def test_the_last_snapshots_alone_have_no_snapshot_fraction_to_predict(tiny_zoo):
    last = Dataset(tiny_zoo, snapshots="last")
    assert "snapshot_fraction" in last.left_out
    assert len(last) <= len(set(tiny_zoo.manifest["net"].to_pylist()))


def test_diverged_nets_are_left_out(tiny_zoo):
    status = tiny_zoo.manifest["status"].to_pylist()
    status[0] = "diverged"
    rows = [row for nets in Dataset(with_column(tiny_zoo, "status", status)).nets for row in nets.rows.tolist()]
    assert 0 not in rows
    assert 1 in rows
    with pytest.raises(ValueError, match="no net with status ok among 36 rows"):
        Dataset(with_column(tiny_zoo, "status", ["diverged"] * 36))


def test_a_schema_survives_json(dataset):
    again = Schema.from_json(dataset.schema.to_json())
    assert again.targets == dataset.schema.targets
    assert again.hidden == dataset.schema.hidden
    assert again.templates == dict(dataset.schema.templates)


def test_another_zoo_is_read_with_the_classes_and_scales_of_the_run(dataset, tiny_zoo):
    kept = [target for target in dataset.schema.targets if target.name in ("optimizer", "learning_rate")]
    trained = dataclasses.replace(kept[0], classes=("momentum", "nadam"))
    schema = dataclasses.replace(dataset.schema, targets=(trained, kept[1]))
    other = Dataset(tiny_zoo, schema=schema)
    assert other.targets == schema.targets
    assert other.count("test") == len(other)
    optimizer = np.array(tiny_zoo.manifest["optimizer"].to_pylist())
    seen = np.isfinite(other.encoded["optimizer"])
    np.testing.assert_array_equal(other.encoded["optimizer"][seen], np.where(optimizer == "momentum", 0, -1)[seen])


def test_the_target_that_a_split_holds_out_is_left_out(tiny_zoo):
    split = {"column": "batch_size", "values": [64], "valid": 0.3, "test": None}
    assert Dataset(tiny_zoo, split=split).left_out["batch_size"] == "held out by the split"
    with pytest.raises(ValueError, match="batch_size cannot be a target: held out by the split"):
        Dataset(tiny_zoo, "batch_size", split)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "optimiser"}, "did you mean optimizer"),
        ({"targets": ["image_set"]}, r"image_set cannot be a target: the same for every net \(digits\)"),
        ({"snapshots": "first"}, "snapshots=first: expected all or last"),
    ],
)
def test_a_wrong_choice_says_what_there_is(tiny_zoo, arguments, message):
    with pytest.raises(ValueError, match=message):
        Dataset(tiny_zoo, **arguments)


def test_a_net_with_nan_weights_is_an_error_that_names_it(tiny_zoo):
    def poisoned(path):
        tensors = {name: tensor.clone() for name, tensor in tiny_zoo._load(path).items()}
        next(iter(tensors.values()))[0] = torch.nan
        return tensors

    with pytest.raises(ValueError, match=r"of net \d+ at step \d+ has values that are not finite"):
        Dataset(changed(tiny_zoo, _load=poisoned))


def test_a_zoo_in_the_making_is_refused(tiny_zoo, tmp_path):
    unfinished = types.new_class("Unfinished", (type(tiny_zoo),), exec_body=lambda body: body.update(finished=False))
    zoo = object.__new__(unfinished)
    zoo.__dict__.update(tiny_zoo.__dict__)
    with pytest.raises(ValueError, match="not finished, and its splits would change"):
        Dataset(zoo)


def test_selected_nets_keep_their_truths(dataset):
    nets: Nets = dataset.nets[0]
    chosen = nets.select(torch.tensor([2, 0]))
    assert chosen.rows.tolist() == nets.rows[[2, 0]].tolist()
    for name in nets.targets:
        torch.testing.assert_close(chosen.targets[name], nets.targets[name][[2, 0]])
