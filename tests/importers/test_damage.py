"""Damage to any file of any format: an error with its exit code, or a zoo that its SHA-256 tells from the right one."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from metanet import errors, importers
from metanet.importers.intake import writing
from metanet.importers.intake.writing import import_zoo
from metanet.zoo.store import Zoo
from tests.importers.examples import EXAMPLES
from tests.zoo.making import tree

CODES = {
    errors.BAD_DATA,
    errors.NO_INPUT,
    errors.CANNOT_CREATE,
    errors.IO_ERROR,
    errors.LOCKED,
    errors.REFUSED,
}
SECONDS = 30  # after which an import of a few small nets counts as hanging
SMALL = 4096  # bytes of a file that is cut at every length; of a larger one every length near its structure is


class Hangs(BaseException):
    """No handler of an error may take it for one."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In memory, and without fsync: thousands of small zoos are written here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(writing, "progress", lambda *_: contextlib.nullcontext(lambda *_: None))
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as found:
        yield Path(found)


class Damaged:
    """One example, its files as they are when whole, and what an import of a damaged copy gives."""

    def __init__(self, format: str, folder: Path):
        self.format, self.example, self.folder = format, EXAMPLES[format], folder
        self.example.put(folder / "source")
        self.files = sorted(path for path in (folder / "source").rglob("*") if path.is_file())
        whole = import_zoo(format, folder / "source", folder / "zoo", **self.example.options)
        self.whole, self.tree, self.digest = _weights(whole), tree(whole.path), whole.record["source"]["sha256"]
        assert whole.record["source"]["left_out"] in (0, 18)  # the NWS example has 2 of 20 snapshots
        shutil.rmtree(folder / "zoo")

    def outcome(self, path: Path, data: bytes) -> str:
        """What an import gives with `data` at `path`: "error", "left out", or a "zoo" of all the nets."""
        good = path.read_bytes()
        path.write_bytes(data)
        try:
            with _hangs_after(SECONDS):
                zoo = import_zoo(self.format, self.folder / "source", self.folder / "zoo", **self.example.options)
        except (ValueError, OSError) as found:
            zoo = found
        finally:
            path.write_bytes(good)
        if isinstance(zoo, Exception):
            assert errors.exit_code(zoo) in CODES
            assert str(zoo)
            assert not (self.folder / "zoo").exists()
            return "error"
        assert zoo.verify() == []
        weights = _weights(zoo)
        if zoo.record["source"]["sha256"] == self.digest:
            assert tree(zoo.path) == self.tree, "another zoo under the same SHA-256"
        if path.name.endswith(self.example.checked):
            assert weights == {where: self.whole[where] for where in weights}, "another net out of a checked file"
        shutil.rmtree(zoo.path)
        return "zoo" if weights.keys() == self.whole.keys() else "left out"


def _weights(zoo: Zoo) -> dict[str, str]:
    """Where a net was in the source -> SHA-256 of its weights."""
    return {row["source.where"]: row["sha256"] for row in zoo.manifest.to_pylist()}


@contextlib.contextmanager
def _hangs_after(seconds: int) -> Iterator[None]:
    def end(*_: object) -> None:
        raise Hangs(f"no answer after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def lengths(data: bytes) -> list[int]:
    """Every length to cut a small file to; of a large one those at its ends and structure, and a thousand others."""
    if len(data) <= SMALL:
        return list(range(len(data)))
    near = {*range(1024), *range(len(data) - 512, len(data)), *range(0, len(data), len(data) // 1000)}
    for mark in (b"PK", b"\n", b"{", b'"', b"TREE", b"SNOD"):
        place = data.find(mark)
        while place >= 0 and len(near) < 10_000:
            near |= {place + offset for offset in range(-1, len(mark) + 2)}
            place = data.find(mark, place + 1)
    return sorted(length for length in near if 0 <= length < len(data))


def flips(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The bytes with one bit flipped, a `count` of times; every second time near the start, where headers are."""
    generator = np.random.default_rng(seed)
    for number in range(count if data else 0):
        changed = bytearray(data)
        changed[generator.integers(len(data) if number % 2 else min(len(data), 512))] ^= 1 << generator.integers(8)
        yield bytes(changed)


def test_every_format_has_an_example():
    missing = [name for name in importers.formats() if name not in EXAMPLES]
    assert not missing, f"add a tiny source of {', '.join(missing)} to EXAMPLES in tests/importers/examples.py"


@pytest.mark.parametrize("most", [50, pytest.param(10**9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", EXAMPLES)
def test_a_file_cut_at_any_length_is_an_error_or_told_by_the_digest(folder: Path, format: str, most: int):
    damaged = Damaged(format, folder)
    cuts = [(path, length) for path in damaged.files for length in lengths(path.read_bytes())]
    chosen = np.random.default_rng(0).permutation(len(cuts))[:most]
    outcomes = [damaged.outcome(path, path.read_bytes()[:length]) for path, length in map(cuts.__getitem__, chosen)]
    assert {"error", "left out"} & set(outcomes)


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", EXAMPLES)
def test_any_flipped_bit_is_an_error_or_told_by_the_digest(folder: Path, format: str, count: int):
    damaged = Damaged(format, folder)
    outcomes = []
    for number, path in enumerate(damaged.files):
        share = -(-count // len(damaged.files))
        outcomes += [damaged.outcome(path, data) for data in flips(path.read_bytes(), share, number)]
    assert "zoo" in outcomes
    assert {"error", "left out"} & set(outcomes)


def test_an_importer_that_guesses_would_be_found(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The negative twin: weights that change under the same digest, and out of a file with checksums."""
    damaged = Damaged("inr", folder)
    first, second = damaged.files
    with pytest.raises(AssertionError, match="another net out of a checked file"):
        damaged.outcome(first, second.read_bytes())
    shutil.rmtree(damaged.folder / "zoo")
    monkeypatch.setattr(writing.Folder, "sha256", lambda *_: damaged.digest)
    with pytest.raises(AssertionError, match="another zoo under the same SHA-256"):
        damaged.outcome(first, second.read_bytes())


def nws(folder: Path) -> Path:
    EXAMPLES["nws"].put(folder)
    return folder


@pytest.mark.parametrize("column", ["depth_conv", "width_conv", "filter_size", "width_fc", "depth_fc"])
def test_sizes_that_a_table_claims_allocate_nothing(tmp_path: Path, column: str):
    source = nws(tmp_path / "source")
    header, row = (source / "all.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True)) | {column: "999999999999"}
    (source / "all.csv").write_text(f"{header}\n{','.join(values.values())}\n")
    with pytest.raises(ValueError, match=r"no net could be imported.*expected (at most 65,536|conv_depth)"):
        import_zoo("nws", source, tmp_path / "zoo")


def test_a_claimed_width_within_limits_is_compared_before_it_is_built(tmp_path: Path):
    (tmp_path / "own").mkdir()
    arch: dict[str, Any] = {"family": "mlp", "depth": 3, "width": 65_000, "batch_norm": False}
    arch |= {"image_shape": [1, 2, 2], "num_classes": 2}
    (tmp_path / "own" / "archs.json").write_text(json.dumps({"large": arch}))
    save_file({"head.weight": torch.ones(2, 3)}, tmp_path / "own" / "x.safetensors")
    (tmp_path / "own" / "nets.csv").write_text("path,arch,activation\nx.safetensors,large,relu\n")
    with pytest.raises(ValueError, match=r"missing are dense1\.weight"):
        import_zoo("table", tmp_path / "own", tmp_path / "zoo")
