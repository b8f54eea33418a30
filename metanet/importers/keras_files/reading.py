"""Reading: a file of Keras -> its configuration as JSON, and for each layer its arrays in Keras' order."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from metanet.commandline import RefusedError
from metanet.importers.intake import containers
from metanet.importers.intake.folder import parse_json
from metanet.importers.keras_files import hdf5

WEIGHTS = ".weights.h5"
ENTRIES = ("config.json", "metadata.json", "model.weights.h5")
GROUPS = ("layers", "_layer_checkpoint_dependencies")  # of Keras 3, and of the last versions of Keras 2
SEEDS = "seed_generator"


@dataclass
class Model:
    """What a file says."""

    config: Any = None  # {"class_name": "Sequential", "config": {...}, ...}
    version: str = ""
    compiled: Any = None
    named: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by the layer's name
    placed: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by kind and number, "conv2d_1"
    optimizer: int = 0  # numbers of the optimizer, which are left out
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
        _weights(model, file)
        if model.config is None:
            _beside(model, path)
    else:
        raise ValueError(f"{where}: no file of Keras: neither a zip nor HDF5")
    if not isinstance(model.config, Mapping):
        raise ValueError(f"{where}: found no configuration of a model, expected an object")
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


def _weights(model: Model, file: hdf5.File) -> None:
    """Every array of the file, by layer."""
    legacy = {"layer_names", "layer_names0"} & set(file.root.attrs)
    if legacy:
        return _legacy(model, file, file.root)
    for name, member in file.groups(file.root).items():
        if name in ("optimizer", "optimizer_weights"):
            model.optimizer += sum(file.array(dataset).size for dataset in file.datasets(member))
        elif name == "model_weights":
            _legacy(model, file, member)
        elif name in GROUPS:
            _layers(model, file, member)
        elif any(True for _ in file.datasets(member)):
            raise ValueError(f"{file.where}: found arrays in {name!r}, expected them in layers or model_weights")
    return None


def _layers(model: Model, file: hdf5.File, group: h5py.Group) -> None:
    """Keras 3: layers/KIND_NUMBER/vars/0, 1, ..., those of a cell in layers/KIND_NUMBER/cell/vars."""
    for place, layer in file.groups(group).items():
        found, name = _variables(model, file, layer)
        (model.placed if name is None else model.named)[place if name is None else name] = found


def _variables(model: Model, file: hdf5.File, group: h5py.Group) -> tuple[list[np.ndarray], str | None]:
    """The arrays of a layer and of its parts, and its name, if the file says it."""
    found: list[np.ndarray] = []
    name: str | None = None
    for part, member in sorted(file.groups(group).items(), key=lambda one: one[0] != "vars"):
        if part == SEEDS:
            model.seeds += sum(file.array(dataset).size for dataset in file.datasets(member))
        elif part == "vars":
            name = file.text(member, "name")
            own = dict(file.members(member))
            for number in sorted(own, key=lambda one: (len(one), one)):
                array = own[number]
                if not isinstance(array, h5py.Dataset):
                    raise ValueError(f"{file.where}: {array.name}: expected an array")
                found.append(file.array(array))
        else:
            found += _variables(model, file, member)[0]
    return found, name


def _legacy(model: Model, file: hdf5.File, group: h5py.Group) -> None:
    """Before Keras 3: a group for each layer, whose attribute says the order of its arrays."""
    for name, layer in file.groups(group).items():
        arrays = {str(dataset.name).removeprefix(f"{layer.name}/"): dataset for dataset in file.datasets(layer)}
        order = file.texts(layer, "weight_names") or []
        if sorted(order) != sorted(arrays):
            raise ValueError(f"{file.where}: layer {name!r}: found the arrays {list(arrays)[:6]}, expected {order[:6]}")
        found = {one: file.array(arrays[one]) for one in order}
        model.seeds += sum(array.size for one, array in found.items() if SEEDS in one)
        kept = [array for one, array in found.items() if SEEDS not in one]
        if kept and name == "top_level_model_weights":
            raise ValueError(f"{file.where}: found weights of the model outside of its layers")
        model.named[name] = kept


def place(class_name: str) -> str:
    """Keras' name for arrays of a kind of layers: "Conv2D" -> "conv2d", "LeakyReLU" -> "leaky_re_lu"."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def told(model: Model) -> dict[str, Any]:
    """What a file says beside weights and architecture, as plain JSON."""
    about = {"keras_version": model.version, "compile": model.compiled}
    about |= {"optimizer_numbers_left_out": model.optimizer, "seeds_left_out": model.seeds}
    return json.loads(json.dumps({name: value for name, value in about.items() if value}))
