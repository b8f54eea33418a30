"""Verify: finds every changed, missing or truncated byte of a zoo by the SHA-256 written with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from metanet.zoo import disk, layout, manifest, shards
from metanet.zoo.manifest_writer import rows_hash

REMEDY = (
    "Remove the file and give the same make_zoo command again: what it held is trained anew. "
    "An imported zoo is imported again."
)


def problems(zoo: Path, advance: Callable[[int], object] = lambda count: None) -> Iterator[str]:
    """One sentence per damage, naming file, tensor and net, and what to do.

    `advance(1)` is called for every shard of the plan. Cost: every byte is read and hashed once.
    """
    try:
        record = layout.read_record(zoo)
    except ValueError as error:
        yield str(error)
        return
    whole, digested = zoo / layout.MANIFEST, layout.has_digests(record)
    finished = whole.is_file()
    rows: pa.Table | None = None
    expected: dict[str, str] | None = None  # SHA-256 of every fragment
    if finished:
        try:
            rows, expected = manifest.read(whole.read_bytes(), whole, digested)
        except ValueError as error:
            yield f"{error} {REMEDY}"
    fragments: dict[str, bytes] = {}
    sound = True
    kept = record.get("source", {}).get("options", {}).get("non_finite") == "keep"
    for entry in record["plan"]:
        for step in layout.steps(entry):
            path = layout.fragment_path(zoo, entry["group"], step)
            if path.is_file():
                fragments[path.name] = path.read_bytes()
                told = list(_fragment_problems(path, fragments[path.name], expected, record))
                told = [
                    f"{problem} It holds the rows of the nets {_listed(entry['nets'])}. {REMEDY}" for problem in told
                ]
                yield from told
                sound = sound and not told
                yield from _weights_problems(zoo, entry, step, fragments[path.name], digested, kept)
            elif finished:
                sound = False
                yield f"{path}: missing. It holds the rows of the nets {_listed(entry['nets'])}. {REMEDY}"
            elif step is None:
                yield from _candidate_problems(zoo, entry)
            advance(1)
    if rows is not None and sound:
        imported = record["schema"] == layout.IMPORTED
        merged = manifest.merge_imported(fragments) if imported else manifest.merge(fragments, digested)
        other_rows = rows_hash(manifest.read(merged, whole)[0]) != rows_hash(rows)
        if other_rows or (_gives_same_bytes(record) and merged != whole.read_bytes()):
            yield f"{whole}: damaged: it differs from its fragments. {REMEDY}"


def _gives_same_bytes(record: Mapping[str, Any]) -> bool:
    """Whether the same rows are written in the same bytes here."""
    return layout.has_digests(record) and record["versions"] == layout.versions()


def _fragment_problems(
    path: Path, data: bytes, expected: Mapping[str, str] | None, record: Mapping[str, Any]
) -> Iterator[str]:
    try:
        rows, about = manifest.read(data, path, layout.has_digests(record))
    except ValueError as error:
        yield str(error)
        return
    if expected is not None and disk.sha256(data) != expected.get(path.name):
        whole = path.parent.parent / layout.MANIFEST
        yield f"{path}: damaged, or its SHA-256 in {whole} is; take both files for damaged."
    elif expected is None and _gives_same_bytes(record):
        imported = record["schema"] == layout.IMPORTED
        packed = manifest.pack_imported(rows, rows_hash(rows), about) if imported else manifest.pack(rows, about)
        if packed != data:
            yield f"{path}: damaged: its rows are right, but other bytes are not what was written."


def _weights_problems(
    zoo: Path, entry: Mapping[str, Any], step: int | None, fragment: bytes, digested: bool, kept: bool
) -> Iterator[str]:
    """Of the shard and the resume file that belong to a fragment; none where the fragment cannot tell."""
    try:
        rows, hashes = manifest.read(fragment, "", digested)
    except ValueError:
        return
    yield from _shard_problems(layout.shard_path(zoo, entry["group"], step), rows, hashes, kept)
    resume = None if step is None else layout.resume_path(zoo, entry["group"], step)
    if resume and resume.is_file() and digested and disk.sha256(resume.read_bytes()) != hashes["resume"]:
        yield (
            f"{resume}: damaged: what the training of the nets {_listed(entry['nets'])} goes on from is not what was "
            f"written. {REMEDY}"
        )


def _candidate_problems(zoo: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    """Of what is kept of nets that stop early while they are trained."""
    for path in sorted(layout.candidate_path(zoo, entry["group"], 0).parent.glob("[!.]*.safetensors")):
        try:
            shards.load_sealed(path)
        except FileNotFoundError:
            continue  # training has just gone on
        except ValueError as error:
            yield f"{error} It belongs to the training of the nets {_listed(entry['nets'])}. {REMEDY}"


def _shard_problems(path: Path, rows: pa.Table, hashes: Mapping[str, Any], kept: bool) -> Iterator[str]:
    nets: list[int] = rows["net"].to_pylist()
    try:
        tensors, _ = shards.load(path)
    except (ValueError, FileNotFoundError) as error:
        yield f"{error} It holds the nets {_listed(nets)}. {REMEDY}"
        return
    has_own_hash = "shard" in hashes  # else every byte is in the header's SHA-256 or in that of a net
    if has_own_hash and disk.sha256(path.read_bytes()) == hashes["shard"]:
        yield from _not_finite(path, rows, tensors, kept)
        return
    of_tensors = shards.tensor_hashes if has_own_hash else shards.tensor_sums
    found, were = of_tensors(tensors), hashes["tensors"]
    if not has_own_hash:  # earlier imports have whole sums
        were = {name: was % 2**32 for name, was in were.items()}
    wrong = [name for name, was in were.items() if found.get(name) != was]
    header_changed = not wrong if has_own_hash else shards.header_hash(path) != hashes["header"]
    if header_changed or set(found) != set(were):
        yield f"{path}: damaged: its header is not what was written. It holds the nets {_listed(nets)}. {REMEDY}"
        return
    own = zip(nets, shards.net_hashes(tensors), rows["sha256"].to_pylist(), strict=True)
    changed = [net for net, now, was in own if now != was]
    if changed or wrong:
        yield f"{path}: damaged: {', '.join(wrong)} of net {_listed(changed)} is not what was written. {REMEDY}"
        return
    yield from _not_finite(path, rows, tensors, kept)


def _not_finite(path: Path, rows: pa.Table, tensors: Mapping[str, Tensor], kept: bool) -> Iterator[str]:
    """Weights that were written so; training stores the last finite ones of a net that diverges.

    `kept`: the import was told to keep such nets, with status "diverged".
    """
    for name, tensor in tensors.items():
        finite = tensor.flatten(1).isfinite().all(1).tolist() if tensor.is_floating_point() else []
        for net, good, status in zip(rows["net"].to_pylist(), finite, rows["status"].to_pylist(), strict=False):
            if not good and not (kept and status == "diverged"):
                yield f"{path}: {name} of net {net} (status {status}) is not finite. Leave the net out."


def _listed(nets: Iterable[int]) -> str:
    return ", ".join(map(str, nets))
