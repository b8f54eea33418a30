"""An import that ends at any operation on a file goes on from there, and gives the same bytes as one that does not."""

import itertools
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanet.importers import small_cnn
from metanet.importers.intake import groups, weights, writing
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Stack
from metanet.importers.intake.writing import import_zoo
from metanet.zoo import disk, layout, manifest, verify
from metanet.zoo.store import open_zoo
from tests.importers import foreign, test_small_cnn
from tests.importers.examples import EXAMPLES
from tests.zoo.making import in_child, tree
from tests.zoo.power import Disk

ENDED = 137  # exit code of a process that is ended
LEFT = ("nothing", "names", "some")  # of what was not synced


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs of two snapshots, each run a group."""
    monkeypatch.setattr(groups, "GROUP_NETS", 1)
    monkeypatch.setattr(small_cnn, "BLOCK_BYTES", 2 * 4 * 26)
    shapes = [("conv2d", (3, 3, 1, 2)), ("dense", (2, 2))]
    weights = np.stack([foreign.integers(26, seed) for seed in range(6)]).astype(np.float32)
    rows = [row | {"modeldir": f"run{n // 2}", "step": n % 2} for n, row in enumerate(test_small_cnn.metrics()[:6])]
    return test_small_cnn.put(tmp_path / "source", weights, rows, packed=False, shapes=shapes)


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> dict[str, str]:
    return tree(import_zoo("small_cnn", source, tmp_path / "whole" / "zoo", workers=1).path)


def import_on(disk: Disk, source: Path, into: Path, end: int | None = None) -> Disk:
    """The disk after operation number `end` - 1 of an import on it, or after all, in another process."""
    into.mkdir()

    def act() -> None:
        def leave(code: int) -> None:
            for left in LEFT:
                disk.after_power_failure(into / left, left)
            (into / "pickle").write_bytes(pickle.dumps(disk))
            os._exit(code)

        disk.watch(end, lambda: leave(ENDED))
        import_zoo("small_cnn", source, disk.root / "zoo", workers=1)
        leave(0)

    assert in_child(act) in (0, ENDED)
    return pickle.loads((into / "pickle").read_bytes())


def made_whole(folder: Path, source: Path) -> dict[str, str]:
    """The zoo in a folder, after the same command where there is none yet."""
    if not (folder / "zoo").exists():
        import_zoo("small_cnn", source, folder / "zoo", workers=1)
    return tree(folder / "zoo")


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_an_end_at_any_operation_on_a_file_loses_nothing(
    tmp_path: Path, source: Path, whole: dict[str, str], stride: int
):
    """Whether of the process or of the power; what the second process counted on is durable too."""
    for end in itertools.count(stride // 2, stride):
        folder = tmp_path / str(end)
        (folder / "disk").mkdir(parents=True)
        after = import_on(Disk(folder / "disk"), source, folder / "left", end)
        last = after.operations[-3:]
        renamed = last[-1:] == [("replace", Path("zoo"))]  # a folder moves as a whole, and "some" draws file by file
        for left in LEFT[:2] if renamed else LEFT:
            assert made_whole(folder / "left" / left, source) == whole, (end, left, last)
        if (after.root / "zoo").exists():
            assert tree(after.root / "zoo") == whole, (end, last)
            break
        import_on(after, source, folder / "again")
        assert tree(after.root / "zoo") == whole, (end, last)
        assert tree(folder / "again" / "nothing" / "zoo") == whole, (end, last)
        assert [path.name for path in after.root.iterdir()] == ["zoo"]
    assert end > 50


def test_without_fsync_the_same_check_finds_losses(tmp_path: Path, source: Path, whole: dict[str, str]):
    """The negative twin: the import has ended, and then the power fails."""
    for number, (syncs, left) in enumerate([({"syncs_files": False}, "names"), ({"syncs_folders": False}, "nothing")]):
        (tmp_path / str(number)).mkdir()
        import_on(Disk(tmp_path / str(number), **syncs), source, tmp_path / f"left{number}")
        found = tmp_path / f"left{number}" / left / "zoo"
        assert not found.exists() or tree(found) != whole


@pytest.fixture
def interrupted(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an import of `source` that was ended after two of its three groups."""
    write, calls = weights.write, iter(range(100))

    def ending(*about: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return write(*about)

    with monkeypatch.context() as patched:
        patched.setattr(weights, "write", ending)
        with pytest.raises(KeyboardInterrupt):
            import_zoo("small_cnn", source, tmp_path / "x" / "zoo", workers=1)
    return tmp_path / "x"


def test_what_is_on_the_disk_is_neither_read_nor_written_again(
    source: Path, interrupted: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    pieces, write, count = Stack.pieces, weights.write, {"read": 0, "written": 0}

    def reading(stack: Stack) -> Any:
        count["read"] += len(stack)
        return pieces(stack)

    def writes(*about: Any) -> Any:
        count["written"] += 1
        return write(*about)

    monkeypatch.setattr(Stack, "pieces", reading)
    monkeypatch.setattr(weights, "write", writes)
    assert made_whole(interrupted, source) == whole
    assert count == {"read": 4, "written": 1}  # to be checked, and to be written


@pytest.mark.parametrize("same_time", [False, True])
def test_a_source_that_has_changed_is_imported_anew(source: Path, interrupted: Path, tmp_path: Path, same_time: bool):
    """Another order of runs under the same size and time is found too."""
    metrics = source / "metrics.csv"
    before = metrics.stat()
    metrics.write_text(metrics.read_text().replace("run0", "runX").replace("run1", "run0").replace("runX", "run1"))
    np.save(source / "weights.npy", np.load(source / "weights.npy") + 1)
    if not same_time:
        os.utime(metrics, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    again = made_whole(interrupted, source)
    assert again == tree(import_zoo("small_cnn", source, tmp_path / "y" / "zoo").path)


def test_groups_of_other_nets_are_not_taken_over(source: Path, interrupted: Path, whole: dict[str, str]):
    """As after a change that names, sizes and times do not show."""
    (fragment, *_) = sorted((interrupted / ".zoo.import.tmp" / "manifest").glob("*.parquet"))
    rows, about = manifest.read(fragment.read_bytes(), fragment)
    place = rows.column_names.index("source.where")
    others = rows.set_column(place, "source.where", [["weights.npy, row 98", "weights.npy, row 99"]])
    disk.write_atomically(fragment, manifest.pack(others, about))
    assert made_whole(interrupted, source) == whole


def test_groups_that_are_damaged_are_not_taken_over(source: Path, interrupted: Path, whole: dict[str, str]):
    (fragment, *_) = sorted((interrupted / ".zoo.import.tmp" / "manifest").glob("*.parquet"))
    fragment.write_bytes(fragment.read_bytes()[:-1])
    assert made_whole(interrupted, source) == whole


@pytest.mark.parametrize("format", EXAMPLES)
def test_a_second_import_with_more_processes_is_byte_identical(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
):
    example = EXAMPLES[format]
    example.put(tmp_path / "source")
    import_zoo(format, tmp_path / "source", tmp_path / "a" / "zoo", workers=1, **example.options)
    shutil.copytree(tmp_path / "source", tmp_path / "elsewhere")
    monkeypatch.setattr(writing, "Parser", Parser)
    import_zoo(format, tmp_path / "elsewhere", tmp_path / "b" / "zoo", workers=2, **example.options)
    assert tree(tmp_path / "a" / "zoo") == tree(tmp_path / "b" / "zoo")


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_an_imported_zoo_is_found_and_its_file_is_named(source: Path, tmp_path: Path, count: int):
    zoo = import_zoo("small_cnn", source, tmp_path / "zoo")
    draw = random.Random(0)
    files = sorted(path for path in zoo.path.rglob("*") if path.suffix in (".safetensors", ".parquet"))
    assert len(files) == 7
    for _ in range(count):
        path = draw.choice(files)
        data = path.read_bytes()
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        assert any(str(path) in problem for problem in verify.problems(zoo.path)), (path, place)
        path.write_bytes(data)
    assert zoo.verify() == []
    shard = next(path for path in files if path.suffix == ".safetensors")
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (problem,) = zoo.verify()
    assert f"{shard}: damaged: head.weight of net 0 is not what was written" in problem


def test_a_group_has_all_its_steps_in_one_shard(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "GROUP_NETS", 4096)
    zoo = import_zoo("small_cnn", source, tmp_path / "zoo")
    (shard,) = (zoo.path / "shards").iterdir()
    assert zoo.manifest["row"].to_pylist() == list(range(6))
    weights = np.load(source / "weights.npy")
    for row in zoo.manifest.to_pylist():
        bias = zoo.state_dict(row["net"], row["step"])["conv1.bias"].numpy()
        assert np.array_equal(bias, weights[2 * row["net"] + row["step"], :2])
    assert shard.name == f"{row['group']}.safetensors"
    assert zoo.record["schema"] == layout.IMPORTED


def test_an_imported_zoo_of_the_schema_before_is_read_and_verified(source: Path, tmp_path: Path):
    """Schema 3, whose manifest was sorted and hashed as that of a zoo that is trained."""
    zoo = import_zoo("small_cnn", source, tmp_path / "zoo")
    fragments = {}
    for path in sorted((zoo.path / "manifest").iterdir()):
        path.write_bytes(manifest.pack(*manifest.read(path.read_bytes(), path)))
        fragments[path.name] = path.read_bytes()
    (zoo.path / layout.MANIFEST).write_bytes(manifest.merge(fragments))
    record = {name: value for name, value in zoo.record.items() if name != "sha256"}
    (zoo.path / layout.RECORD).write_bytes(layout.pack(record | {"schema": 3}))
    old = open_zoo(zoo.path)
    assert old.manifest.equals(zoo.manifest)
    assert old.verify() == []
    for path in (zoo.path / layout.MANIFEST, zoo.path / "manifest" / next(iter(fragments))):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        assert any(str(path) in problem for problem in old.verify())
        path.write_bytes(data)
