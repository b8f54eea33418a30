"""Tasks: what the nets of a zoo are trained to do. How a group is fed and measured is in feed.py and pixel_feed.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What the rest of the zoo must know of a task."""

    unit: str  # what an epoch runs through, each once
    samples: Callable[[int, Sequence[int]], int]  # (training images, image shape) -> how many of these there are
    metrics: Mapping[str, type]  # columns of the manifest, measured at every snapshot
    ignored: tuple[str, ...] = ()  # hyperparameters that mean nothing here, and must be neutral


TASKS = {
    "classification": Task(
        unit="images",
        samples=lambda train_images, shape: train_images,
        metrics={"train_accuracy": float, "train_loss": float, "test_accuracy": float, "test_loss": float},
    ),
    "image_fitting": Task(
        unit="pixels",
        samples=lambda train_images, shape: math.prod(shape[1:]),
        metrics={"image": int, "label": str, "train_loss": float, "psnr": float},
        ignored=("augmentation", "dropout", "train_fraction", "label_noise", "label_smoothing", "early_stopping"),
    ),
}
