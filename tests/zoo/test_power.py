"""The process or the power ends at any operation on a file: nothing that was acknowledged is lost."""

import itertools
import os
import pickle
from pathlib import Path

import pytest

from metanet.zoo import disk, shards
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import Spec, check_spec
from tests.zoo.making import in_child, tree
from tests.zoo.power import Disk

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="a process that ends in the middle is a fork of this one"
)
ENDED = 137  # exit code of a process that is ended
LEFT = ("nothing", "names", "some")  # of what was not synced


FEW = {"num_nets": 3, "num_architectures": 1, "train_images": 128, "eval_images": 16}


@pytest.fixture(params=["at one end", "early"])
def spec(request, tiny_spec) -> Spec:
    """Two groups of three snapshots, trained in a fraction of a second; or one whose nets stop early."""
    few = tiny_spec | FEW | {"architectures": tiny_spec["architectures"][1:]}
    if request.param == "early":
        few |= {"epochs": 5}
        few["hyperparameters"] |= {"early_stopping": 1, "batch_size": 32, "learning_rate": [0.01, 1.0]}
    return check_spec(few, "here")


@pytest.fixture
def whole(spec, tmp_path) -> dict[str, str]:
    """The files of the zoo when nothing happens."""
    return tree(make_zoo(spec, tmp_path / "whole", processes=1).path)


def make_on(disk_: Disk, spec: Spec, into: Path, end: int | None = None) -> tuple[Disk, dict[str, str]]:
    """The disk after operation number `end` - 1 of making a zoo on it, or after all of them, in another process.

    Puts into `into` what a power failure would leave, and which files had been acknowledged, with their SHA-256.
    """
    into.mkdir()

    def make():
        acknowledged: dict[str, str] = {}

        def leave(code: int) -> None:
            for left in LEFT:
                disk_.after_power_failure(into / left, left)
            (into / "pickle").write_bytes(pickle.dumps((disk_, acknowledged)))
            os._exit(code)

        def put_if_absent(path: Path, *data: bytes | memoryview) -> None:
            put(path, *data)
            acknowledged[str(path.relative_to(disk_.root / "zoo"))] = disk.sha256(*data)

        put, disk.put_if_absent = disk.put_if_absent, put_if_absent
        disk_.watch(end, lambda: leave(ENDED))
        make_zoo(spec, disk_.root / "zoo", processes=1)
        leave(0)

    assert in_child(make) in (0, ENDED)
    return pickle.loads((into / "pickle").read_bytes())


def loss(zoo: Path, acknowledged: dict[str, str], spec: Spec, whole: dict[str, str]) -> str:
    """What is wrong with an interrupted zoo, and with the one that the same command makes of it; empty if nothing."""
    now = tree(zoo)
    lost = [name for name, digest in acknowledged.items() if now.get(name) != digest]
    if lost:
        return f"acknowledged and lost: {lost}"
    partial = [name for name, digest in now.items() if name in whole and digest != whole[name]]
    partial += [str(path) for path in zoo.rglob("*-*.safetensors") if path.name[0] != "." and not is_whole(path)]
    if partial:
        return f"partial: {partial}"
    try:
        make_zoo(spec, zoo, processes=1)
    except (ValueError, OSError) as error:
        return f"not made whole: {error}"
    return "" if tree(zoo) == whole else "not the same bytes"


def is_whole(path: Path) -> bool:
    try:
        return bool(shards.load(path))
    except ValueError:
        return False


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_an_end_at_any_operation_on_a_file_loses_nothing_whether_of_the_process_or_of_the_power(
    tmp_path, spec, whole, stride
):
    """The process ends by itself with os._exit; a write has then put half of its bytes."""
    seen: set[str] = set()
    for end in itertools.count(stride // 2, stride):
        folder = tmp_path / str(end)
        (folder / "disk").mkdir(parents=True)
        after, acknowledged = make_on(Disk(folder / "disk"), spec, folder / "left", end)
        for left in LEFT:
            assert not loss(folder / "left" / left / "zoo", acknowledged, spec, whole), (
                end,
                left,
                after.operations[-3:],
            )
        again, _ = make_on(after, spec, folder / "again")
        assert tree(after.root / "zoo") == whole, (end, after.operations[-3:])
        # and what the second process found and counted on is durable too
        assert tree(folder / "again" / "nothing" / "zoo") == whole, (end, after.operations[-3:])
        seen |= {name for name, _ in again.operations}
        if len(after.operations) < end:
            break
    assert end > 100
    seen.discard("rmdir")  # only of groups whose nets stop early
    assert seen == {"open", "write", "pwrite", "fsync", "fchmod", "truncate", "replace", "link", "unlink", "mkdir"}


@pytest.mark.parametrize(("syncs", "left"), [({"syncs_files": False}, "names"), ({"syncs_folders": False}, "nothing")])
def test_without_fsync_the_same_check_finds_losses(tmp_path, spec, whole, syncs, left):
    """The negative twin: all is acknowledged, and then the power fails."""
    (tmp_path / "disk").mkdir()
    _, acknowledged = make_on(Disk(tmp_path / "disk", **syncs), spec, tmp_path / "left")
    assert loss(tmp_path / "left" / left / "zoo", acknowledged, spec, whole)


def test_what_a_killed_process_has_not_synced_is_lost_unless_the_next_one_does(tmp_path, spec, whole, monkeypatch):
    """The negative twin for a kill first and a power failure after the next process has ended."""
    (tmp_path / "whole_disk").mkdir()
    operations = make_on(Disk(tmp_path / "whole_disk"), spec, tmp_path / "trace")[0].operations
    last = max(number for number, (name, path) in enumerate(operations) if name == "link" and path.suffix == ".parquet")
    (tmp_path / "disk").mkdir()
    after, _ = make_on(Disk(tmp_path / "disk"), spec, tmp_path / "left", end=last + 2)  # before the fsync of its folder
    monkeypatch.setattr(disk, "sync_folders", lambda path: None)
    make_on(after, spec, tmp_path / "again")
    assert tree(tmp_path / "disk" / "zoo") == whole
    assert tree(tmp_path / "again" / "nothing" / "zoo") != whole
