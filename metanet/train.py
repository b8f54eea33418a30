"""Train one model on one zoo.

    python -m metanet.train model=gnn zoo=zoos/digits_mini [target=optimizer] [split=held_out_depth]
    python -m metanet.train -m model=gnn,dmc,statistics seed=0,1,2

The same command goes on after a kill, and on a CPU its result equals an uninterrupted run's bit for bit (unless
training.max_seconds is set: a clock is not exact). configs/train.yaml lists every option.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import pyarrow as pa
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import metanet
from metanet import calibrate, commandline, evaluate, machine, metrics, runs, seeding
from metanet.checkpoint import State, restore, save
from metanet.dataset import Batch, Dataset
from metanet.progress import progress
from metanet.splits import PARTS
from metanet.targets import mean_loss
from metanet.zoo import disk, shards

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Training:
    """The section `training` of configs/train.yaml, which says what each number means."""

    epochs: int = MISSING
    pretrain_epochs: int = MISSING
    max_seconds: float | None = MISSING
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    warmup: float = MISSING
    clip_norm: float = MISSING
    patience: int | None = MISSING
    batch_nets: int = MISSING
    batch_elements: int = MISSING
    together: int = MISSING
    bf16: bool = MISSING
    compile: bool = MISSING
    checkpoint_seconds: float = MISSING


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
    for key in ("epochs", "learning_rate", "clip_norm", "batch_nets", "batch_elements", "together"):
        if getattr(settings, key) <= 0:
            raise ValueError(f"training.{key}={getattr(settings, key)}: expected more than 0")
    if not str(config.device).startswith(("cpu", "cuda")):
        raise ValueError(f"device={config.device}: expected cpu or cuda")
    if str(config.device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={config.device}: torch finds no GPU here; use device=cpu")
    return settings


def learn(model: Any, dataset: Dataset, settings: Training, seed: int, path: Path) -> State:
    """Pretraining if asked for, then training; leaves `model` with the weights of its best epoch.

    Best is the highest validation score, the mean over targets that reports show: the loss turns earlier, when a model
    grows sure of itself, while its answers still improve.

    Raises:
        ValueError: the loss is not finite any more.
    """
    state, best, optimizer = State(), {}, new_optimizer(model, settings)
    if hasattr(model, "facts"):
        dataset.remember(model.facts)
    if (path / runs.CHECKPOINT).is_file():
        state, best = restore(path / runs.CHECKPOINT, model, optimizer)
    elif hasattr(model, "prepare"):
        model.prepare(dataset.batches("train", settings.batch_nets, settings.batch_elements))
    if settings.compile:
        model.compile(dynamic=True)
    keep_log(path / runs.LOG, state.epoch)
    saved, clock = time.monotonic(), Clock(state.seconds)
    total = settings.pretrain_epochs + settings.epochs
    with (
        SummaryWriter(path / "tensorboard", purge_step=state.epoch) as board,
        progress(f"train {path.name}", (total - state.epoch) * dataset.count("train")) as advance,
    ):
        while state.epoch < total:
            pretraining = state.epoch < settings.pretrain_epochs
            entry = train_epoch(model, dataset, settings, seed, state, optimizer, clock, advance)
            if not pretraining:
                entry |= validate(model, dataset, settings)
                if entry["valid_score"] > state.best_score:
                    state.best_score, state.best_epoch = entry["valid_score"], state.epoch
                    best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                advance(0, f"validation score {entry['valid_score']:.3f}")
            elif state.epoch == settings.pretrain_epochs:
                optimizer, state.phase_started = new_optimizer(model, settings), clock()
            for loss in (entry["train_loss"], entry.get("valid_loss")):
                if loss is not None and not math.isfinite(loss):
                    raise ValueError(
                        f"{path}: a loss became {loss} in epoch {state.epoch}. "
                        f"Lower training.learning_rate or training.clip_norm, or turn training.bf16 off."
                    )
            state.seconds = entry["seconds"] = clock()
            write_log(path / runs.LOG, board, entry)
            if settings.patience is not None and not pretraining and state.epoch - state.best_epoch > settings.patience:
                break
            if time.monotonic() - saved > settings.checkpoint_seconds:
                save(path / runs.CHECKPOINT, state, model, best, optimizer)
                saved = time.monotonic()
    model.load_state_dict(best)
    return state


class Clock:
    """Seconds of training, those before a kill included."""

    def __init__(self, seconds: float = 0.0):
        self.start = time.monotonic() - seconds

    def __call__(self) -> float:
        return time.monotonic() - self.start


def train_epoch(
    model: Any,
    dataset: Dataset,
    settings: Training,
    seed: int,
    state: State,
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """One pass over the training nets, or what is left of the phase's share of `max_seconds`; its line for the log."""
    pretraining = state.epoch < settings.pretrain_epochs
    first, length = (0, settings.pretrain_epochs) if pretraining else (settings.pretrain_epochs, settings.epochs)
    budget = (settings.max_seconds or math.inf) * length / (settings.pretrain_epochs + settings.epochs)
    generator = torch.Generator().manual_seed(seeding.key(seed, "batches", state.epoch))
    torch.manual_seed(seeding.key(seed, "dropout", state.epoch))
    losses, seen, num_nets, rate, done = [], 0, dataset.count("train"), 0.0, 0.0
    model.train()
    batches = dataset.batches("train", settings.batch_nets, settings.batch_elements, generator, settings.together)
    for batch in batches:
        count = sum(map(len, batch))
        done = max(
            (state.epoch - first + (seen + count / 2) / num_nets) / length, (clock() - state.phase_started) / budget
        )
        if done >= 1:
            break
        rate = settings.learning_rate * schedule(done, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast(dataset.device, settings):
            loss = model.pretrain_loss(batch, generator) if pretraining else loss_of(model(batch), batch, dataset)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        losses.append(loss.detach() * count)  # no .item() here: the GPU is not to wait for Python
        seen += count
        advance(count)
    state.epoch = first + length if done >= 1 else state.epoch + 1
    train_loss = float(torch.stack(losses).sum()) / seen if losses else None
    phase = "pretrain" if pretraining else "train"
    return {"epoch": state.epoch, "phase": phase, "learning_rate": rate, "train_loss": train_loss}


def schedule(done: float, warmup: float) -> float:
    """The learning rate's factor at a fraction `done` of a phase: linear to 1 over `warmup`, then a cosine to 0."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def loss_of(outputs: Mapping[str, Tensor], batch: Batch, dataset: Dataset) -> Tensor:
    """The mean over targets of `Target.loss`."""
    return mean_loss(dataset.schema.targets, outputs, truths_of(batch, dataset))


def truths_of(batch: Batch, dataset: Dataset) -> dict[str, Tensor]:
    return {t.name: torch.cat([nets.targets[t.name] for nets in batch]) for t in dataset.schema.targets}


def autocast(device: torch.device, settings: Training) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16)


def new_optimizer(model: nn.Module, settings: Training) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def validate(model: nn.Module, dataset: Dataset, settings: Training) -> dict[str, Any]:
    """valid_loss, valid_score (the mean over targets, calibrated), and the score of each target."""
    with autocast(dataset.device, settings):
        outputs, nets = evaluate.outputs_on(model, dataset, "valid", settings.batch_nets, settings.batch_elements)
    factors = calibrate.fit(dataset.schema.targets, outputs, truths_of(nets, dataset))
    table = evaluate.predictions(dataset, "valid", calibrate.apply(factors, outputs), nets)
    summary = metrics.summary(table, dataset.schema.targets, "valid", intervals=False)
    return {
        "valid_loss": float(loss_of(outputs, nets, dataset)),
        "valid_score": metrics.mean_score(summary),
        "valid_scores": {name: values["score"] for name, values in summary.items()},
    }


def keep_log(path: Path, epoch: int) -> None:
    """Removes the lines after `epoch`, which are about to be written again."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epoch]
    disk.write_atomically(path, "".join(kept).encode())


def write_log(path: Path, board: SummaryWriter, entry: Mapping[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(entry) + "\n")
    flat = {key: value for key, value in entry.items() if isinstance(value, float)}
    flat |= {f"valid_scores/{name}": score for name, score in entry.get("valid_scores", {}).items()}
    for key, value in flat.items():
        board.add_scalar(key, value, entry["epoch"])


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
    main()
