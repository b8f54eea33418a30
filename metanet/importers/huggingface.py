"""Folders as Hugging Face has them: config.json with model.safetensors, one net or a folder of such folders.

The weights may be in shards with model.safetensors.index.json, or in pytorch_model.bin (with an index or not), which is
read as plain tensors or not at all. Point `path` at a folder of `save_pretrained`, at a zoo of them, at the outputs
of a Trainer (RUN/checkpoint-500: run and step, and from trainer_state.json the epoch), or at models--NAME in the cache.

The net is made by the class that config.json names under "architectures", of the installed transformers; code that it
names itself (auto_map) is refused. Tensors that the architecture ties (a head to the embedding) may be missing, and
must be equal if they are there. Weights of half precision are stored in float32. source.file keeps config.json, the
types of the numbers, which tensors were made by a tie or a new name, and which names are gone for it. A checkpoint of
another version of transformers is loaded as transformers itself loads it.

Folders that scripts/export_nets.py format=huggingface has written become nets of their own family again.

`labels=FILE` (metadata.csv, metadata.parquet or metadata.json, if one is there) is a table with the columns of format
`table`, where `path` is a net's folder. Folders that it does not name are imported without labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from metanet.errors import RefusedError
from metanet.importers.intake import labels as tables
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser
from metanet.importers.intake.path_names import path_problem
from metanet.importers.intake.source import Foreign, LeftOut, Source
from metanet.importers.state_dicts import LABELS
from metanet.zoo import nets as zoo_nets
from metanet.zoo.families import huggingface

CONFIG, TRAINER = "config.json", "trainer_state.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in this order; each may have an index in its place
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
MOST_SHARDS = 1000


@dataclass(frozen=True)
class _Net:
    """A folder: its row, what it says the net is, and its files, with the names in them if an index says them."""

    row: tables.Row
    config: Mapping[str, Any]
    arch: Mapping[str, Any]
    files: Mapping[str, list[str] | None]  # below the root -> names


def read(folder: Folder, parser: Parser, *, labels: str | None = None) -> Source:
    """Every folder with a config.json, below the one that is given or that itself."""
    found = labels or next((name for name in LABELS if folder.has(name)), None)
    named = {} if found is None else _by_folder(tables.table(folder, parser, found), found)
    nets: list[_Net] = []
    left_out: list[LeftOut] = []
    for name in folder.names(f"**/{CONFIG}"):
        if PurePosixPath(name).name != CONFIG:  # the source is a single file
            continue
        home = PurePosixPath(name).parent.as_posix()
        try:
            nets.append(_described(folder, home, named.pop(home, {})))
        except (ValueError, OSError) as error:
            left_out.append(LeftOut.of(home, error))
    left_out += [
        LeftOut.of(path, FileNotFoundError(f"{path}: no {CONFIG} there, which {found} names")) for path in named
    ]
    columns = tables.columns([net.row for net in nets], [net.arch["family"] for net in nets])
    return Source(
        columns.families,
        len(nets) + len(left_out),
        _stream(folder, parser, nets, left_out, columns.kinds),
        columns.kinds,
        columns.metrics,
        [*columns.names, tables.FILE],
    )


def _by_folder(rows: list[tables.Row], table: str) -> dict[str, tables.Row]:
    """Folder -> its row.

    Raises:
        ValueError: a folder has two.
    """
    named: dict[str, tables.Row] = {}
    for row in rows:
        home = PurePosixPath(row["path"]).as_posix()  # without "./" and the last "/"
        if home in named:
            raise ValueError(f"{table}: found two rows for {home}, expected one row for each folder")
        named[home] = row
    return named


def _described(folder: Folder, home: str, row: tables.Row) -> _Net:
    """What the JSON files of a net's folder say.

    Raises:
        ValueError, OSError: a file that is missing or damaged, or no architecture that can be made.
    """
    config = _object(folder, _in(home, CONFIG))
    own = config.get("metanet")
    exported: dict[str, Any] = own if isinstance(own, dict) else {}
    said = exported.get("labels", {})
    if not isinstance(said, dict):
        raise ValueError(f"{home}: found labels {said!r} in {CONFIG}, expected an object")
    try:
        arch = exported.get("arch") or huggingface.architecture(config)
        if not isinstance(arch, dict):
            raise ValueError(f"found the architecture {arch!r} in {CONFIG}, expected an object")
        zoo_nets.check(arch)
    except RefusedError as error:
        raise RefusedError(f"{home}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{home}: {error}") from error
    row = {**_trainer(folder, home), **tables.texts(said), **row, "path": home}
    return _Net(row, config, arch, _files(folder, home))


def _trainer(folder: Folder, home: str) -> tables.Row:
    """What the Trainer of transformers says by the folder's name and trainer_state.json."""
    path = PurePosixPath(home)
    match = CHECKPOINT.fullmatch(path.name)
    row = {"run": path.parent.as_posix(), "step": match[1]} if match else {}
    if folder.has(_in(home, TRAINER)):
        state = _object(folder, _in(home, TRAINER))
        row |= tables.texts({"step": state.get("global_step"), "epoch": state.get("epoch")})
    return row


def _files(folder: Folder, home: str) -> dict[str, list[str] | None]:
    """The files with the weights.

    Raises:
        ValueError: none, or an index that is none.
        RefusedError: the index leads out of the net's folder.
    """
    for name in WEIGHTS:
        if _there(folder, _in(home, name)):
            return {_in(home, name): None}
        index = _in(home, f"{name}.index.json")
        if not _there(folder, index):
            continue
        weight_map = _object(folder, index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError(f"{index}: expected weight_map, an object of file names")
        files: dict[str, list[str] | None] = {}
        for tensor, file in weight_map.items():
            problem = path_problem(file)
            if problem:
                raise RefusedError(f"{index}: refused to open {file!r}: {problem}")
            names = files.setdefault(_in(home, file), [])
            assert names is not None
            names.append(tensor)
        if not 1 <= len(files) <= MOST_SHARDS:
            raise ValueError(f"{index}: found {len(files):,} files, expected 1 to {MOST_SHARDS:,}")
        return files
    raise ValueError(f"{home}: found no weights, expected {', '.join(WEIGHTS)}, or one of them with .index.json")


def _stream(
    folder: Folder, parser: Parser, nets: list[_Net], left_out: list[LeftOut], kinds: Mapping[str, type]
) -> Iterator[Foreign | LeftOut]:
    yield from left_out
    there: list[tuple[_Net, list[Path]]] = []
    for net in nets:
        try:
            there.append((net, [folder.file(name) for name in net.files]))
        except (ValueError, OSError) as error:
            yield LeftOut.of(net.row["path"], error)
    answers = parser.parse(path for _, paths in there for path in paths)
    for net, paths in there:
        parts = [next(answers) for _ in paths]
        try:
            yield _imported(net, parts, kinds)
        except ValueError as error:
            yield LeftOut.of(net.row["path"], error)


def _imported(net: _Net, parts: list[Parsed | ValueError], kinds: Mapping[str, type]) -> Foreign:
    tensors, metadata = _joined(net, parts)
    types = Counter(str(tensor.dtype) for tensor in tensors.values() if tensor.is_floating_point())
    whole = tensors
    if net.arch["family"] == "huggingface":
        try:
            whole = huggingface.complete(tensors, net.arch)
        except ValueError as error:
            raise ValueError(f"{net.row['path']}: {error}") from error
    about = {
        "config": dict(net.config),
        "metadata": metadata,
        "types": dict(types),
        "tied or renamed": sorted(whole.keys() - tensors.keys()),
        "renamed or ignored": sorted(tensors.keys() - whole.keys()),
    }
    return tables.net(net.row, Parsed(whole, about), net.arch, kinds)


def _joined(net: _Net, parts: list[Parsed | ValueError]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata of all files; each has what the index says of it, and no tensor is in two."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for (file, names), part in zip(net.files.items(), parts, strict=True):
        if isinstance(part, ValueError):
            raise part
        missing = [name for name in names or () if name not in part.tensors]
        extra = [name for name in part.tensors if names is not None and name not in names]
        if missing or extra:
            which = f"{missing[0]!r} is not in it" if missing else f"{extra[0]!r} is in it"
            raise ValueError(f"{file}: {which}, but the index says otherwise")
        tensors |= part.tensors
        metadata |= part.metadata
    return tensors, metadata


def _in(home: str, name: str) -> str:
    return name if home == "." else f"{home}/{name}"


def _there(folder: Folder, name: str) -> bool:
    """Whether a file of that name is there; a link counts, and is refused later if it leads outside."""
    return folder.has(name) or (folder.root / name).is_symlink()


def _object(folder: Folder, name: str) -> dict[str, Any]:
    found = folder.json(name)
    if not isinstance(found, dict):
        raise ValueError(f"{name}: found a {type(found).__name__}, expected an object")
    return found
