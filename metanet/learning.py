"""The training loop: pretraining if asked for, epochs under a budget, the best epoch by validation score, a log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from metanet import calibrate, evaluate, metrics, runs, seeding
from metanet.checkpoint import State, restore, save
from metanet.dataset import Batch, Dataset
from metanet.progress import progress
from metanet.targets import mean_loss
from metanet.zoo import disk


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
