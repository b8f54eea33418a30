"""What a run left behind, read without its zoo and without building its model: all that the report needs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from metanet import metrics, runs
from metanet.metrics import Predictions
from metanet.targets import Target
from metanet.zoo import disk


@dataclass(frozen=True, eq=False)
class Record:
    """A run folder: its settings and its result; predictions and log are read when asked for."""

    path: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None  # None until the run has finished

    @property
    def name(self) -> str:
        """The model and what was changed of it: the folder's name without the seed."""
        return re.sub(r"-seed\d+$", "", self.path.name)

    @property
    def model(self) -> str:
        """The choice of configs/model, such as gnn, whatever was changed of it."""
        return split_name(self.of_result("model"))[0]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def zoo(self) -> str:
        return Path(self.config["zoo"]).name

    @property
    def split(self) -> str:
        """The split's settings, such as "valid=0.15, test=0.15"."""
        return _settings(self.config.get("split"))

    @property
    def snapshots(self) -> str:
        return str(self.config.get("snapshots", "all"))

    def of_result(self, key: str) -> Any:
        """parameters, seconds, best_epoch, machine, commit, ...; None where the run did not note it."""
        return (self.result or {}).get(key)

    @property
    def changes(self) -> str | None:
        """What the command line changed of the model and its training, as words of a command; None if it is unknown.

        `runs.model_name` drops the sections' names and, where a value does not fit a file name, ends in a hash.
        """
        words = split_name(self.of_result("model"))[1:]
        if any(re.search("-[0-9a-f]{6}$", word) for word in words):
            return None
        sections = {key: section for section in ("training", "model") for key in self.config.get(section, {})}
        full = (f"{sections[key]}.{word}" if (key := re.split("[.=]", word)[0]) in sections else word for word in words)
        return " ".join(full)

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        raw: list[dict[str, Any]] = _json(self.path / runs.SCHEMA)["targets"]
        tuples: list[dict[str, Any]] = [
            {key: tuple(v) if isinstance(v, list) else v for key, v in target.items()} for target in raw
        ]
        return tuple(Target(**target) for target in tuples)

    @cached_property
    def table(self) -> pa.Table:
        """The stored predictions, a row per split, net, step and target."""
        path = self.path / runs.PREDICTIONS
        try:
            table = disk.read_parquet(path, ["split", "net", "lineage", "step", "target", "true", "predicted"])
            return table.sort_by([("net", "ascending"), ("step", "ascending")])
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: missing, though the run has finished. {_AGAIN}") from None
        except (pa.ArrowInvalid, KeyError) as error:
            raise ValueError(f"{path}: not a table of predictions ({str(error).splitlines()[0]}). {_AGAIN}") from error

    def predictions(self, target: Target, split: str) -> Predictions:
        return metrics.predictions_of(self.table, target, split)

    @cached_property
    def losses(self) -> list[tuple[int, float | None, float | None]]:
        """(epoch, training loss, validation loss) of every epoch that was logged."""
        path = self.path / runs.LOG  # absent where a model is fitted in one go
        rows = []
        for place, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {place}: not JSON ({error.msg}). {_AGAIN}") from error
            if row.get("phase") == "train":  # pretraining has another loss
                rows.append((row["epoch"], _number(row.get("train_loss")), _number(row.get("valid_loss"))))
        return rows


_AGAIN = "Train it again with the same command and force=true, or remove its folder."


def find(folder: Path) -> list[Record]:
    """Every run at or below `folder`, by path.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        ValueError: a config or result that cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of runs. Train first: python -m metanet.train zoo=zoos/NAME")
    paths = (path.parent for path in folder.rglob(runs.CONFIG))
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no run in it (a folder with a config.yaml). Train first: python -m metanet.train zoo=zoos/NAME"
        )
    return [read(path) for path in sorted(paths, key=_natural)]


def read(path: Path) -> Record:
    """The run in a folder, finished or not.

    Raises:
        FileNotFoundError, ValueError: no config or result, or one that cannot be read.
    """
    try:
        config = yaml.safe_load((path / runs.CONFIG).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path / 'config.yaml'}: not YAML ({str(error).splitlines()[0]}). {_AGAIN}") from error
    missing = [key for key in ("model", "zoo", "seed") if key not in (config or {})]
    if missing:
        raise ValueError(f"{path / 'config.yaml'}: lacks {', '.join(missing)}, so it is no run's. {_AGAIN}")
    return Record(path, config, runs.result_of(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing, though the run has finished. {_AGAIN}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}). {_AGAIN}") from error


def split_name(name: Any) -> list[str]:
    """gnn-depth=2-learning_rate=1e-3 -> [gnn, depth=2, learning_rate=1e-3], the inverse of `runs.model_name`."""
    return re.split(r"-(?=[\w.]+=)", str(name))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _settings(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items() if item is not None)
    return str(value)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """seed2 before seed10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", str(path))]
