"""One process parses the files of all tests here: its start costs seconds."""

import contextlib
from collections.abc import Iterator

import pytest

from metanet.importers.intake import writing
from metanet.importers.intake.parser import Parser


@pytest.fixture(scope="session")
def parser() -> Iterator[Parser]:
    with Parser() as parser:
        yield parser


@pytest.fixture(autouse=True)
def imports_share_the_parser(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "Parser", lambda *_: contextlib.nullcontext(parser))
