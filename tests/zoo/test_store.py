import pytest
import torch

import metanet
from metanet.zoo import images, layout, manifest, shards
from metanet.zoo.feed import standardise


def test_the_manifest_has_a_row_per_net_and_snapshot_in_order(tiny_zoo):
    rows = tiny_zoo.manifest.to_pylist()
    assert [(row["net"], row["snapshot_fraction"]) for row in rows] == [
        (net, fraction) for net in range(12) for fraction in (0.0, 0.5, 1.0)
    ]
    assert {row["status"] for row in rows} == {"ok"}
    for name in ("hyperparameters", "architecture", "metrics"):
        assert set(tiny_zoo.columns[name]) <= set(tiny_zoo.manifest.column_names)
    for row in rows:
        arch = tiny_zoo.archs[row["arch"]]
        assert all(row[name] == arch.get(name) for name in tiny_zoo.columns["architecture"])
        assert 0 <= row["test_accuracy"] <= 1


def test_stacked_equals_the_state_dicts_of_its_rows_in_any_order(tiny_zoo):
    generator = torch.Generator().manual_seed(0)
    names = tiny_zoo.manifest["arch"].to_pylist()
    for arch in tiny_zoo.archs:
        rows = torch.tensor([row for row, name in enumerate(names) if name == arch])
        rows = rows[torch.randint(len(rows), (20,), generator=generator)]  # some twice
        stacked = tiny_zoo.stacked(arch, rows)
        assert not any(name.endswith("num_batches_tracked") for name in stacked)
        for place, row in enumerate(rows.tolist()):
            values = tiny_zoo.manifest.slice(row, 1).to_pylist()[0]
            state_dict = tiny_zoo.state_dict(values["net"], values["step"])
            floating = {name: value for name, value in state_dict.items() if value.is_floating_point()}
            assert list(floating) == list(stacked)
            assert all(torch.equal(stacked[name][place], value) for name, value in floating.items())


def test_a_module_has_its_own_weights_and_computes_its_recorded_accuracy(tiny_zoo):
    digits = images.load("digits", shape=(1, 8, 8))
    row = tiny_zoo.manifest.sort_by([("test_accuracy", "descending")]).slice(0, 1).to_pylist()[0]
    module = tiny_zoo.module(row["net"], row["step"])
    assert not module.training
    with torch.no_grad():
        right = module(standardise(digits.test[:64] / 255)).argmax(1) == digits.test_labels[:64]
    assert right.float().mean().item() == pytest.approx(row["test_accuracy"], abs=0.02)
    assert row["test_accuracy"] > 0.3


def test_a_state_dict_belongs_to_the_caller(tiny_zoo):
    before = tiny_zoo.state_dict(0, 0)
    tiny_zoo.state_dict(0, 0)["head.weight"].zero_()
    assert torch.equal(tiny_zoo.state_dict(0, 0)["head.weight"], before["head.weight"])


def test_the_example_input_fits_the_net(tiny_zoo):
    row = tiny_zoo.manifest.slice(0, 1).to_pylist()[0]
    assert tiny_zoo.module(row["net"], row["step"])(tiny_zoo.example_input(row["arch"])).shape == (2, 10)


def test_an_unknown_snapshot_says_which_there_are(tiny_zoo):
    steps = [row["step"] for row in tiny_zoo.manifest.to_pylist() if row["net"] == 4]
    with pytest.raises(ValueError, match=rf"net 4 after 3 steps; expected one of \[0, {steps[1]}, {steps[2]}\]"):
        tiny_zoo.state_dict(4, 3)
    with pytest.raises(ValueError, match=r"found no net 12; expected one of 0\.\.11"):
        tiny_zoo.state_dict(12, 0)
    first, second = sorted(tiny_zoo.archs)[:2]
    row = tiny_zoo.manifest["arch"].to_pylist().index(first)
    with pytest.raises(ValueError, match=f"row {row} is a {first}, expected {second}"):
        tiny_zoo.stacked(second, torch.tensor([row]))


def test_a_folder_without_a_zoo_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no zoo here .*make_zoo.py"):
        metanet.open_zoo(tmp_path)


def test_an_edited_record_is_refused(copy):
    record = copy.path / layout.RECORD
    record.write_text(record.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(ValueError, match=r"zoo\.json: damaged or edited"):
        metanet.open_zoo(copy.path)


def test_a_zoo_of_a_later_schema_is_refused(copy):
    content = layout.read_record(copy.path) | {"schema": 99}
    (copy.path / layout.RECORD).write_bytes(layout.pack(content))
    with pytest.raises(ValueError, match=r"found schema 99, expected one of 1, 2, 3, 4, 5: made by a newer metanet"):
        metanet.open_zoo(copy.path)


def test_weights_that_are_not_finite_are_named_when_they_are_used(copy):
    row = copy.manifest.slice(0, 1).to_pylist()[0]
    path = layout.shard_path(copy.path, row["group"], row["step"])
    tensors, about = shards.load(path)
    tensors = {name: value.clone() for name, value in tensors.items()}
    tensors["head.weight"][row["row"], 0, 0] = float("nan")
    path.write_bytes(shards.pack(tensors, about))
    with pytest.raises(ValueError, match=f"head.weight of net {row['net']} at step 0 has values that are not finite"):
        metanet.open_zoo(copy.path).stacked(row["arch"], torch.tensor([0]))


def test_a_damaged_manifest_is_an_error(copy):
    whole = copy.path / layout.MANIFEST
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"manifest\.parquet: not a readable manifest"):
        metanet.open_zoo(copy.path)


def test_merging_fragments_ignores_their_order(tiny_zoo):
    fragments = {path.name: path.read_bytes() for path in (tiny_zoo.path / "manifest").iterdir()}
    merged = manifest.merge(fragments)
    assert merged == manifest.merge(dict(reversed(fragments.items())))
    assert merged == (tiny_zoo.path / layout.MANIFEST).read_bytes()
