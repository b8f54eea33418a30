import errno
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
import torch
import yaml

import metanet
from metanet import commandline
from metanet.zoo import disk, executors, layout, manifest, plan, verify, work
from metanet.zoo.executors import local
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


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_an_end_before_any_operation_on_a_file_loses_nothing(tmp_path, tiny_spec, tiny_zoo, monkeypatch, stride):
    """Every attempt ends one file operation later than the last got, until one comes through."""
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    real = {name: getattr(os, name) for name in ("fsync", "replace", "link", "unlink", "write", "mkdir")}
    left = 0

    def counted(name):
        def operation(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real[name](*args, **options)

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
    assert attempts > 4
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it
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
    monkeypatch.setattr(local, "run", None)  # would fail if it were used
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

    def one_group(work, groups, processes, report, split):
        work.train(groups[0], work.images(), lambda fraction: report(groups[0], fraction))
        zoo = metanet.open_zoo(out)
        done.append((len(zoo), zoo.finished, zoo.verify()))
        raise Killed

    monkeypatch.setattr(local, "run", one_group)
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
        ({"executor": "cloud"}, "executor=cloud: expected one of local, ray"),
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
        local.run(Work(spec, out, "cpu"), groups, 2, lambda group, fraction: None, lambda group: [])


def test_a_dead_worker_is_one_clear_error(tmp_path, tiny_spec):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    (out / "manifest").mkdir(parents=True)

    def kill_a_worker(group, fraction):
        os.kill(worker_processes(os.getpid())[0], signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=r"its worker died \(exit code -9.* same command goes on"):
        local.run(Work(spec, out, "cpu"), plan.plan(spec.nets()), 2, kill_a_worker, lambda group: [])


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


def without_memory(monkeypatch, most: int, error: Exception) -> None:
    """Training runs out of memory after the first snapshot of every group of more than `most` nets."""

    def fit(group, images, seed, device, resume, on_snapshot):
        def keep(snapshot):
            on_snapshot(snapshot)
            if len(group) > most:
                raise error

        real(group, images, seed, device, resume, keep)

    real = work.fit
    monkeypatch.setattr(work, "fit", fit)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: not enough")],
)
def test_a_group_that_is_too_large_is_halved_and_a_resume_honours_it(tmp_path, tiny_spec, monkeypatch, capsys, error):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    planned = plan.to_json(plan.plan(spec.nets()))
    with monkeypatch.context() as patched:
        without_memory(patched, 1, error)
        zoo = make_zoo(spec, out, processes=1)
    assert "needs too much memory; split: " in capsys.readouterr().err
    assert zoo.verify() == []
    rows = [(row["net"], row["step"]) for row in zoo.manifest.to_pylist()]
    assert len(set(rows)) == len(rows) == 36
    last = [row["group"] for row in zoo.manifest.to_pylist() if row["snapshot_fraction"] == 1]
    assert len(set(last)) == len(last)  # each net ended in a group of its own
    assert len(zoo.record["plan"]) > len(planned)
    whole = tree(out)
    row = next(row for row in zoo.manifest.to_pylist() if row["step"] and row["group"].endswith(("a", "b")))
    layout.shard_path(out, row["group"], row["step"]).unlink()
    make_zoo(spec, out, processes=1)  # there is memory now, but the recorded plan holds
    assert tree(out) == whole


def test_a_single_net_that_is_too_large_is_named(tmp_path, tiny_spec, monkeypatch):
    without_memory(monkeypatch, 0, MemoryError())
    with pytest.raises(OSError, match=r"group .*: net \d+ alone \(.* parameters, .* needs more memory than there is"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=1)


def test_another_runtime_error_is_no_lack_of_memory(tmp_path, tiny_spec, monkeypatch):
    without_memory(monkeypatch, 0, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=1)


def test_a_jumping_clock_changes_no_byte(tmp_path, tiny_spec, tiny_zoo, monkeypatch):
    times = iter(range(10**9, 0, -(10**4)))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=1)
    assert tree(tmp_path / "tiny") == tree(tiny_zoo.path)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 74), (errno.EIO, 74), (errno.EROFS, 74), (errno.EACCES, 73)]
)
def test_a_failing_disk_is_one_clear_error_and_loses_nothing(
    tmp_path, spec_file, tiny_zoo, monkeypatch, capsys, number, code
):
    out, real, left = tmp_path / "zoo", os.fsync, 20

    def failing(descriptor):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    words = (f"spec={spec_file}", f"out={out}", "processes=1")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(SystemExit) as exit_:
            run_script(monkeypatch, *words)
    assert exit_.value.code == code
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert os.strerror(number) in line
    assert str(out) in line
    assert metanet.open_zoo(out).verify() == []
    run_script(monkeypatch, *words)
    assert tree(out) == tree(tiny_zoo.path)


@pytest.fixture
def unfinished(tmp_path, tiny_spec, monkeypatch):
    """A zoo whose training was killed when its first group had two of three snapshots."""
    out = tmp_path / "unfinished"

    def killed(group, fraction):
        raise Killed

    def two_snapshots(work, groups, processes, report, split):
        work.train(groups[0], work.images(), lambda fraction: fraction > 0 and killed(groups[0], fraction))

    with monkeypatch.context() as patched:
        patched.setattr(local, "run", two_snapshots)
        with pytest.raises(Killed):
            make_zoo(check_spec(tiny_spec, "here"), out)
    assert len(list(out.rglob("resume-*"))) == 1
    return out


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_an_unfinished_zoo_is_found(unfinished, count):
    draw = random.Random(1)
    files = sorted(path for path in unfinished.rglob("*") if path.suffix in (".safetensors", ".parquet", ".json"))
    assert len(files) == 6
    for _ in range(count):
        path = draw.choice(files)
        data = path.read_bytes()
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        assert any(str(path) in problem for problem in verify.problems(unfinished)), (path, place)
        path.write_bytes(data[:place])
        assert any(str(path) in problem for problem in verify.problems(unfinished)), (path, place)
        path.write_bytes(data)
    assert list(verify.problems(unfinished)) == []


def test_a_damaged_resume_file_says_what_to_do_and_that_helps(unfinished, tiny_spec, tiny_zoo):
    spec = check_spec(tiny_spec, "here")
    (path,) = unfinished.rglob("resume-*")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"damaged: its SHA-256 .* Remove resume-\d+\.safetensors and give the same"):
        make_zoo(spec, unfinished, processes=1)
    path.unlink()
    make_zoo(spec, unfinished, processes=1)
    assert tree(unfinished) == tree(tiny_zoo.path)


def test_a_differing_duplicate_is_an_error(unfinished, tiny_spec):
    record = layout.read_record(unfinished)
    path = next(unfinished.rglob("shards/*/0.safetensors"))
    group = path.parent.name
    rows, about = manifest.read(layout.fragment_path(unfinished, group, 0).read_bytes(), "")
    other = manifest.pack(rows, about | {"shard": "another"})
    layout.fragment_path(unfinished, group, 0).write_bytes(other)
    path.unlink()
    for resume in unfinished.rglob("resume-*"):
        resume.unlink()
    with pytest.raises(ValueError, match="holds other bytes than its nets gave"):
        make_zoo(check_spec(tiny_spec, "here"), unfinished, processes=1)
    assert not path.exists()
    assert layout.read_record(unfinished) == record


def test_verify_zoo_prints_damages_and_says_so_by_its_exit_code(tiny_zoo, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(tiny_zoo.path, tmp_path / "tiny")
    script = runpy.run_path(str(SCRIPT.with_name("verify_zoo.py")))
    monkeypatch.setattr(sys, "argv", ["verify_zoo.py", f"zoo={out}"])
    commandline.run(script["main"], script["Options"])
    assert "sound; " in capsys.readouterr().out
    path = next(out.rglob("shards/*/0.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SystemExit) as exit_:
        commandline.run(script["main"], script["Options"])
    assert exit_.value.code == 65
    printed = capsys.readouterr()
    assert f"{path}: truncated" in printed.out
    assert "1 damages, listed above" in printed.err


def test_ray_is_asked_for_only_when_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"executor=ray needs Ray, .*pip install 'ray>=2.40'"):
        executors.find("ray").check("cpu")
