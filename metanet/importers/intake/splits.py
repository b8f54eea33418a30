"""Splits: a JSON that says of a zoo's files which part of its authors' split they are in, and their labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from metanet.importers.intake.folder import Folder


def read(folder: Folder, name: str, names: Collection[str], label: str) -> dict[str, Mapping[str, Any]]:
    """{part: {"path": [...], label: [...]}} -> for each file that is in `names`, {"split": part, label: its label}.

    Its paths may be those of another machine: they are matched by their ends.

    Raises:
        ValueError: no JSON of splits, or none of its files is in `names`.
    """
    known = set(names)
    found: dict[str, Mapping[str, Any]] = {}
    parts = folder.json(name)
    for split, part in parts.items() if isinstance(parts, dict) else ():
        paths, labels = (part.get(column) if isinstance(part, dict) else None for column in ("path", label))
        if not isinstance(paths, list) or not isinstance(labels, list) or len(paths) != len(labels):
            raise ValueError(f"{name}: {split}: expected the lists path and {label}, of equal length")
        for path, value in zip(paths, labels, strict=True):
            pieces = str(path).split("/")
            ends = ("/".join(pieces[start:]) for start in range(len(pieces)))
            own = next((end for end in ends if end in known), None)
            if own is not None:
                found[own] = {"split": split, label: value}
    if not found:
        raise ValueError(f"{name}: names no file of {folder.path}; expected {{split: {{path: [...], {label}: [...]}}}}")
    return found
