"""Zoos whose nets stop early: whole, the same bytes however often they are interrupted, and every damage found."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import metanet
from metanet.zoo import layout, plan, sizes, work
from metanet.zoo.candidates import Candidates
from metanet.zoo.fit_stopping import StoppingFit
from metanet.zoo.images import load
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from tests.zoo.making import Killed, tree


@pytest.fixture
def begun(stopping_spec, tmp_path, monkeypatch) -> Path:
    """The same, killed when its first group has been trained for four epochs."""
    real, out = Candidates.save, tmp_path / "begun"

    def killed(self, fit):
        real(self, fit)
        if fit.epoch == 4:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Candidates, "save", killed)
        with pytest.raises(Killed):
            make_zoo(check_spec(stopping_spec, "here"), out, processes=1)
    return out


def test_every_net_has_its_snapshots_at_fractions_of_its_own_training(stopping_zoo, stopping_spec):
    assert stopping_zoo.record["schema"] == layout.STOPPING
    rows = stopping_zoo.manifest.to_pylist()
    fractions, seen = stopping_spec["snapshots"], set()
    for net in range(stopping_spec["num_nets"]):
        own = [row for row in rows if row["net"] == net]
        end = own[-1]["epoch"]
        seen.add(end)
        if own[0]["early_stopping"]:
            epochs = sorted({float(np.round(fraction * end)) for fraction in fractions})
            assert [row["epoch"] for row in own] == epochs
            assert [row["snapshot_fraction"] for row in own] == [epoch / end for epoch in epochs]
        else:
            assert [row["snapshot_fraction"] for row in own] == fractions
            assert end == stopping_spec["epochs"]
        assert stopping_zoo.steps(net) == [row["step"] for row in own]
        per_epoch = own[-1]["step"] / end
        assert [row["step"] for row in own] == pytest.approx([row["epoch"] * per_epoch for row in own])
    assert len(seen) > 3, "the test needs nets that end at different times"
    assert {row["status"] for row in rows} == {"ok", "diverged"}


def test_what_is_read_back_is_what_the_manifest_says_of_it(stopping_zoo):
    assert stopping_zoo.verify() == []
    assert stopping_zoo.finished
    digits = load("digits", shape=(1, 8, 8))
    for row in stopping_zoo.manifest.to_pylist():
        if row["status"] == "ok":
            module: nn.Module = stopping_zoo.module(row["net"], row["step"])
            with torch.no_grad():
                found = module(digits.test[:64].float() / 127.5 - 1).argmax(1)
            assert (found == digits.test_labels[:64]).double().mean() == pytest.approx(row["test_accuracy"], abs=0.02)
    rows = torch.tensor([5, 0, 11, 5])
    (arch,) = stopping_zoo.archs
    stacked = stopping_zoo.stacked(arch, rows)
    for place, row in enumerate(rows.tolist()):
        of = stopping_zoo.manifest.slice(row, 1).to_pylist()[0]
        for name, value in stopping_zoo.state_dict(of["net"], of["step"]).items():
            assert not value.is_floating_point() or torch.equal(stacked[name][place], value)


def test_a_group_has_one_shard_and_nothing_else_is_left(stopping_zoo):
    stopping = [entry["group"] for entry in stopping_zoo.record["plan"] if "steps" not in entry]
    others = {entry["group"]: entry["steps"] for entry in stopping_zoo.record["plan"] if "steps" in entry}
    expected = {f"{name}.safetensors" for name in stopping}
    expected |= {f"{name}/{step}.safetensors" for name, steps in others.items() for step in steps} | set(others)
    assert stopping
    assert others
    folder = stopping_zoo.path / "shards"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == expected


@pytest.mark.parametrize("lost", ["shard", "fragment", "manifest.parquet"])
def test_a_lost_file_is_made_again_with_the_same_bytes(stopping_zoo, stopping_spec, tmp_path, lost):
    spec, out = check_spec(stopping_spec, "here"), shutil.copytree(stopping_zoo.path, tmp_path / "zoo")
    (first, *_) = (entry["group"] for entry in stopping_zoo.record["plan"] if "steps" not in entry)
    paths = {"shard": layout.shard_path(out, first, None), "fragment": layout.fragment_path(out, first, None)}
    path = paths[lost] if lost in paths else out / lost
    path.unlink()
    if lost == "shard":
        assert any(f"{path}: missing" in problem for problem in metanet.open_zoo(out).verify())
    make_zoo(spec, out, processes=1)
    assert tree(out) == tree(stopping_zoo.path)


def test_an_interrupted_zoo_has_what_its_nets_may_choose_and_goes_on_to_the_same_bytes(
    begun, stopping_zoo, stopping_spec
):
    names = sorted(path.name for path in begun.rglob("*.safetensors"))
    assert len([name for name in names if name.startswith("candidate-")]) >= 4
    assert len([name for name in names if name.startswith("resume-")]) == 1
    assert metanet.open_zoo(begun).verify() == []
    make_zoo(check_spec(stopping_spec, "here"), begun, processes=1)
    assert tree(begun) == tree(stopping_zoo.path)


@pytest.mark.parametrize("count", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_what_is_kept_while_training_is_found(begun, count):
    draw, files = random.Random(2), sorted(begun.rglob("*.safetensors"))
    for _ in range(count):
        path = draw.choice(files)
        data = path.read_bytes()
        place = draw.randrange(len(data))
        for broken in (data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :], data[:place]):
            path.write_bytes(broken)
            assert any(str(path) in problem for problem in metanet.open_zoo(begun).verify()), (path, place)
        path.write_bytes(data)
    assert metanet.open_zoo(begun).verify() == []


@pytest.mark.parametrize("kind", ["resume", "candidate"])
def test_a_damaged_file_of_an_unfinished_group_says_what_to_do_and_that_helps(begun, stopping_zoo, stopping_spec, kind):
    spec, path = check_spec(stopping_spec, "here"), min(begun.rglob(f"{kind}-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=rf"{path.name}: damaged: .* Remove that file and give the same command again"):
        make_zoo(spec, begun, processes=1)
    path.unlink()
    make_zoo(spec, begun, processes=1)
    assert tree(begun) == tree(stopping_zoo.path)


def test_a_group_that_another_worker_has_finished_meanwhile_is_done(stopping_zoo, stopping_spec, tmp_path, monkeypatch):
    """As after a worker that was taken for dead and was not."""
    spec, out, real = check_spec(stopping_spec, "here"), tmp_path / "zoo", Candidates.save

    def overtaken(self, fit):
        real(self, fit)
        if fit.epoch == 3:
            patched.undo()
            group = next(group for group in plan.plan(spec.nets()) if group.name == self.folder.name)
            of.train(group, of.images(), lambda fraction: None)

    of = work.Work(spec, out, "cpu")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Candidates, "save", overtaken)
        make_zoo(spec, out, processes=1)
    assert tree(out) == tree(stopping_zoo.path)


def test_two_processes_give_the_same_bytes_as_one(stopping_zoo, stopping_spec, tmp_path):
    assert tree(make_zoo(check_spec(stopping_spec, "here"), tmp_path / "zoo", processes=2).path) == tree(
        stopping_zoo.path
    )


def test_a_group_that_is_too_large_is_halved_and_its_halves_begin_anew(stopping_spec, tmp_path, monkeypatch, capsys):
    spec, out, real = check_spec(stopping_spec, "here"), tmp_path / "zoo", StoppingFit.advance

    def advance(self):
        if self.epoch == 3 and len(self.group) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from real(self)

    with monkeypatch.context() as patched:
        patched.setattr(StoppingFit, "advance", advance)
        zoo = make_zoo(spec, out, processes=1)
    assert "needs too much memory; split: " in capsys.readouterr().err
    assert zoo.verify() == []
    rows = list(zip(zoo.manifest["net"].to_pylist(), zoo.manifest["step"].to_pylist(), strict=True))
    assert len(set(rows)) == len(rows)
    assert {net for net, _ in rows} == set(range(spec.num_nets))
    groups = {entry["group"]: len(entry["nets"]) for entry in zoo.record["plan"] if "steps" not in entry}
    halves = [name for name in groups if name[-1] in "ab"]
    assert halves
    assert max(groups.values()) == 2
    assert not [path for path in (out / "shards").iterdir() if path.is_dir() and path.name + "a" in halves]
    whole = tree(out)
    layout.shard_path(out, halves[0], None).unlink()
    make_zoo(spec, out, processes=1)  # there is memory now, but the recorded plan holds
    assert tree(out) == whole


def test_a_group_that_is_too_large_to_be_made_again_is_an_error(stopping_zoo, stopping_spec, tmp_path, monkeypatch):
    out = shutil.copytree(stopping_zoo.path, tmp_path / "zoo")
    min((out / "shards").glob("*.safetensors")).unlink()
    monkeypatch.setattr(StoppingFit, "begin", lambda self: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(OSError, match=r"its shard is lost, and to train it anew needs more memory than there is"):
        make_zoo(check_spec(stopping_spec, "here"), out, processes=1)


def test_a_zoo_that_was_begun_with_snapshots_at_fractions_of_epochs_is_not_gone_on_with(begun, stopping_spec):
    record = layout.read_record(begun)
    (begun / layout.RECORD).write_bytes(layout.pack(record | {"schema": 2}))
    with pytest.raises(ValueError, match=r"begun by metanet .* \(schema 2, here is 4\): it can be read as it is"):
        make_zoo(check_spec(stopping_spec, "here"), begun)


def test_the_plan_says_how_many_bytes_there_will_be(stopping_zoo, stopping_spec):
    """Exactly, where every net has as many snapshots as the spec has."""
    spec = check_spec(stopping_spec | {"snapshots": [0.0, 0.5, 1.0]}, "here")
    assert f"\nsnapshots      {3 * spec.num_nets}\n" in sizes.summary(plan.plan(spec.nets()))
    assert (
        sum(len(stopping_zoo.steps(net)) for net in range(stopping_zoo.spec["num_nets"]))
        == len(stopping_zoo)
        <= 5 * stopping_zoo.spec["num_nets"]
    )
