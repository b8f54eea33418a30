import hashlib
import json
import os
import random
import runpy
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import metanet
from metanet import commandline
from metanet.zoo import layout, manifest, shards, verify
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec


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


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_an_unfinished_zoo_is_found(unfinished, count):
    draw = random.Random(1)
    files = sorted(path for path in unfinished.rglob("*") if path.suffix in (".safetensors", ".parquet", ".json"))
    assert len(files) == 6
    for _ in range(count):
        path = draw.choice(files)
        data = path.read_bytes()
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        assert any(str(path) in problem for problem in verify.problems(unfinished)), (path, place)
        path.write_bytes(data[:place])
        assert any(str(path) in problem for problem in verify.problems(unfinished)), (path, place)
        path.write_bytes(data)
    assert list(verify.problems(unfinished)) == []


def test_verify_zoo_prints_damages_and_says_so_by_its_exit_code(tiny_zoo, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(tiny_zoo.path, tmp_path / "tiny")
    script = runpy.run_path(str(Path("scripts/verify_zoo.py")))
    monkeypatch.setattr(sys, "argv", ["verify_zoo.py", f"zoo={out}"])
    commandline.run(script["main"], script["Options"])
    assert "sound; " in capsys.readouterr().out
    path = next(out.rglob("shards/*/0.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SystemExit) as exit_:
        commandline.run(script["main"], script["Options"])
    assert exit_.value.code == 65
    printed = capsys.readouterr()
    assert f"{path}: truncated" in printed.out
    assert "1 damages, listed above" in printed.err


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
