"""What is predicted: a manifest column with its classes or scale, its loss, and how to read a prediction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One thing to predict. A model has one head per target with `width` outputs."""

    name: str
    kind: str  # "classification" | "regression"
    classes: tuple[str, ...] = ()  # classification: the names, sorted; a prediction is logits over them
    log: bool = False  # regression: standardised after log10
    mean: float = 0.0  # regression: of the training nets, after log10 if log
    std: float = 1.0

    @property
    def width(self) -> int:
        return len(self.classes) if self.kind == "classification" else 1
