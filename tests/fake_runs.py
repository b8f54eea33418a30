"""Run folders with made-up predictions, as metanet.train writes them, for the tests of what reads them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from metanet.targets import Target

TARGETS = (
    Target("optimizer", "classification", ("adam", "momentum", "rmsprop", "sgd")),
    Target("learning_rate", "regression", log=True, mean=-2.5, std=0.8),
    Target("test_accuracy", "regression", mean=0.7, std=0.2),
)


def write_run(
    root: Path,
    model: str,
    seed: int = 0,
    skill: float = 0.8,
    changes: str = "",
    targets: tuple[Target, ...] = TARGETS,
    num_lineages: int = 40,
    snapshots: int = 2,
    first_net: int = 0,
    zoo: str = "zoos/tiny",
    epochs: int = 6,
    finished: bool = True,
) -> Path:
    """A run whose predictions are right with probability `skill`; nets and true values depend on `first_net` only."""
    path = root / f"{model}{changes and '-' + changes}-seed{seed}"
    path.mkdir(parents=True)
    config = {
        "model": {"_target_": f"metanet.models.{model}.Model", "depth": 3},
        "training": {"epochs": epochs},
        "zoo": zoo,
        "seed": seed,
        "snapshots": "all",
        "split": {"valid": 0.15, "test": 0.15, "column": None, "seed": 0},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "schema.json").write_text(json.dumps({"targets": [dataclasses.asdict(target) for target in targets]}))
    log = [
        {"epoch": e, "phase": "train", "train_loss": 1.1 * 0.7**e + 0.02 * seed, "valid_loss": 1.1 * 0.75**e + 0.1}
        for e in range(1, epochs + 1)
    ]
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if not finished:
        return path
    pq.write_table(_predictions(targets, seed, skill, num_lineages, snapshots, first_net), path / "predictions.parquet")
    result = {
        "model": f"{model}{changes and '-' + changes}",
        "nets": {"train": 100, "valid": num_lineages * snapshots, "test": num_lineages * snapshots},
        "epochs": epochs,
        "parameters": 12345,
        "seconds": 61.5 + seed,
        "best_epoch": max(epochs - 1, 0),
        "commit": "0123456789abcdef",
        "machine": "a machine, 2 threads",
        "valid_score": skill,
    }
    (path / "result.json").write_text(json.dumps(result))
    return path


def _predictions(
    targets: tuple[Target, ...], seed: int, skill: float, num_lineages: int, snapshots: int, first_net: int
) -> pa.Table:
    truth, noise = np.random.default_rng(first_net), np.random.default_rng([seed, int(1000 * skill), 1])
    parts = []
    for split in ("valid", "test"):
        lineage = np.repeat(np.arange(num_lineages) + first_net, snapshots)
        size = len(lineage)
        for target in targets:
            if target.kind == "classification":
                true = truth.integers(target.width, size=num_lineages).repeat(snapshots).astype(float)
                guess = noise.integers(target.width, size=size).astype(float)
                predicted = np.where(noise.random(size) < skill, true, guess)
            else:
                scaled = truth.normal(target.mean, target.std, size=size)
                missed = noise.normal(0, target.std * (1 - skill), size=size)
                true, predicted = (10**v if target.log else v for v in (scaled, scaled + missed))
            parts.append(
                pa.table(
                    {
                        "split": pa.array([split] * size),
                        "net": lineage,
                        "lineage": lineage,
                        "step": np.tile(np.arange(snapshots) * 10, num_lineages),
                        "row": np.arange(size),
                        "target": pa.array([target.name] * size),
                        "true": true,
                        "predicted": predicted,
                        "probabilities": pa.nulls(size, pa.list_(pa.float64())),
                    }
                )
            )
    return pa.concat_tables(parts)
