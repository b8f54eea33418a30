"""Sources that may not be read, or that somebody writes to meanwhile, are told in a line, and nothing is half read."""

import os
from pathlib import Path
from typing import Any

import pytest

from metanet.errors import IO_ERROR, exit_code
from metanet.importers.intake import child, writing
from metanet.importers.intake.writing import import_zoo
from tests.importers.examples import EXAMPLES


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    EXAMPLES["inr"].put(tmp_path / "source")
    return tmp_path / "source"


def imported(source: Path, out: Path) -> Any:
    return import_zoo("inr", source, out, **EXAMPLES["inr"].options)


@pytest.mark.parametrize("change", ["is gone", "has changed"])
def test_a_file_that_changes_during_the_import_ends_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    path = sorted(source.rglob("*.pth"))[0]

    def meanwhile(*_: Any) -> None:
        path.unlink() if change == "is gone" else path.write_bytes(path.read_bytes()[:-9])

    monkeypatch.setattr(writing, "_check_anything", meanwhile)
    with pytest.raises(OSError, match=rf"model\.pth: {change} since it was read; no zoo was written") as caught:
        imported(source, tmp_path / "zoo")
    assert exit_code(caught.value) == IO_ERROR
    assert not (tmp_path / "zoo").exists()
    monkeypatch.undo()
    assert len(imported(source, tmp_path / "zoo")) == 2 - (change == "is gone") - (change == "has changed")


def test_a_file_without_the_right_to_read_it_is_left_out(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = sorted(source.rglob("*.pth"))[0]  # root may read all files, so the system's answer is not asked for here
    monkeypatch.setattr(os, "access", lambda name, mode: str(name) != str(path))
    assert len(imported(source, tmp_path / "zoo")) == 1
    assert "cannot be read: permission denied" in (tmp_path / "zoo" / "left_out.json").read_text()


def test_a_folder_without_the_right_to_read_it_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if Path(path) == source:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(OSError, match=r"source: cannot be read: Permission denied") as caught:
        imported(source, tmp_path / "zoo")
    assert exit_code(caught.value) == IO_ERROR
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_file_that_cannot_be_opened_does_not_end_the_process_that_parses(tmp_path: Path):
    def reader(path: Path) -> Any:
        return path.read_bytes(), {}

    answer, _ = child._parse(reader, tmp_path / "gone", {})
    assert "No such file" in answer["error"]
    assert "refused" not in answer
