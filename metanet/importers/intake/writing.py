"""Writing: a stream of foreign nets -> an ordinary zoo. It lies under a hidden name until it is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from metanet import formats, importers, machine
from metanet.errors import RefusedError
from metanet.importers.intake import accuracy, fitting, looking, rows
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.groups import ChangedError, Groups
from metanet.importers.intake.looking import Looked
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Foreign, LeftOut, Source, Stack
from metanet.progress import progress
from metanet.zoo import disk, layout
from metanet.zoo.manifest_writer import Writer
from metanet.zoo.store import Zoo, open_zoo

REPORT = "left_out.json"
BEGUN = ".begun.json"  # in an unfinished zoo: what it is made of
NON_FINITE = ("leave_out", "refuse", "keep")


def import_zoo(
    format: str,
    path: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    non_finite: str = "leave_out",
    verify: str | None = None,
    **options: Any,
) -> Zoo:
    """The zoo in the folder `out`, made of the foreign files at `path`; other options are those of the format.

    Equal sources give equal bytes, whatever the number of `workers`, processes that parse checkpoints and threads that
    write (as many as cores if left out; one does everything in turn), and however often the import was interrupted.
    What is left out stands in left_out.json, with a count and a reason. Nets with weights that are not finite are left
    out, make the import fail ("refuse"), or are kept with status "diverged". With verify="accuracy" some nets are tried
    on their image sets; see `metanet.importers.intake.accuracy`.

    Raises:
        ValueError: an unknown format or option, damaged files, or nothing that can be imported.
        RefusedError: nothing can be imported because reading it would not be safe.
        FileNotFoundError: nothing is at `path`.
        FileExistsError: something is at `out`.
        LockedError: another import writes to `out`.
        OSError: disk full, no permission, files that change while they are read, ...
    """
    reader, out, folder = importers.find(format), Path(out), Folder(path)
    formats.check_options(format, reader.read, options)
    if non_finite not in NON_FINITE:
        raise ValueError(f"non_finite={non_finite}: expected one of {', '.join(NON_FINITE)}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1")
    if verify not in (None, "accuracy"):
        raise ValueError(f"verify={verify}: expected accuracy")
    if out.exists():
        raise FileExistsError(f"{out}: is there already. Remove it, or choose another out=.")
    files, unfinished = folder.listing(), out.with_name(f".{out.name}.import{disk.TEMPORARY}")
    disk.make_folder(unfinished)
    told = {"format": format, "options": options | ({} if non_finite == "leave_out" else {"non_finite": non_finite})}
    begun = json.dumps({**told, "files": files, "versions": layout.versions()}, sort_keys=True).encode()
    workers = workers or machine.num_cores()
    with disk.one_writer(unfinished), Parser(workers) as parser, machine.single_threaded():
        try:
            disk.sync_folders(unfinished)
            if not (unfinished / BEGUN).is_file() or (unfinished / BEGUN).read_bytes() != begun:
                _clear(unfinished)
                disk.write_atomically(unfinished / BEGUN, begun)
            for temporary in [*unfinished.rglob(f".*{disk.TEMPORARY}")]:
                os.unlink(temporary)
            with ThreadPoolExecutor(workers) if workers > 1 else contextlib.nullcontext() as threads:
                try:
                    _fill(unfinished, out.name, reader, folder, parser, told, threads)
                except ChangedError:  # a file has been exchanged for one of its size and time
                    _clear(unfinished)
                    disk.write_atomically(unfinished / BEGUN, begun)
                    _fill(unfinished, out.name, reader, Folder(path), parser, told, threads)
            if verify:
                zoo = open_zoo(unfinished)
                record = {**zoo.record, "verified": {verify: accuracy.check(zoo)}}
                disk.write_atomically(unfinished / layout.RECORD, layout.pack(record))
            os.replace(unfinished, out)
            disk.sync_folder(out.parent)
        except BaseException:
            if not (unfinished / BEGUN).is_file() or not any((unfinished / "manifest").glob("*.parquet")):
                shutil.rmtree(unfinished, ignore_errors=True)  # nothing to go on from
            raise
    return open_zoo(out)


def summary(left_out: list[LeftOut]) -> dict[str, int]:
    """Reason -> how many nets were left out for it."""
    reasons: dict[str, int] = {}
    for one in left_out:
        reasons[one.reason] = reasons.get(one.reason, 0) + 1
    return reasons


def _fill(
    zoo: Path,
    name: str,
    reader: Any,
    folder: Folder,
    parser: Parser,
    told: Mapping[str, Any],
    threads: ThreadPoolExecutor | None,
) -> None:
    """Makes the unfinished zoo whole, going on from the groups that are there."""
    options = dict(told["options"])
    non_finite = options.pop("non_finite", "leave_out")
    source: Source = reader.read(folder, parser, **options)
    for part in ("shards", "manifest"):
        disk.make_folder(zoo / part)
    schema, left_out = rows.schema(source), list[LeftOut]()
    file = disk.written_atomically(zoo / layout.MANIFEST)
    try:
        with folder.hashing(threads), file as put, Writer(schema, put) as whole:
            groups = Groups(zoo, schema, whole, threads, parser.workers)
            with progress(f"importing {folder.path.name}", source.total, "snapshots") as advance:
                for looked in looking.look_ahead(source.nets, groups.done, threads, parser.workers):
                    left_out += looked if isinstance(looked, list) else _take(looked, groups, non_finite)
                    advance(len(looked))
            groups.end()
            _check_anything(groups, left_out, folder)
            sha256 = folder.sha256(parser.sha256)
    finally:
        folder.check_unchanged()  # what has changed meanwhile may be told as damage
    here = [dataclasses.replace(one, detail=one.detail.replace(f"{folder.root}/", "")) for one in left_out]
    _finish(zoo, name, {**told, "sha256": sha256}, rows.columns(source), groups, here)


def _check_anything(groups: Groups, left_out: list[LeftOut], folder: Folder) -> None:
    if groups.rows:
        return
    if not left_out:
        raise ValueError(f"{folder.path}: found no net of this format. docs/import.md says which files are expected.")
    kind = RefusedError if any(one.refused for one in left_out) else ValueError
    first = next((one for one in left_out if one.refused), left_out[0])
    raise kind(
        f"{folder.path}: no net could be imported: {summary(left_out)}. The first: {first.detail or first.where}"
    )


def _clear(folder: Path) -> None:
    """Removes the files that an import of something else has left."""
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]:
        os.unlink(path)


def _take(looked: Looked, groups: Groups, non_finite: str) -> Iterator[LeftOut]:
    """Puts nets into the groups; those that are left out."""
    found, bad = looked.found, looked.bad
    wheres = [found.where] if isinstance(found, Foreign) else found.where
    if bad and non_finite == "refuse":
        raise ValueError(
            f"{wheres[min(bad)]}: {bad[min(bad)]} is not finite. With non_finite=leave_out such nets are left out, "
            f"with non_finite=keep they come with status diverged."
        )
    left_out = dict(looking.problems(found))
    for row, tensor in bad.items() if non_finite == "leave_out" else ():
        left_out[row] = LeftOut(wheres[row], "weights that are not finite", f"{wheres[row]}: {tensor} is not finite")
    kept = [row for row in range(len(wheres)) if row not in left_out]
    statuses = ["diverged" if row in bad else "ok" for row in kept]
    arch_name = fitting.name(found.arch)
    if isinstance(found, Stack):
        stack = found.rows(kept) if left_out else found
        again = [kept[row] for row in groups.add_stack(arch_name, stack, statuses, looked.is_there)]
    else:
        again = [row for row in kept if not groups.add(arch_name, found, looked.tensors, statuses[row])]
    for row in again:
        step = found.columns["step"][row] if isinstance(found, Stack) else found.step
        left_out[row] = LeftOut(wheres[row], "a run's step that is there already", f"{wheres[row]}: step {step}")
    yield from (left_out[row] for row in sorted(left_out))


def _finish(
    zoo: Path,
    name: str,
    source: Mapping[str, Any],
    columns: Mapping[str, Any],
    groups: Groups,
    left_out: list[LeftOut],
) -> None:
    """Writes what makes a zoo of shards and manifest, and removes what an interrupted import goes on from."""
    record = {
        "schema": layout.IMPORTED,
        "spec": {
            "name": name,
            "num_classes": max(arch["num_classes"] for arch in groups.archs.values()),
            "eval_images": None,
        },
        "spec_sha256": disk.sha256(json.dumps(source, sort_keys=True).encode()),  # what runs know the zoo by
        "source": {**source, "left_out": len(left_out)},
        "device": "cpu",
        "versions": layout.versions(),
        "columns": columns,
        "archs": groups.archs,
        "plan": groups.plan,
    }
    told = [{"where": one.where, "reason": one.reason, "detail": one.detail} for one in left_out]
    report = {"count": len(left_out), "reasons": summary(left_out), "left_out": told}
    disk.write_atomically(zoo / REPORT, json.dumps(report, indent=1).encode())
    disk.write_atomically(zoo / layout.RECORD, layout.pack(record))
    os.unlink(zoo / BEGUN)
    disk.sync_folder(zoo)
