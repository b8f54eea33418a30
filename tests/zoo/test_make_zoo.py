import hashlib
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import metanet
from metanet import commandline
from metanet.zoo import disk, layout, plan
from metanet.zoo.executors import EXECUTORS
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from metanet.zoo.work import Work

SCRIPT = Path("scripts/make_zoo.py").resolve()


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file whose bytes must not depend on when, where or in how many attempts a zoo was made."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (layout.LOG, ".lock")
    }


def command(*words: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, words)]


@pytest.fixture
def spec_file(tmp_path, tiny_spec):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_spec))
    return path


def worker_processes(parent: int) -> list[int]:
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except FileNotFoundError:  # it has ended
        return []
    return [int(child) for child in children if b"spawn_main" in command_line(int(child))]


def command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class Killed(BaseException):
    """Stands for the end of the process: no handler of ours may catch it."""


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_an_end_before_any_operation_on_a_file_loses_nothing(tmp_path, tiny_spec, tiny_zoo, monkeypatch, stride):
    """Every attempt ends one file operation later than the last got, until one comes through."""
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    left = 0

    def counted(name):
        def operation(*args):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real[name](*args)

        return operation

    for name in real:
        monkeypatch.setattr(os, name, counted(name))
    acknowledged: dict[str, str] = {}
    attempts = 0
    while True:
        attempts += 1
        left = stride * attempts
        try:
            make_zoo(spec, out, processes=1)
        except Killed:
            now = tree(out)
            assert all(now[name] == digest for name, digest in acknowledged.items())
            acknowledged = {
                name: digest for name, digest in now.items() if not Path(name).name.startswith((".", "resume"))
            }
        else:
            break
    assert attempts > 5
    assert tree(out) == tree(tiny_zoo.path)


@pytest.mark.parametrize("kills", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_sigkill_at_random_times_and_the_same_command_give_the_same_bytes(tmp_path, spec_file, tiny_zoo, kills):
    out, draw = tmp_path / "tiny", random.Random(kills)
    words = command(f"spec={spec_file}", f"out={out}", "processes=2")
    for _ in range(kills):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            target = len(list(out.rglob("*.parquet"))) + draw.randint(1, 4)
            while process.poll() is None and len(list(out.rglob("*.parquet"))) < target:
                time.sleep(0.01)
            workers = worker_processes(process.pid)
            process.kill()
        while any(b"spawn_main" in command_line(worker) for worker in workers):
            time.sleep(0.01)  # they end when their parent does: without that this test would not
        if metanet.open_zoo(out).finished:
            assert tree(out) == tree(tiny_zoo.path)
            shutil.rmtree(out)
    finished = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "12 nets of 3 architectures, 36 snapshots, 0 diverged" in finished.stdout
    assert tree(out) == tree(tiny_zoo.path)


def test_ctrl_c_ends_cleanly_with_one_line(tmp_path, spec_file):
    out = tmp_path / "tiny"
    words = command(f"spec={spec_file}", f"out={out}", "processes=2", "override.epochs=2000")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not list(out.rglob("*.parquet")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the same command again goes on from here" in errors
    assert "Traceback" not in errors


def test_nothing_is_trained_twice(tmp_path, tiny_spec, tiny_zoo, capsys, monkeypatch):
    out = shutil.copytree(tiny_zoo.path, tmp_path / "tiny")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setitem(EXECUTORS, "local", None)  # would fail if it were used
    make_zoo(check_spec(tiny_spec, "here"), out)
    assert "finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_removed_shard_is_trained_anew_bit_for_bit(tmp_path, tiny_spec, tiny_zoo):
    out = shutil.copytree(tiny_zoo.path, tmp_path / "tiny")
    row = tiny_zoo.manifest.slice(1, 1).to_pylist()[0]
    layout.shard_path(out, row["group"], row["step"]).unlink()
    assert any("missing" in problem for problem in metanet.open_zoo(out).verify())
    assert make_zoo(check_spec(tiny_spec, "here"), out, processes=1).verify() == []
    assert tree(out) == tree(tiny_zoo.path)


def test_a_zoo_in_training_can_be_read(tmp_path, tiny_spec, monkeypatch):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    done = []

    def one_group(work, groups, processes, report):
        work.train(groups[0], work.images(), lambda fraction: report(groups[0], fraction))
        zoo = metanet.open_zoo(out)
        done.append((len(zoo), zoo.finished, zoo.verify()))
        raise Killed

    monkeypatch.setitem(EXECUTORS, "local", one_group)
    with pytest.raises(Killed):
        make_zoo(spec, out)
    groups = plan.plan(spec.nets(), plan.STACK["cpu"])
    assert done[0][0] in {3 * len(group) for group in groups}
    assert done[0][1:] == (False, [])


def test_another_spec_in_the_same_folder_is_refused_with_what_differs(tiny_zoo, tiny_spec):
    before = tree(tiny_zoo.path)
    with pytest.raises(ValueError, match="another spec: seed is 3 there and 4 here"):
        make_zoo(check_spec(tiny_spec | {"seed": 4}, "here"), tiny_zoo.path)
    assert tree(tiny_zoo.path) == before


def test_a_folder_with_something_else_is_left_alone(tmp_path, tiny_spec):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match=r"found thesis\.tex but no zoo\.json"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_wrong_arguments_write_nothing(tmp_path, tiny_spec, monkeypatch):
    out = tmp_path / "zoo"
    spec = check_spec(tiny_spec, "here")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"device": "gpu"}, "device=gpu: expected cpu or cuda"),
        ({"device": "cuda"}, "device=cuda: this machine or this build of torch has no CUDA"),
        ({"processes": 0}, "processes=0: expected at least 1"),
        ({"executor": "cloud"}, "executor=cloud: expected one of local"),
    )
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            make_zoo(spec, out, **options)
    with pytest.raises(ValueError, match="too few for the snapshots"):
        make_zoo(check_spec(tiny_spec | {"train_images": 40}, "here"), out)
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="get_images"):
        make_zoo(check_spec(tiny_spec | {"images": ["mnist"]}, "here"), out)
    assert not out.exists()


def test_what_a_worker_meets_reaches_the_caller_as_one_error(tmp_path, tiny_spec):
    """The folder of shards is a file, so no worker can write."""
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    out.mkdir()
    groups = plan.plan(spec.nets())
    (out / "shards").write_text("in the way")
    with pytest.raises(OSError, match="shards"):
        EXECUTORS["local"](Work(spec, out, "cpu"), groups, 2, lambda group, fraction: None)


def test_a_dead_worker_is_one_clear_error(tmp_path, tiny_spec):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    (out / "manifest").mkdir(parents=True)

    def kill_a_worker(group, fraction):
        os.kill(worker_processes(os.getpid())[0], signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=r"its worker died \(exit code -9.* same command goes on"):
        EXECUTORS["local"](Work(spec, out, "cpu"), plan.plan(spec.nets()), 2, kill_a_worker)


def run_script(monkeypatch, *words: str) -> None:
    """The script without the seconds that a new process needs to import torch."""
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    commandline.run(script["main"], script["Options"])


def test_the_plan_is_printed_and_nothing_is_made(spec_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_script(monkeypatch, f"spec={spec_file}", "plan=true", "override.num_nets=24")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["nets"] == "24"
    assert lines["architectures"] == "3"
    assert lines["snapshots"] == "72"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["spec=no.yaml"], 66, "no.yaml: no such spec file"),
        (["spec=tiny.yaml", "override.epoch=2"], 65, "did you mean epochs?"),
        (["spec=tiny.yaml", "override.hyperparameters.dropout=2"], 65, "hyperparameters.dropout: found 2"),
        (["spec=tiny.yaml", "out=tiny.yaml"], 73, "tiny.yaml: found a file, expected a folder"),
        (["spec=tiny.yaml", "devise=cpu"], 65, "did you mean device=?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_an_exit_code(
    spec_file, monkeypatch, capsys, words, code, message
):
    monkeypatch.chdir(spec_file.parent)
    with pytest.raises(SystemExit) as exit_:
        run_script(monkeypatch, *words)
    assert exit_.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in spec_file.parent.iterdir()] == ["tiny.yaml"]


def test_a_second_process_is_refused_with_exit_code_75(spec_file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "zoo"
    out.mkdir()
    with disk.one_writer(out), pytest.raises(SystemExit) as exit_:
        run_script(monkeypatch, f"spec={spec_file}", f"out={out}")
    assert exit_.value.code == 75
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [".lock"]
