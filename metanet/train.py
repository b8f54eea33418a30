"""Train one model on one zoo.

    python -m metanet.train model=gnn zoo=zoos/digits_mini [target=optimizer] [split=held_out_depth]
    python -m metanet.train -m model=gnn,dmc,statistics seed=0,1,2

The same command goes on after a kill, and on a CPU its result equals an uninterrupted run's bit for bit (unless
training.max_seconds is set: a clock is not exact). configs/train.yaml lists every option.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import hydra
import pyarrow as pa
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

import metanet
from metanet import calibrate, commandline, evaluate, machine, metrics, runs
from metanet.checkpoint import State
from metanet.dataset import Dataset
from metanet.learning import Clock, Training, learn, truths_of
from metanet.splits import PARTS
from metanet.zoo import disk, shards

CONFIGS = Path(__file__).parents[1] / "configs"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(config: DictConfig) -> float:
    with commandline.one_clear_error():
        choices = HydraConfig.get()
        return train(config, runs.model_name(choices.runtime.choices["model"], choices.overrides.task))
    raise AssertionError("one_clear_error exits")


def train(config: DictConfig, name: str) -> float:
    """Trains (or goes on with, or just reports) the run of a config; the mean validation score over targets.

    Raises:
        ValueError, OSError: a wrong config, zoo, or weights; nothing has been written then.
    """
    settings = settings_of(config)
    zoo = metanet.open_zoo(config.zoo)
    config = OmegaConf.merge(OmegaConf.create({"zoo_sha256": zoo.record["spec_sha256"]}), config)  # type: ignore[assignment]
    path = runs.folder_of(config, name)
    if not config.force:
        runs.check_folder(path, config)
        done = runs.result_of(path)
        if done is not None:
            print(f"{path}: finished already, validation score {done['valid_score']:.4f}; force=true trains again")
            return done["valid_score"]
    chosen: Any = OmegaConf.to_container(config, resolve=True)
    dataset = Dataset(zoo, chosen["target"], chosen["split"], config.snapshots, config.device)
    for target, reason in dataset.left_out.items():
        print(f"target {target} is left out: {reason}")
    model = runs.build(config, dataset.schema)
    if settings.pretrain_epochs and not hasattr(model, "pretrain_loss"):
        raise ValueError(f"training.pretrain_epochs={settings.pretrain_epochs}: model {name} has no pretraining")
    disk.make_folder(path)
    with disk.one_writer(path):
        runs.begin(path, config, dataset.schema)
        if hasattr(model, "fit"):
            clock = Clock()
            model.fit(dataset.part("train"), dataset.part("valid"))
            state = State(seconds=clock())
        else:
            state = learn(model.to(config.device), dataset, settings, config.seed, path)
        return finish(model, dataset, settings, state, config, name, path)


def settings_of(config: DictConfig) -> Training:
    """`config.training`, with every value of the right type.

    Raises:
        ValueError: an unknown or mistyped value, in the config or under the model's own `training`, or no such device.
    """
    known = [field.name for field in dataclasses.fields(Training)]
    for key in config.model.get("training") or {}:
        if key not in known:
            raise ValueError(f"model.training.{key}: unknown, expected one of {', '.join(known)}")
    try:
        resolved = OmegaConf.to_container(config.training, resolve=True)  # before the merge, which cuts it off its root
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Training), resolved))
    except OmegaConfBaseException as error:
        raise ValueError(f"training.{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, Training)
    for key in ("epochs", "learning_rate", "clip_norm", "batch_nets", "batch_elements", "together", "max_seconds"):
        if (value := getattr(settings, key)) is not None and not value > 0:
            raise ValueError(f"training.{key}={value}: expected more than 0")
    for key in ("pretrain_epochs", "weight_decay", "warmup", "patience", "checkpoint_seconds"):
        if (value := getattr(settings, key)) is not None and not value >= 0:
            raise ValueError(f"training.{key}={value}: expected 0 or more")
    if settings.warmup >= 1:
        raise ValueError(f"training.warmup={settings.warmup}: expected a fraction of the training, below 1")
    for key, value in {"seed": config.seed, "split.seed": config.split.seed}.items():
        if not isinstance(value, int):
            raise ValueError(f"{key}={value}: expected an integer")
    for key in ("valid", "test"):
        if not isinstance(config.split[key], float | int | None):
            raise ValueError(f"split.{key}={config.split[key]}: expected a fraction")
    machine.check_device(str(config.device))
    return settings


def finish(
    model: Any, dataset: Dataset, settings: Training, state: State, config: DictConfig, name: str, path: Path
) -> float:
    """Writes weights, predictions and, last, the result; the mean validation score."""
    targets, tables, summaries, factors = dataset.schema.targets, [], {}, {}
    for part in ("valid", "test"):
        outputs, nets = evaluate.outputs_on(model, dataset, part, settings.batch_nets, settings.batch_elements)
        factors = factors or calibrate.fit(targets, outputs, truths_of(nets, dataset))
        tables.append(evaluate.predictions(dataset, part, calibrate.apply(factors, outputs), nets))
        summaries[part] = metrics.summary(tables[-1], targets, part)
    tensors = runs.state_of(model)
    parameters = model.parameters() if isinstance(model, nn.Module) else tensors.values()
    result = {
        "model": name,
        "seed": config.seed,
        "zoo": dataset.zoo.path.name,
        "valid_score": metrics.mean_score(summaries["valid"]),
        "test_score": metrics.mean_score(summaries["test"]),
        **summaries,
        "calibration": factors,
        "nets": {part: dataset.count(part) for part in PARTS},
        "parameters": sum(tensor.numel() for tensor in parameters),
        "seconds": round(state.seconds, 3),
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "commit": runs.commit(),
        "machine": machine.describe(config.device),
    }
    disk.write_atomically(path / runs.WEIGHTS, shards.pack(tensors, {}))
    runs.write_predictions(path / runs.PREDICTIONS, pa.concat_tables(tables))
    disk.write_atomically(path / runs.RESULT, json.dumps(result, indent=1).encode())
    disk.remove(path / runs.CHECKPOINT)
    print(f"{path}: validation score {result['valid_score']:.4f}, test score {result['test_score']:.4f}")
    return result["valid_score"]


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # it then raises its errors, and they are told like all others
    with commandline.one_clear_error():
        main()
