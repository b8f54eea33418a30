"""Command lines: what a mistake in one is answered with."""

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from metanet.commandline import parse


@dataclass
class Options:
    zoo: str = "???"
    nets: list[int] = field(default_factory=list)
    workers: int | None = None
    force: bool = False


def test_words_fill_the_options():
    assert parse(Options, ["zoo=a", "nets=[0,1]", "workers=2", "force=true"]) == Options("a", [0, 1], 2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing on the command line: zoo=..."),
        (["a.yaml"], "'a.yaml' on the command line: expected key=value with a key of zoo, nets, workers, force"),
        (["zo=a"], r"did you mean zoo=\?"),
        (["zoo=a", "workers=abc"], r"^'workers=abc' on the command line: .*; expected int \| None$"),
        (["zoo=a", "nets=0"], r"^'nets=0' on the command line: .*; expected list\[int\]$"),
        (["zoo=a", "force=maybe"], r"^'force=maybe' on the command line: .*; expected bool$"),
    ],
)
def test_a_mistake_names_its_word_and_what_was_expected(words, message):
    with pytest.raises(ValueError, match=message):
        parse(Options, words)


def test_what_takes_long_to_import_is_imported_where_ctrl_c_is_answered():
    asked = "import sys, metanet.commandline; print({'hydra', 'omegaconf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout == "set()\n"
