"""Kills, full disks and other failures: each is one clear error, and the same command mends it."""

import errno
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml

import metanet
from metanet.zoo import disk, layout, manifest
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from metanet.zoo.store import Zoo
from tests.zoo.making import command, command_line, exit_code, in_child, run_script, tree, worker_processes


@pytest.fixture
def made(request, tmp_path, spec_file, tiny_zoo) -> tuple[Path, Zoo]:
    """A spec's file and the zoo that it gives when nothing happens: the tiny one, or one whose nets stop early."""
    if request.param == "tiny":
        return spec_file, tiny_zoo
    path = tmp_path / "stopping.yaml"
    path.write_text(yaml.safe_dump(request.getfixturevalue("stopping_spec")))
    return path, request.getfixturevalue("stopping_zoo")


def files(out: Path) -> set[str]:
    """Those that are whole; `os.walk`, since `rglob` fails on a folder that is removed while it looks."""
    names = itertools.chain.from_iterable(names for _, _, names in os.walk(out))
    return {name for name in names if name.endswith((".parquet", ".safetensors")) and name[0] != "."}


def fragments(tree: dict[str, str]) -> dict[str, str]:
    """Those that acknowledge snapshots; a file that was not whole when the process ended does not."""
    return {name: digest for name, digest in tree.items() if name.startswith("manifest/") and "/." not in name}


@pytest.mark.parametrize(
    ("made", "kills"),
    [("tiny", 1), *(pytest.param(kind, 25, marks=pytest.mark.slow) for kind in ("tiny", "stopping"))],
    indirect=["made"],
)
def test_sigkill_at_random_times_and_the_same_command_give_the_same_bytes(tmp_path, made, kills):
    out, draw = tmp_path / "tiny", random.Random(kills)
    spec_file, expected = made
    acknowledged: dict[str, str] = {}
    words = command(f"spec={spec_file}", f"out={out}", "processes=2")
    for _ in range(kills):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            seen, more = files(out), draw.randint(1, 12)
            target = len(seen) + more
            while process.poll() is None and len(seen) < target:
                time.sleep(0.01)
                seen |= files(out)
            workers = worker_processes(process.pid)
            process.kill()
        while any(b"spawn_main" in command_line(worker) for worker in workers):
            time.sleep(0.01)  # they end when their parent does: without that this test would not
        now = tree(out)
        assert acknowledged.items() <= now.items()
        zoo = metanet.open_zoo(out)
        assert zoo.verify() == []
        acknowledged = fragments(now)
        if zoo.finished:
            assert now == tree(expected.path)
            shutil.rmtree(out)
            acknowledged = {}
    finished = subprocess.run(words, check=True, capture_output=True, text=True)
    assert f"nets of {len(expected.archs)} architectures, {len(expected)} snapshots, " in finished.stdout
    assert tree(out) == tree(expected.path)


def test_ctrl_c_ends_cleanly_with_one_line(tmp_path, spec_file):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it
    out = tmp_path / "tiny"
    words = command(f"spec={spec_file}", f"out={out}", "processes=2", "override.epochs=2000")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(name.endswith(".parquet") for name in files(out)):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the same command again goes on from here" in errors
    assert "Traceback" not in errors


def test_a_jumping_clock_changes_no_byte(tmp_path, tiny_spec, tiny_zoo, monkeypatch):
    times = iter(range(10**9, 0, -(10**4)))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=1)
    assert tree(tmp_path / "tiny") == tree(tiny_zoo.path)


@pytest.mark.parametrize(
    ("made", "stride"),
    [
        ("tiny", 29),
        ("stopping", 83),
        *(pytest.param(*of, marks=pytest.mark.slow) for of in (("tiny", 1), ("stopping", 3))),
    ],
    indirect=["made"],
)
def test_an_error_at_any_fsync_is_one_clear_error_and_loses_nothing(tmp_path, made, monkeypatch, capsys, stride):
    """Each attempt fails one fsync later than the last, and goes on from what that has left."""
    out, real = tmp_path / "zoo", os.fsync
    spec_file, expected = made
    words = (f"spec={spec_file}", f"out={out}", "processes=1")
    errors = itertools.cycle([(errno.EIO, 74), (errno.ENOSPC, 74), (errno.EROFS, 74), (errno.EACCES, 73)])
    acknowledged: dict[str, str] = {}
    for first, (number, code) in zip(itertools.count(8, stride), errors, strict=False):
        left = first

        def failing(descriptor, number=number):
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(number, os.strerror(number))
            real(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failing)
            found = exit_code(lambda: run_script(monkeypatch, *words))
        if found == 0:
            break
        assert found == code
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        assert os.strerror(number) in line
        assert str(out) in line
        now = tree(out)
        assert not [name for name in now if name.endswith(disk.TEMPORARY)]
        assert acknowledged.items() <= now.items()
        assert metanet.open_zoo(out).verify() == []
        acknowledged = fragments(now)
    assert tree(out) == tree(expected.path)
    assert acknowledged


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, spec_file, tiny_zoo, monkeypatch, capfd):
    """The system itself cuts a write short and refuses the next."""
    out = tmp_path / "zoo"
    words = (f"spec={spec_file}", f"out={out}", "processes=1")

    def make():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        run_script(monkeypatch, *words)

    assert in_child(make) == 74
    assert re.search(
        rf"error: .*cannot write [\d,]+ bytes \({os.strerror(errno.EFBIG)}\).*{out}", capfd.readouterr().err
    )
    assert not list(out.rglob(f"*{disk.TEMPORARY}"))
    zoo = metanet.open_zoo(out)
    assert zoo.verify() == []
    assert not zoo.finished
    run_script(monkeypatch, *words)
    assert tree(out) == tree(tiny_zoo.path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_file_system_goes_on_when_there_is_room(tmp_path, spec_file, tiny_zoo, monkeypatch, capsys):
    out, mounted = tmp_path / "disk" / "zoo", tmp_path / "disk"
    words = (f"spec={spec_file}", f"out={out}", "processes=1")
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", mounted]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("root may not mount a small disk here")
    try:
        with pytest.raises(SystemExit) as exit_:
            run_script(monkeypatch, *words)
        assert exit_.value.code == 74
        assert f"({os.strerror(errno.ENOSPC)})" in capsys.readouterr().err
        assert metanet.open_zoo(out).verify() == []
        subprocess.run(["mount", "-o", "remount,size=8m", mounted], check=True)
        run_script(monkeypatch, *words)
        assert tree(out) == tree(tiny_zoo.path)
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_folder_that_may_only_be_read_is_one_clear_error_and_its_zoo_is_read(
    spec_file, tiny_spec, tiny_zoo, unfinished, monkeypatch, capfd
):
    """As another user than root, who may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        finished, begun = Path(folder) / "finished", Path(folder) / "begun"
        shutil.copytree(tiny_zoo.path, finished)
        shutil.copytree(unfinished, begun)
        shutil.copy(spec_file, folder)

        def make_and_read():
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            assert metanet.open_zoo(finished).verify() == []
            assert make_zoo(check_spec(tiny_spec, "here"), finished).finished
            for out in (begun, Path(folder) / "new"):
                with pytest.raises(SystemExit) as exit_:
                    run_script(monkeypatch, f"spec={folder}/tiny.yaml", f"out={out}", "processes=1")
                assert exit_.value.code == 73

        folders = [Path(folder), *(path for path in Path(folder).rglob("*") if path.is_dir())]
        for path in Path(folder).rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        for path in folders:
            path.chmod(0o555)
        try:
            assert in_child(make_and_read) == 0
        finally:
            for path in folders:
                path.chmod(0o755)
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 2
        assert str(begun) in errors[0]
        assert str(Path(folder) / "new") in errors[1]
        assert all("Permission denied" in error for error in errors)


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
