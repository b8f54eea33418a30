"""Hostile sources of every format: an error that says where, in a line, and nothing outside is read, run or written."""

import os
from pathlib import Path

import pytest

from metanet.errors import RefusedError
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.writing import import_zoo
from tests.importers.hostile_sources import OPTIONS, SOURCES

REFUSED = (  # not only bad, but unsafe
    *("extension", "reconstructor", "by name", "method of", "of names", "hash", "overlap", "4 GB", "another method"),
    *("of one name", "zip in a zip", "pipe", "device", "outside", "no text", "two lines", "another module"),
    *("somebody's own", "in a folder", "file itself", "code to fetch", "upwards"),
)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.filterwarnings("ignore")  # transformers warns of some configurations
def test_a_hostile_source_is_an_error_in_one_line(parser: Parser, tmp_path: Path, name: str):
    format, put = SOURCES[name]
    if format == "huggingface":
        pytest.importorskip("transformers")
    folder = tmp_path / "nets"
    folder.mkdir()
    put(folder)
    before = sorted(os.fsencode(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"nets|config") as told:
        import_zoo(format, folder, tmp_path / "zoo", **OPTIONS.get(format, {}))
    assert isinstance(told.value, RefusedError) == any(part in name for part in REFUSED)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 2500
    assert sorted(os.fsencode(path) for path in tmp_path.rglob("*")) == before
