"""Reading: a file of Keras -> its configuration as JSON, and for each layer its arrays in Keras' order."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from metanet.errors import RefusedError
from metanet.importers.intake import containers
from metanet.importers.intake.json_text import parse_json
from metanet.importers.keras_files import configuration, hdf5
from metanet.importers.keras_files.weights import LAYERS, Weights

WEIGHTS = ".weights.h5"
ENTRIES = ("config.json", "metadata.json", "model.weights.h5")
SEEDS = "seed_generator"
OF_TRAINING = ("optimizer", "optimizer_weights", "metrics")


@dataclass
class Model:
    """What a file says."""

    config: Any = None  # {"class_name": "Sequential", "config": {...}, ...}
    version: str = ""
    compiled: Any = None
    weights: Weights = field(default_factory=Weights)
    optimizer: int = 0  # numbers of the optimizer and of metrics, which are left out
    seeds: int = 0  # and of random generators
    beside: str | None = None  # the file that the configuration was read from


def read(path: Path) -> Model:
    """The content of a file.

    Raises:
        RefusedError: it holds what is not safe to read.
        ValueError: damaged, no file of Keras, or weights without a configuration.
    """
    containers.check_size(path)
    data, where, model = path.read_bytes(), str(path), Model()
    if data.startswith(containers.ZIP):
        _archive(model, data, where)
    elif data.startswith(hdf5.MAGIC):
        file = hdf5.File(data, where)
        text = file.text(file.root, "model_config")
        model.config = None if text is None else parse_json(text, f"{where}: model_config")
        compiled = file.text(file.root, "training_config")
        model.compiled = None if compiled is None else parse_json(compiled, f"{where}: training_config")
        model.version = file.text(file.root, "keras_version") or ""
        if model.config is None:
            _beside(model, path)
        configuration.check_model(model.config)
        _weights(model, file)
    else:
        raise ValueError(f"{where}: no file of Keras: neither a zip nor HDF5")
    return model


def _archive(model: Model, data: bytes, where: str) -> None:
    """A .keras file: a zip of a configuration, metadata and weights."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names) or sum(entry.file_size for entry in entries) > len(data):
                raise RefusedError(f"{where}: refused: its entries overlap, or claim more than its {len(data):,} bytes")
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise RefusedError(f"{where}: refused: {entry.filename!r} is packed or encrypted")
            missing = [name for name in ENTRIES if name not in names]
            if missing:
                raise ValueError(f"{where}: no .keras file: found no {', '.join(missing)} in it")
            config, metadata, weights = (file.read(name) for name in ENTRIES)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        raise ValueError(f"{where}: damaged: {error}") from error
    model.config = parse_json(config.decode("utf-8", "replace"), f"{where}: config.json")
    about = parse_json(metadata.decode("utf-8", "replace"), f"{where}: metadata.json")
    model.version = str(about.get("keras_version", "")) if isinstance(about, Mapping) else ""
    model.compiled = model.config.get("compile_config") if isinstance(model.config, Mapping) else None
    configuration.check_model(model.config)
    _weights(model, hdf5.File(weights, where))


def _beside(model: Model, path: Path) -> None:
    """The configuration of weights alone: NAME.json beside NAME.weights.h5, as `model.to_json()` writes it."""
    name = path.name.removesuffix(WEIGHTS) if path.name.endswith(WEIGHTS) else path.stem
    own = path.with_name(f"{name}.json")
    if own.is_symlink() or not own.is_file():
        raise ValueError(
            f"{path}: holds weights alone, and they do not say the architecture. Put what model.to_json() gives into "
            f"{own.name} beside it, or write the whole model: model.save('{name}.keras')"
        )
    if own.stat().st_size > containers.MOST_HEADER_BYTES:
        raise ValueError(f"{own}: found more than {containers.MOST_HEADER_BYTES:,} bytes")
    model.config, model.beside = parse_json(own.read_text("utf-8", "replace"), str(own)), own.name
    if not model.version and isinstance(model.config, Mapping):
        model.version = str(model.config.get("keras_version", ""))


def _weights(model: Model, file: hdf5.File) -> None:
    """Every array of the file, by layer."""
    if {"layer_names", "layer_names0"} & set(file.root.attrs):
        model.weights = _legacy(model, file, file.root)
        return
    for name, member in file.groups(file.root).items():
        if name in OF_TRAINING:
            model.optimizer += sum(file.array(dataset).size for dataset in file.datasets(member))
        elif name == "model_weights":
            model.weights = _legacy(model, file, member)
        elif name in LAYERS:
            model.weights.parts[name] = _parts(model, file, member)
        elif any(True for _ in file.datasets(member)):
            raise ValueError(f"{file.where}: found arrays in {name!r}, expected them in layers or model_weights")


def _parts(model: Model, file: hdf5.File, group: h5py.Group) -> Weights:
    """Keras 3: PART/vars/0, 1, ... for the arrays of a layer, with its name, and PART/PART for its parts."""
    found = Weights()
    for part, member in file.groups(group).items():
        if part == SEEDS:
            model.seeds += sum(file.array(dataset).size for dataset in file.datasets(member))
        elif part == "vars":
            found.name = file.text(member, "name")
            own = dict(file.members(member))
            for number in sorted(own, key=lambda one: (len(one), one)):
                array = own[number]
                if not isinstance(array, h5py.Dataset):
                    raise ValueError(f"{file.where}: {array.name}: expected an array")
                found.own.append(file.array(array))
        else:
            found.parts[part] = _parts(model, file, member)
    return found


def _legacy(model: Model, file: hdf5.File, group: h5py.Group) -> Weights:
    """Before Keras 3: a group for each layer, whose attribute says the paths and the order of its arrays."""
    whole = Weights(by_path=True)
    for name, layer in file.groups(group).items():
        arrays = {str(dataset.name).removeprefix(f"{layer.name}/"): dataset for dataset in file.datasets(layer)}
        order = file.texts(layer, "weight_names") or []
        if sorted(order) != sorted(arrays):
            raise ValueError(f"{file.where}: layer {name!r}: found the arrays {list(arrays)[:6]}, expected {order[:6]}")
        found = whole.parts[name] = Weights(by_path=True)
        for one in order:
            array = file.array(arrays[one])
            if SEEDS in one:
                model.seeds += array.size
                continue
            if name == "top_level_model_weights":
                raise ValueError(f"{file.where}: found weights of the model outside of its layers")
            owner = found
            for part in one.split("/")[:-1]:
                owner = owner.parts.setdefault(part, Weights(by_path=True))
            owner.own.append(array)
    return whole


def told(model: Model) -> dict[str, Any]:
    """What a file says beside weights and architecture, as plain JSON."""
    about = {"keras_version": model.version, "compile": model.compiled}
    about |= {"optimizer_numbers_left_out": model.optimizer, "seeds_left_out": model.seeds}
    return json.loads(json.dumps({name: value for name, value in about.items() if value}))
