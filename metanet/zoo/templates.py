"""Templates: the parameter graphs that build_graphs has left in a zoo's folder, so that not every process traces anew.

A file counts if it was traced from the same architecture by the same code; a stale one is left alone, and the caller
traces. Each is a template as `Template.to_json` writes it, with one key more that says what it was made from.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import metanet
from metanet.arch.template import Template
from metanet.zoo import disk

_KEY = "made_from"


def path(zoo: Path, arch_name: str, activation: str) -> Path:
    return zoo / "templates" / f"{arch_name}-{activation}.json"


def write(path: Path, arch: Mapping[str, Any], activation: str, template: Template) -> None:
    """Writes a template that was traced from the architecture `arch` (an entry of zoo.json) with that activation."""
    text = template.to_json()
    made_from = _made_from(arch, activation) | {"sha256": disk.sha256(text.encode())}
    disk.write_atomically(path, json.dumps({**json.loads(text), _KEY: made_from}, separators=(",", ":")).encode())


def read(path: Path, arch: Mapping[str, Any], activation: str) -> Template | None:
    """The template that `write` put there; None if there is none, or it was made from something else.

    Raises:
        ValueError: damaged.
    """
    if not path.is_file():
        return None
    text = path.read_text(errors="replace")
    try:
        made_from = json.loads(text).get(_KEY, {})
        if {**made_from, "sha256": None} != {**_made_from(arch, activation), "sha256": None}:
            return None
        template = Template.from_json(text)
        intact = disk.sha256(template.to_json().encode()) == made_from.get("sha256")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}). Remove it; scripts/build_graphs.py writes it anew.") from error
    if not intact:
        raise ValueError(f"{path}: damaged or edited. Remove it; scripts/build_graphs.py writes it anew.")
    return template


def _made_from(arch: Mapping[str, Any], activation: str) -> dict[str, Any]:
    return {"arch": dict(arch), "activation": activation, "torch": torch.__version__, "code": _code()}


@functools.cache
def _code() -> str:
    """SHA-256 of metanet's sources: another rule for an operator may give another graph."""
    folder = Path(metanet.__file__).parent
    digest = hashlib.sha256()
    for source in sorted(folder.rglob("*.py")):
        digest.update(f"{source.relative_to(folder)}\n".encode() + source.read_bytes())
    return digest.hexdigest()
