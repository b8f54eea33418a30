"""Verify: finds every changed, missing or truncated byte of a zoo by the SHA-256 written with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from metanet.zoo import layout, manifest, shards

REMEDY = "Remove the file and give the same make_zoo command again: what it held is trained anew."


def problems(zoo: Path, record: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per damage, naming file, tensor and net, and what to do. `record` is the content of zoo.json."""
    whole = zoo / layout.MANIFEST
    finished = whole.is_file()
    expected: dict[str, str] | None = None  # SHA-256 of every fragment
    if finished:
        try:
            expected = manifest.read(whole.read_bytes(), whole)[1]
        except ValueError as error:
            yield f"{error} {REMEDY}"
    fragments: dict[str, bytes] = {}
    sound = expected is not None
    for group, step in layout.snapshots(record):
        path = layout.fragment_path(zoo, group, step)
        if not path.is_file():
            if finished:
                sound = False
                yield f"{path}: missing. {REMEDY}"
            continue
        data = fragments[path.name] = path.read_bytes()
        try:
            rows, hashes = manifest.read(data, path)
        except ValueError as error:
            sound = False
            yield f"{error} {REMEDY}"
            continue
        if expected is not None and hashlib.sha256(data).hexdigest() != expected.get(path.name):
            sound = False
            yield f"{path}: damaged, or its SHA-256 in {whole} is; take both files for damaged. {REMEDY}"
        yield from _shard_problems(layout.shard_path(zoo, group, step), rows, hashes)
    if sound and record["versions"] == layout.versions() and manifest.merge(fragments) != whole.read_bytes():
        yield f"{whole}: damaged: it differs from its fragments. {REMEDY}"


def _shard_problems(path: Path, rows: pa.Table, hashes: Mapping[str, Any]) -> Iterator[str]:
    nets: list[int] = rows["net"].to_pylist()
    try:
        tensors, _ = shards.load(path)
    except (ValueError, FileNotFoundError) as error:
        yield f"{error} It holds the nets {', '.join(map(str, nets))}. {REMEDY}"
        return
    if hashlib.sha256(path.read_bytes()).hexdigest() == hashes["shard"]:
        yield from _not_finite(path, rows, tensors)
        return
    found = shards.tensor_hashes(tensors)
    wrong = [name for name, was in hashes["tensors"].items() if found.get(name) != was]
    if not wrong or set(found) != set(hashes["tensors"]):
        yield f"{path}: damaged: its header is not what was written. {REMEDY}"
        return
    own = zip(nets, shards.net_hashes(tensors), rows["sha256"].to_pylist(), strict=True)
    changed = [str(net) for net, now, was in own if now != was]
    yield f"{path}: damaged: {', '.join(wrong)} of net {', '.join(changed)} is not what was written. {REMEDY}"


def _not_finite(path: Path, rows: pa.Table, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Weights that were written so; training stores the last finite ones of a net that diverges."""
    for name, tensor in tensors.items():
        finite = tensor.flatten(1).isfinite().all(1).tolist() if tensor.is_floating_point() else []
        for net, good, status in zip(rows["net"].to_pylist(), finite, rows["status"].to_pylist(), strict=False):
            if not good:
                yield f"{path}: {name} of net {net} (status {status}) is not finite. Leave the net out."
