"""Exporters: one format of files for nets of a zoo per module of this folder, found by being here.

A format's docstring says what its files are and how they are opened. It defines

    write(zoo, snapshots, folder, **options) -> Iterator[None]

which writes the nets into the empty `folder` with `disk.write_atomically`, and yields once for each that is done. Its
keyword-only arguments are the options it takes on the command line. It raises ValueError, before it writes, where a net
has no such form. `export_nets` does everything else: which nets, whether their bytes are as they were written, and that
the folder is whole or not there.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from metanet import formats as by_name
from metanet.errors import LockedError
from metanet.progress import progress
from metanet.zoo import disk, nets, shards
from metanet.zoo.store import Zoo

DEFAULT = "checkpoints"


@dataclass(frozen=True)
class Snapshot:
    """One net at one step, as a format gets it."""

    zoo: Zoo
    row: dict[str, Any]  # of the manifest

    @property
    def name(self) -> str:
        """Of its file or folder, without an ending."""
        return f"net-{self.row['net']}-step-{self.row['step']}"

    @property
    def arch(self) -> dict[str, Any]:
        return self.zoo.archs[self.row["arch"]]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights under the names of `nets.build(arch)`.

        Raises:
            ValueError: they are not those that were written into the zoo.
        """
        found = self.zoo.state_dict(self.row["net"], self.row["step"])
        (sha256,) = shards.net_hashes({name: tensor[None] for name, tensor in found.items()})
        if sha256 != self.row["sha256"]:
            raise ValueError(
                f"{self.zoo.path}: {self.name} is damaged: its SHA-256 is not that of the manifest. "
                f"scripts/verify_zoo.py tells what else is; leave the net out with nets=[...]."
            )
        return found

    def own_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names that the owner of the module knows: see `nets.own_names`."""
        return nets.own_names(self.state_dict(), self.arch)

    def labels(self, path: str) -> dict[str, Any]:
        """The row of a table that describes the file at `path`, with the columns of metanet/importers/table.py."""
        left_out = {"net", "lineage", "group", "row", *self.zoo.columns["architecture"]}
        about = {name: value for name, value in self.row.items() if name not in left_out}
        return {"path": path, "run": self.row["lineage"], "net": self.row["net"], **about}


def formats() -> list[str]:
    """The names of all formats."""
    return by_name.names(sys.modules[__name__])


def find(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        ValueError: no such format.
    """
    return by_name.find(sys.modules[__name__], name)


def choose(zoo: Zoo, numbers: Sequence[int] = (), step: int | None = None) -> list[Snapshot]:
    """The nets called by their numbers at `step`, or at each one's last; without numbers, all that did not diverge.

    Raises:
        ValueError: no such net or snapshot, or none at all.
    """
    rows = zoo.manifest.to_pylist()
    wanted = list(dict.fromkeys(numbers)) or sorted({row["net"] for row in rows})
    chosen = [rows[zoo.row(net, zoo.steps(net)[-1] if step is None else step)] for net in wanted]
    found = [Snapshot(zoo, row) for row in chosen if numbers or row["status"] == "ok"]
    if not found:
        raise ValueError(f"{zoo.path}: none of its {len(wanted)} nets has status ok, so there is nothing to export")
    return found


def check_shard_size(bytes: int) -> None:
    """Raises ValueError for an option shard_size= that no file can keep to."""
    if bytes < 1:
        raise ValueError(f"shard_size={bytes}: expected bytes, at least 1; a tensor or graph is never divided")


def put_labels(path: Path, rows: Sequence[Mapping[str, Any]], snapshots: Sequence[Snapshot]) -> None:
    """A CSV table with the rows, and beside it archs.json with the architectures that they name."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # None is an empty cell, and a float all digits that it needs
    disk.write_atomically(path, text.getvalue().encode())
    archs = {snapshot.row["arch"]: snapshot.arch for snapshot in snapshots}
    disk.write_atomically(path.with_name("archs.json"), json.dumps(archs, indent=1, sort_keys=True).encode())


def export_nets(zoo: Zoo, snapshots: Sequence[Snapshot], format: str, out: str | Path, **options: Any) -> None:
    """Writes nets into the folder `out`; options are those of the format. Equal nets give equal bytes.

    `out` lies under a hidden name until it is whole. An empty folder that is there already is taken.

    Raises:
        ValueError: an unknown format or option, a damaged zoo, or nets that have no such form.
        FileExistsError: something is at `out`.
        LockedError: another export writes to `out`.
        OSError: disk full, no permission, ...
    """
    writer, out = find(format), Path(out).resolve()
    by_name.check_options(format, writer.write, options)
    _check_free(out)
    work = out.with_name(f".{out.name}.export{disk.TEMPORARY}")
    whole = work / "whole"
    if work.is_symlink() or whole.is_symlink():
        raise FileExistsError(f"{work}: a link is where the export puts its files. Remove it.")
    disk.make_folder(work)
    try:
        with disk.one_writer(work):
            shutil.rmtree(whole, ignore_errors=True)  # what a killed export left
            disk.make_folder(whole)
            with progress(f"exporting to {out}", len(snapshots)) as advance:
                done: Iterator[None] = writer.write(zoo, snapshots, whole, **options)
                for _ in done:
                    advance()
            _check_free(out)
            os.rename(whole, out)
            disk.sync_folder(out.parent)
            shutil.rmtree(work)
    except LockedError:  # what lies there is the other's
        raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: is there already. Remove it, or choose another out=.")
