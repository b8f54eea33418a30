import errno
import os
import stat
import subprocess
import sys

import pytest

from metanet.errors import LockedError
from metanet.zoo import disk


def test_a_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    disk.write_atomically(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"cannot write 3 bytes \(No space left on device\).*file"):
        disk.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_writer_is_refused_with_the_holder_and_the_lock_is_free_after_a_kill(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from metanet.zoo import disk\n"
        "with disk.one_writer(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(LockedError, match=rf"another process is writing .*process {holder.pid}"),
            disk.one_writer(tmp_path),
        ):
            pass
        holder.kill()
    with disk.one_writer(tmp_path):
        pass


@pytest.mark.parametrize("number", [None, errno.ENOTSUP])
def test_a_file_is_put_once_and_a_different_one_is_refused(tmp_path, monkeypatch, number):
    """Also where the file system has no links."""

    def link(source, target):
        raise OSError(number, "no links")

    if number:
        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "file"
    for _ in range(2):
        disk.put_if_absent(path, b"first")
    with pytest.raises(ValueError, match="file: holds other bytes than its nets gave"):
        disk.put_if_absent(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_made_durable_before_it_counts(tmp_path, monkeypatch):
    """Who has put it may have been killed before the folder was synced."""
    (tmp_path / "file").write_bytes(b"first")
    synced = []
    monkeypatch.setattr(disk, "sync_folder", synced.append)
    disk.put_if_absent(tmp_path / "file", b"first")
    assert synced == [tmp_path]


def test_of_two_workers_at_once_the_second_finds_what_the_first_put(tmp_path, monkeypatch):
    path, real = tmp_path / "file", os.link

    def faster(source, target):
        path.write_bytes(b"first")
        real(source, target)

    monkeypatch.setattr(os, "link", faster)
    disk.put_if_absent(path, b"first")
    path.unlink()
    with pytest.raises(ValueError, match="holds other bytes"):
        disk.put_if_absent(path, b"second")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    with (
        pytest.raises(OSError, match=r"cannot lock the folder \(No locks available\).*\.lock"),
        disk.one_writer(tmp_path),
    ):
        pass
