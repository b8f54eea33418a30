"""The command line of imports, and what an imported zoo is good for."""

import errno
import fcntl
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metanet
from metanet import commandline, evaluate, importers, report, runs
from metanet.importers.intake import groups, weights
from metanet.train import train
from tests.importers import foreign
from tests.importers.test_small_cnn import metrics, put
from tests.zoo.making import tree

SCRIPTS = Path(__file__).parents[2] / "scripts"
GNN = ("model=gnn", "model.width=8", "model.edge_width=4", "model.depth=1", "model.token_width=8", "model.mixing=1")


def run(monkeypatch: pytest.MonkeyPatch, script: str, *words: object) -> int:
    """The exit code of a script, without the seconds of a new process."""
    found = runpy.run_path(str(SCRIPTS / script))
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    try:
        commandline.run(found["main"], found["Options"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def unterthiner(folder: Path, count: int) -> Path:
    """A zoo of `count` training runs, three snapshots each."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        for row in metrics(modeldir=f"/dir/{number}")[:3]:
            chosen = {"config.optimizer": ("adam", "sgd")[number % 2], "config.learning_rate": 0.001 * (number + 1)}
            rows.append(row | chosen | {"test_accuracy": 0.1 + 0.01 * number})
    weights = np.stack([foreign.integers(4970, seed) for seed in range(len(rows))]).astype(np.float32)
    return put(folder, weights, rows)


def test_an_imported_zoo_goes_through_graphs_training_and_evaluation(tmp_path, monkeypatch, capsys, config_of):
    out = tmp_path / "zoo"
    words = ("format=small_cnn", f"path={unterthiner(tmp_path / 'mnist', 20)}", f"out={out}")
    assert run(monkeypatch, "import_zoo.py", *words) == 0
    assert f"{out}: 60 snapshots of 20 training runs, 1 architectures\n" in capsys.readouterr().out
    assert run(monkeypatch, "build_graphs.py", f"zoo={out}") == 0
    assert (out / "templates" / "small_cnn-3x16-1x28x28-10-relu.json").is_file()
    assert run(monkeypatch, "verify_zoo.py", f"zoo={out}") == 0
    config = config_of(f"zoo={out}", *GNN, "training.epochs=1", "name=imported")
    train(config, "x")
    folder = runs.folder_of(config, "x")
    found = metanet.load_run(folder)
    assert {"optimizer", "learning_rate", "test_accuracy"} <= {target.name for target in found.schema.targets}
    assert set(evaluate.main(evaluate.Options(run=str(folder), zoo=str(out)))) >= {"optimizer", "learning_rate"}
    page = tmp_path / "report.html"
    report.main(report.Options(runs=str(folder.parent), out=str(page)))
    assert "learning_rate" in page.read_text()


def test_every_mistake_has_its_exit_code_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    source = unterthiner(tmp_path / "mnist", 1)

    def attempt(*changes: str) -> tuple[int, str]:
        words = {"format": "small_cnn", "path": str(source), "out": str(tmp_path / "zoo")}
        words |= dict(change.split("=", 1) for change in changes)
        code = run(monkeypatch, "import_zoo.py", *(f"{key}={value}" for key, value in words.items()))
        return code, capsys.readouterr().err

    assert attempt("format=small_cn") == (65, "error: " + _formats("small_cn") + "; did you mean small_cnn?\n")
    assert attempt("path=nowhere") == (66, "error: nowhere: no such file or folder\n")
    assert attempt("format=nws", "image_set=mnist") == (
        65,
        "error: format=nws takes no image_set=; it takes no options\n",
    )
    (tmp_path / "there").mkdir()
    code, told = attempt(f"out={tmp_path / 'there'}")
    assert (code, "is there already. Remove it, or choose another out=" in told) == (73, True)
    lock = tmp_path / ".zoo.import.tmp"
    lock.mkdir()
    with open(lock / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, told = attempt()
        assert (code, "another process is writing in this folder" in told) == (75, True)
    assert attempt("format=nws")[0] == 65
    np.save(source / "weights.npy", np.array([{}], dtype=object), allow_pickle=True)
    code, told = attempt()
    assert (code, "pickled Python objects" in told) == (77, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnist", "there"]


def test_a_full_disk_is_one_clear_error_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    words = ("format=small_cnn", f"path={unterthiner(tmp_path / 'mnist', 2)}", f"out={tmp_path / 'zoo'}", "workers=1")
    real, left = os.fsync, iter(range(100))

    def failing(descriptor: int) -> None:
        if next(left) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(groups, "GROUP_NETS", 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        assert run(patched, "import_zoo.py", *words) == 74
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()
    assert run(monkeypatch, "import_zoo.py", *words) == 0
    assert metanet.open_zoo(tmp_path / "zoo").verify() == []


def _formats(name: str) -> str:
    return f"format={name}: expected one of {', '.join(importers.formats())}"


def test_ctrl_c_leaves_nothing_and_the_next_import_starts_anew(tmp_path, monkeypatch, capsys):
    source = unterthiner(tmp_path / "mnist", 2)
    words = ("format=small_cnn", f"path={source}", f"out={tmp_path / 'zoo'}")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "write", interrupted)
    assert run(monkeypatch, "import_zoo.py", *words) == 130
    assert "interrupted; the same command again goes on from here" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
    monkeypatch.undo()
    left = tmp_path / ".zoo.import.tmp" / "shards"  # as a killed import leaves it
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    assert run(monkeypatch, "import_zoo.py", *words) == 0
    assert run(monkeypatch, "import_zoo.py", *words[:2], f"out={tmp_path / 'again'}") == 0
    first, second = tree(tmp_path / "zoo"), tree(tmp_path / "again")
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"zoo.json"}  # it has the zoo's name
    named = json.loads((tmp_path / "zoo" / "zoo.json").read_text())["spec"]["name"]
    assert named == "zoo"


@pytest.mark.parametrize("name", importers.formats())
def test_every_format_keeps_to_the_contract(name):
    module = importers.find(name)
    assert callable(module.read)
    assert module.__doc__
    assert f"| `{name}` |" in Path("docs/import.md").read_text()
