"""A folder per net as Hugging Face has them: config.json, weights in safetensors, and a model card README.md.

The weights are in model.safetensors, or where they are larger than `shard_size` bytes in shards, with
model.safetensors.index.json. Nets of family huggingface have their own config.json, which `from_pretrained` of
transformers reads; those of the others say under "metanet" what they are. `scripts/import_zoo.py format=huggingface`
makes a zoo of the folders, with the same weights bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from metanet.exporters import Snapshot, check_shard_size
from metanet.zoo import disk
from metanet.zoo.families import FAMILIES
from metanet.zoo.families import huggingface as family
from metanet.zoo.store import Zoo

MODEL, INDEX, CONFIG, CARD = "model.safetensors", "model.safetensors.index.json", "config.json", "README.md"
MODEL_TYPE = "metanet"  # of a config.json that transformers cannot read


def write(zoo: Zoo, snapshots: Sequence[Snapshot], folder: Path, *, shard_size: int = 5_000_000_000) -> Iterator[None]:
    """net-N-step-S/."""
    check_shard_size(shard_size)
    for snapshot in snapshots:
        own = folder / snapshot.name
        disk.make_folder(own)
        put_weights(own, _weights(snapshot), shard_size)
        disk.write_atomically(own / CARD, card(snapshot).encode())
        disk.write_atomically(own / CONFIG, json.dumps(config(snapshot), indent=2, sort_keys=True).encode())
        yield


def _weights(snapshot: Snapshot) -> dict[str, Tensor]:
    tensors = snapshot.own_state_dict()
    return family.untied(tensors, snapshot.arch) if _is_of_transformers(snapshot) else tensors


def _is_of_transformers(snapshot: Snapshot) -> bool:
    return snapshot.arch["family"] == "huggingface"


def put_weights(folder: Path, tensors: Mapping[str, Tensor], shard_size: int) -> None:
    """One safetensors file, or shards with an index, none larger than `shard_size` unless a tensor is."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_size:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    many = len(shards) > 1
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names if many else [MODEL], shards, strict=True):
        disk.write_atomically(folder / name, safetensors.torch.save(shard, {"format": "pt"}))
    if many:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        disk.write_atomically(folder / INDEX, json.dumps(index, indent=2, sort_keys=True).encode())


def config(snapshot: Snapshot) -> dict[str, Any]:
    """What config.json says: the architecture, and under "metanet" the labels that an import reads back."""
    labels = snapshot.labels("").items()
    about = {name: value for name, value in labels if name not in ("path", "arch") and not name.startswith("source.")}
    if _is_of_transformers(snapshot):
        return family.config_of(snapshot.arch) | {"metanet": {"labels": about}}
    said = {"architectures": [snapshot.arch["family"]], "model_type": MODEL_TYPE, "dtype": "float32"}
    return said | {"metanet": {"arch": snapshot.arch, "labels": about}}


def card(snapshot: Snapshot) -> str:
    """The model card: how the net was trained and how good it is, as far as its zoo knows."""
    columns = snapshot.zoo.columns
    known = {name: snapshot.row.get(name) for name in ("image_set", "epoch", "step", *columns["hyperparameters"])}
    measured = {name: snapshot.row[name] for name in columns["metrics"]}
    fields = FAMILIES[snapshot.arch["family"]].FIELDS
    shown = snapshot.arch | {name: field.shown(snapshot.arch[name]) for name, field in fields.items()}
    return f"""---
library_name: metanet
tags:
- metanet
- model-zoo
---
# {snapshot.name} of zoo {_cell(snapshot.zoo.name)}
A net of family `{snapshot.arch["family"]}`, exported by `scripts/export_nets.py format=huggingface`.

## Training
{_table("hyperparameter", known)}

## Measured
{_table("metric", measured)}
Accuracies are fractions.

## Architecture
{_table("field", shown)}
"""


def _table(head: str, values: Mapping[str, Any]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items() if value is not None]
    return "\n".join([f"| {head} | value |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    """A value as text that stays in its cell, whatever a foreign zoo has called it."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(char if char.isprintable() else " " for char in text)
    return "".join(f"\\{char}" if char in "\\|<>[]*_`#" else char for char in text)
