"""Layout: where the files of a zoo lie, and zoo.json, which says what it is; written before anything is trained."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import safetensors
import torch

import metanet
from metanet.zoo import disk, manifest, plan
from metanet.zoo.plan import Group
from metanet.zoo.spec import Spec

SCHEMA = 2  # 1 had no SHA-256 of the rows in its manifest files, and none of what training resumes from
STOPPING = 4  # a group whose nets stop early, each at its own step, has all of them in one shard and one fragment
IMPORTED = 5  # of imported zoos: all groups have; their manifest grows as they come (3: was sorted when all were there)
READABLE = (1, SCHEMA, 3, STOPPING, IMPORTED)
RECORD = "zoo.json"
MANIFEST = "manifest.parquet"  # written when all nets are trained
LOG = "log.jsonl"  # times and host facts: the one file that differs between two makings of a zoo


def shard_path(zoo: Path, group: str, step: int | None) -> Path:
    """`step` is None where a shard has all steps of its group."""
    return zoo / "shards" / (f"{group}.safetensors" if step is None else f"{group}/{step}.safetensors")


def resume_path(zoo: Path, group: str, step: int) -> Path:
    """What training goes on from after `step` steps; gone when the group is done."""
    return zoo / "shards" / group / f"resume-{step}.safetensors"


def candidate_path(zoo: Path, group: str, step: int) -> Path:
    """What nets that stop early were after `step` steps, of which it may be a snapshot; gone when the group is done."""
    return zoo / "shards" / group / f"candidate-{step}.safetensors"


def fragment_path(zoo: Path, group: str, step: int | None) -> Path:
    return zoo / "manifest" / (f"{group}.parquet" if step is None else f"{group}-{step}.parquet")


def has_digests(record: Mapping[str, Any]) -> bool:
    """Whether the manifest's files carry a SHA-256 of their rows: see `manifest.read`."""
    return record["schema"] > 1


def steps(entry: Mapping[str, Any]) -> list[int | None]:
    """Those of a group's shards, by its entry in the plan: [None] where one shard has all steps."""
    return entry.get("steps", [None])


def snapshots(record: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Group and step of every shard that the finished zoo has."""
    for entry in record["plan"]:
        for step in steps(entry):
            yield entry["group"], step


def is_complete(zoo: Path, record: Mapping[str, Any]) -> bool:
    """Whether every file is there (not whether it is sound: see `Zoo.verify`)."""
    return (zoo / MANIFEST).is_file() and all(
        path(zoo, *snapshot).is_file() for path in (fragment_path, shard_path) for snapshot in snapshots(record)
    )


def pack_record(spec: Spec, groups: list[Group], device: str, tf32: bool = False) -> bytes:
    """The zoo.json of a new zoo. Nothing in it depends on the clock, the host or the path."""
    return pack(
        {
            "schema": schema(groups),
            "spec": spec.to_dict(),
            "spec_sha256": spec.hash(),
            "device": device.split(":")[0],  # the kind: results of another are equal to rounding only
            **({"tf32": True} if tf32 else {}),
            "versions": versions(),
            "columns": manifest.columns(spec),
            "archs": {group.arch_name: dict(group.arch) for group in groups},
            "plan": plan.to_json(groups),
        }
    )


def schema(groups: list[Group]) -> int:
    """That of a zoo that is trained by this version."""
    return STOPPING if any(group.stops_early for group in groups) else SCHEMA


def replan(record: Mapping[str, Any], groups: list[Group]) -> bytes:
    """The zoo.json of a zoo whose plan has changed."""
    return pack({**record, "plan": plan.to_json(groups)})


def versions() -> dict[str, str]:
    """What can change the bits of a net or of a file."""
    return {
        "metanet": metanet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pyarrow": pyarrow.__version__,
        "safetensors": safetensors.__version__,
    }


def log(zoo: Path, event: str, **facts: object) -> None:
    """Times and host facts, for people; nothing reads them back."""
    disk.append_line(zoo / LOG, json.dumps({"time": round(time.time(), 3), "event": event, **facts}))


def read_record(zoo: Path) -> dict[str, Any]:
    """The content of zoo.json.

    Raises:
        FileNotFoundError: there is none: no zoo.
        ValueError: damaged, or of another schema.
    """
    path = zoo / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{zoo}: no zoo here ({RECORD} is missing). Make one with "
            f"`python scripts/make_zoo.py spec=zoo_specs/NAME.yaml out={zoo}`."
        )
    data = path.read_bytes()
    try:
        content = json.loads(data)
        del content["sha256"]
        schema, intact = content["schema"], pack(content) == data
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged: no JSON as it was written ({error}). Make the zoo elsewhere.") from error
    if not intact:
        raise ValueError(f"{path}: damaged or edited: its SHA-256 does not fit. Make the zoo elsewhere.")
    if schema not in READABLE:
        raise ValueError(
            f"{path}: found schema {schema}, expected one of {', '.join(map(str, READABLE))}: made by a newer metanet "
            f"(here is {metanet.__version__}), or none of ours. Read it with the version that made it."
        )
    return content


def pack(content: Mapping[str, Any]) -> bytes:
    """The bytes of zoo.json, with their own SHA-256."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    lines = [f"{json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in content.items()]
    return ("{\n" + ",\n".join([*lines, f'"sha256": "{digest}"']) + "\n}\n").encode()
