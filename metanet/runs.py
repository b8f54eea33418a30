"""A run: the folder of one training of one model. train.py writes it, `load_run` reads it.

config.yaml             everything that decides the result, resolved
schema.json             targets and templates
log.jsonl               a line per epoch: epoch, phase, seconds, learning_rate, losses, validation scores
tensorboard/            the same
checkpoint.safetensors  for going on after a kill; gone when finished
model.safetensors       the weights of the best epoch
predictions.parquet     of valid and test, a row per net, snapshot and target; metadata: the targets
result.json             scores, calibration, seconds, parameters, commit, machine; written last, so the run is finished
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from metanet import calibrate, metrics
from metanet.arch.template import Template
from metanet.dataset import Nets, Schema
from metanet.zoo import disk, shards

CONFIG, SCHEMA, LOG, CHECKPOINT, WEIGHTS, PREDICTIONS, RESULT = (
    "config.yaml",
    "schema.json",
    "log.jsonl",
    "checkpoint.safetensors",
    "model.safetensors",
    "predictions.parquet",
    "result.json",
)
NO_EFFECT = ("device", "runs", "name", "force", "zoo")  # on the result; of the zoo, its hash counts


@dataclass(frozen=True)
class Run:
    """A finished run, with its model in evaluation mode."""

    path: Path
    config: DictConfig
    schema: Schema
    result: Mapping[str, Any]
    model: Any
    device: str

    @property
    def predictions(self) -> pa.Table:
        return disk.read_parquet(self.path / PREDICTIONS)

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """{target: {score, low, high, ...}} on the test part."""
        return metrics.summary(self.predictions, self.schema.targets)

    @torch.no_grad()
    def predict(self, nets: Iterable[tuple[Template, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """{target: probabilities [nets, classes] in the order of its classes, or values [nets] in the target's units}.

        The state_dicts may come from any architecture; what the model is to predict is hidden from it here.

        Raises:
            ValueError: a tensor is missing, has another shape than the template says, or is not finite.
        """
        batch = []
        for place, (template, state_dict) in enumerate(nets):
            params = {
                name: tensor.detach().to(self.device, torch.float32)[None]
                for name, tensor in check(template, state_dict).items()
            }
            rows = torch.tensor([place], device=self.device)
            batch.append(Nets(f"net {place}", template.hide(self.schema.hidden), params, rows))
        outputs = calibrate.apply(self.result["calibration"], self.model(batch))
        result = {}
        for target in self.schema.targets:
            predicted, probabilities = target.read(outputs[target.name])
            result[target.name] = torch.from_numpy(predicted if probabilities is None else probabilities)
        return result


def check(template: Template, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of the state_dict that the template represents, checked against it; see `Run.predict`."""
    entries = {}
    for name, shape in template.shapes.items():
        if name not in state_dict:
            raise ValueError(f"no tensor {name}: the architecture has it, the state_dict has {', '.join(state_dict)}")
        entries[name] = state_dict[name]
        if tuple(entries[name].shape) != tuple(shape):
            raise ValueError(f"{name}: found shape {list(entries[name].shape)}, expected {list(shape)}")
        if not entries[name].isfinite().all():
            raise ValueError(f"{name}: has NaN or infinite values; the net diverged, or its file is damaged")
    return entries


def load_run(path: str | Path, device: str = "cpu") -> Run:
    """The finished run in a folder.

    Raises:
        FileNotFoundError: no such run, or it is not finished.
        ValueError: a damaged file, or a run of another version whose model differs.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        others = [other.parent.name for other in path.parent.glob(f"*/{CONFIG}")]
        close = get_close_matches(path.name, others, n=1)
        hint = f"; did you mean {path.parent / close[0]}?" if close else ""
        raise FileNotFoundError(f"{path}: no run there (no {CONFIG}){hint}")
    result = result_of(path)
    if result is None:
        raise FileNotFoundError(
            f"{path}: this run is not finished. The command that began it goes on where it stopped."
        )
    config = OmegaConf.load(path / CONFIG)
    assert isinstance(config, DictConfig), "written by begin"
    try:
        schema = Schema.from_json((path / SCHEMA).read_text())
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path / SCHEMA}: damaged ({error}). Train again with force=true.") from error
    model = build(config, schema)
    weights, _ = shards.load(path / WEIGHTS)
    try:
        load_state(model, weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path / WEIGHTS}: does not fit the model as this version of metanet builds it (the run is of commit "
            f"{result['commit']}): {str(error).splitlines()[-1].strip()} "
            f"Use that commit, or train again with force=true."
        ) from error
    if isinstance(model, nn.Module):
        model.to(device).eval()
    return Run(path, config, schema, result, model, device)


def build(config: DictConfig, schema: Schema) -> Any:
    """The model of a config, with weights drawn from `config.seed`.

    Raises:
        ValueError: the model's numbers do not fit its constructor or the data.
    """
    numbers = {name: value for name, value in config.model.items() if name != "training"}
    torch.manual_seed(config.seed)
    try:
        # partial: instantiate itself would turn the schema, a dataclass, into a config
        return instantiate(numbers, _partial_=True, _convert_="all")(schema)
    except (InstantiationException, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"model {config.model._target_}: {str(error).splitlines()[0]}") from error


def state_of(model: Any) -> dict[str, Tensor]:
    """A model's tensors: those of an nn.Module, or of a fitted model's own `state`."""
    return dict(model.state() if hasattr(model, "state") else model.state_dict())


def load_state(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `state_of`."""
    (model.load_state if hasattr(model, "state") else model.load_state_dict)(dict(tensors))


def folder_of(config: DictConfig, name: str) -> Path:
    """RUNS/<name of the zoo>/<name of the model and its overrides>-seed<k>, or `config.name` as the last part."""
    if config.name is not None and not re.fullmatch(r"[\w.=,-]*\w[\w.=,-]*", str(config.name)):
        raise ValueError(f"name={config.name}: expected letters, digits and any of _ . = , - (runs= is the folder)")
    return Path(config.runs) / Path(config.zoo).resolve().name / (config.name or f"{name}-seed{config.seed}")


def model_name(model: str, overrides: Collection[str]) -> str:
    """The model and what the command line changes: what runs that differ in their seed only have in common."""
    changes = []
    for override in sorted(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if key not in (*NO_EFFECT, "model", "seed") and not key.startswith("hydra."):
            changes.append(f"{re.sub('^(model|training)[.]', '', key)}={value}")
    text = "-".join([model, *changes])
    safe = re.sub(r"[^\w.=,-]+", "_", text)
    if safe != text or len(safe) > 120:  # two names that differ stay different, and fit a file system
        safe = f"{safe[:110]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return safe


def result_of(path: Path) -> dict[str, Any] | None:
    """result.json, or None if the run is not finished."""
    if not (path / RESULT).is_file():
        return None
    try:
        return json.loads((path / RESULT).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path / RESULT}: damaged ({error}). Train again with force=true.") from error


def check_folder(path: Path, config: DictConfig) -> None:
    """Checks that a run that lies there was begun with this config.

    Raises:
        ValueError: it was begun with another one; the message names the keys.
    """
    if not (path / CONFIG).is_file():
        return
    mine, theirs = _flat(config), _flat(OmegaConf.load(path / CONFIG))
    keys = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    if keys:
        there, here = (", ".join(f"{key}={each.get(key)}" for key in keys) for each in (theirs, mine))
        raise ValueError(
            f"{path}: begun with {there}, but this command has {here}. "
            f"Give this run another name=, or replace that one with force=true."
        )


def begin(path: Path, config: DictConfig, schema: Schema) -> None:
    """Writes config and schema, and with `config.force` removes what an earlier run left."""
    for name in (RESULT, CHECKPOINT, LOG, PREDICTIONS, WEIGHTS) if config.force else ():
        disk.remove(path / name)
    disk.write_atomically(path / CONFIG, OmegaConf.to_yaml(config, resolve=True).encode())
    disk.write_atomically(path / SCHEMA, schema.to_json().encode())


def _flat(config: Any) -> dict[str, Any]:
    """Dotted keys and values of what decides a run's result."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix not in (*NO_EFFECT, "training.checkpoint_seconds"):
            flat[prefix] = value

    walk("", OmegaConf.to_container(config, resolve=True))
    return flat


def write_predictions(path: Path, table: pa.Table) -> None:
    """One parquet file, atomically."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    disk.write_atomically(path, sink.getvalue())


def commit() -> str:
    """The git commit of this code, with -dirty when files have changed since; unknown outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
