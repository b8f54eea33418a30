import errno
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

import metanet
from metanet.commandline import LockedError
from metanet.zoo import disk, images, layout, manifest, shards
from metanet.zoo.feed import standardise
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec


@pytest.fixture
def copy(tiny_zoo, tmp_path):
    """A zoo of which a test may break files."""
    return metanet.open_zoo(shutil.copytree(tiny_zoo.path, tmp_path / "tiny"))


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


def test_a_sound_zoo_has_no_problems_and_its_manifest_can_be_rebuilt(copy):
    assert copy.verify() == []
    (copy.path / layout.MANIFEST).unlink()
    rebuilt = metanet.open_zoo(copy.path)
    assert rebuilt.manifest.equals(copy.manifest)
    assert rebuilt.verify() == []


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found_and_its_file_is_named(copy, count):
    draw = random.Random(0)
    files = sorted(
        path for path in copy.path.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".parquet")
    )
    for _ in range(count):
        path = draw.choice(files)
        data = path.read_bytes()
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        problems = metanet.open_zoo(copy.path).verify() if path.name != layout.MANIFEST else copy.verify()
        assert any(str(path) in problem for problem in problems), (path, place)
        path.write_bytes(data)
    assert copy.verify() == []


@pytest.fixture
def old(copy):
    """A finished zoo as version 0.1.0 wrote it before schema 2."""

    def write(path, rows, about):
        pq.write_table(rows.replace_schema_metadata({"metanet": json.dumps(about)}), path, compression="zstd")

    fragments = sorted((copy.path / "manifest").iterdir())
    for path in fragments:
        rows, about = manifest.read(path.read_bytes(), path)
        about.pop("resume", None)
        write(path, rows, about)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in fragments}
    write(copy.path / layout.MANIFEST, copy.manifest, hashes)
    content = layout.read_record(copy.path) | {"schema": 1}
    (copy.path / layout.RECORD).write_bytes(layout.pack(content))
    return metanet.open_zoo(copy.path)


def test_a_finished_zoo_of_the_schema_before_is_read_and_verified(old, copy, tiny_spec):
    assert old.manifest.equals(copy.manifest)
    assert old.verify() == []
    assert make_zoo(check_spec(tiny_spec, "here"), old.path).manifest.equals(copy.manifest)
    for path in (next((old.path / "manifest").iterdir()), next(old.path.rglob("shards/*/0.safetensors"))):
        data = path.read_bytes()
        path.write_bytes(data[:-9] + b"!" + data[-8:])
        assert any(str(path) in problem for problem in old.verify())
        path.write_bytes(data)


def test_an_unfinished_zoo_of_the_schema_before_is_not_gone_on_with(old, tiny_spec):
    next(old.path.rglob("shards/*/0.safetensors")).unlink()
    with pytest.raises(
        ValueError, match=r"begun by metanet .* \(schema 1, here is 2\): it can be read as it is, but not"
    ):
        make_zoo(check_spec(tiny_spec, "here"), old.path)


def test_a_zoo_of_a_later_schema_is_refused(copy):
    content = layout.read_record(copy.path) | {"schema": 99}
    (copy.path / layout.RECORD).write_bytes(layout.pack(content))
    with pytest.raises(ValueError, match=r"found schema 99, expected one of 1, 2: made by a newer metanet"):
        metanet.open_zoo(copy.path)


def test_a_changed_weight_is_traced_to_its_tensor_and_net(copy):
    row = copy.manifest.slice(10, 1).to_pylist()[0]
    path = layout.shard_path(copy.path, row["group"], row["step"])
    tensors, about = shards.load(path)
    tensors = {name: value.clone() for name, value in tensors.items()}
    tensors["head.bias"][row["row"], 3] += 1
    names = about.pop("names")
    path.write_bytes(shards.pack({name: tensors[name] for name in names}, about))
    (problem,) = copy.verify()
    assert f"{path}: damaged: head.bias of net {row['net']} is not what was written" in problem
    assert "make_zoo" in problem


def test_a_truncated_shard_is_an_error_and_kills_no_reader(copy):
    row = copy.manifest.slice(0, 1).to_pylist()[0]
    path = layout.shard_path(copy.path, row["group"], row["step"])
    size = path.stat().st_size
    for left, found in (
        (size - 1, f"truncated: found {size - 1:,} bytes, expected {size:,}"),
        (100, "too few"),
        (3, "too few"),
    ):
        os.truncate(path, left)
        with pytest.raises(ValueError, match=found):
            metanet.open_zoo(copy.path).state_dict(row["net"], row["step"])
        assert any(str(path) in problem and "It holds the nets" in problem for problem in copy.verify())
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{row['step']}.safetensors: missing"):
        metanet.open_zoo(copy.path).state_dict(row["net"], row["step"])


def test_a_file_that_is_no_shard_is_refused(tmp_path):
    path = tmp_path / "0.safetensors"
    path.write_bytes((8).to_bytes(8, "little") + b"not JSON")
    with pytest.raises(ValueError, match="its header is not that of a safetensors file"):
        shards.load(path)
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="not written by metanet"):
        shards.load(path)


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


def test_a_shard_packed_twice_has_equal_bytes_and_keeps_the_order_of_names(tmp_path):
    tensors = {"b": torch.randn(2, 3), "a": torch.arange(2), "c": torch.randn(2)}
    data = shards.pack(tensors, {"step": 1})
    assert data == shards.pack(tensors, {"step": 1})
    (tmp_path / "1.safetensors").write_bytes(data)
    loaded, about = shards.load(tmp_path / "1.safetensors")
    assert list(loaded) == list(tensors)
    assert about["step"] == 1
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_nets_hash_depends_on_its_own_bytes_alone():
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(3)}
    other = {name: value.clone() for name, value in tensors.items()}
    other["b"][1] += 1
    first, second = shards.net_hashes(tensors), shards.net_hashes(other)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
    assert shards.net_hashes({name: value[1:2] for name, value in tensors.items()}) == first[1:2]


def test_merging_fragments_ignores_their_order(tiny_zoo):
    fragments = {path.name: path.read_bytes() for path in (tiny_zoo.path / "manifest").iterdir()}
    merged = manifest.merge(fragments)
    assert merged == manifest.merge(dict(reversed(fragments.items())))
    assert merged == (tiny_zoo.path / layout.MANIFEST).read_bytes()


def test_a_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    disk.write_atomically(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"cannot write 3 bytes \(No space left on device\).*file"):
        disk.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_writer_is_refused_with_the_holder_and_the_lock_is_free_after_a_kill(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from metanet.zoo import disk\n"
        "with disk.one_writer(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(LockedError, match=rf"another process is writing .*process {holder.pid}"),
            disk.one_writer(tmp_path),
        ):
            pass
        holder.kill()
    with disk.one_writer(tmp_path):
        pass


@pytest.mark.parametrize("number", [None, errno.ENOTSUP])
def test_a_file_is_put_once_and_a_different_one_is_refused(tmp_path, monkeypatch, number):
    """Also where the file system has no links."""

    def link(source, target):
        raise OSError(number, "no links")

    if number:
        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "file"
    for _ in range(2):
        disk.put_if_absent(path, b"first")
    with pytest.raises(ValueError, match="file: holds other bytes than its nets gave"):
        disk.put_if_absent(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_workers_at_once_the_second_finds_what_the_first_put(tmp_path, monkeypatch):
    path, real = tmp_path / "file", os.link

    def faster(source, target):
        path.write_bytes(b"first")
        real(source, target)

    monkeypatch.setattr(os, "link", faster)
    disk.put_if_absent(path, b"first")
    path.unlink()
    with pytest.raises(ValueError, match="holds other bytes"):
        disk.put_if_absent(path, b"second")
    assert list(tmp_path.iterdir()) == [path]
