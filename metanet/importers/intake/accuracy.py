"""Accuracy: nets of an imported zoo, tried on their image sets, must be as accurate as their source says they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metanet.progress import progress
from metanet.zoo import images
from metanet.zoo.images import Images
from metanet.zoo.store import Zoo

MOST_NETS = 32  # tried of a zoo, evenly over it
TOLERANCE = 0.01  # rounding, and images that were resized in another way, may turn a few answers
BATCH = 500

Pixels = Float[Tensor, "batch channels height width"]  # in [0, 1]
# What published zoos feed to their nets, which few of them write down: one of these must hold for all nets of a zoo.
SCALINGS: dict[str, Callable[[Pixels, Images], Pixels]] = {
    "[-1, 1]": lambda pixels, _: pixels * 2 - 1,
    "[0, 1]": lambda pixels, _: pixels,
    "mean 0 and deviation 1 of the training images": lambda pixels, known: _standardised(pixels, known),
    "0 to 255": lambda pixels, _: pixels * 255,
}


def check(zoo: Zoo) -> dict[str, Any]:
    """What zoo.json keeps of it: how many nets were tried, the scaling of their pixels, the largest difference.

    A net that guesses says nothing, so those are tried whose accuracy is at least twice that of guessing.

    Raises:
        ValueError: a net is less or more accurate than its source says, with every scaling that fits the others; or no
            net has an accuracy that could be checked.
        FileNotFoundError: the files of an image set are not there.
    """
    rows = [row for row in zoo.manifest.to_pylist() if _tells(row, zoo)]
    if not rows:
        raise ValueError(
            f"{zoo.record['source']['format']}: verify=accuracy needs nets with an image set, one of "
            f"{', '.join(images.SETS)}, and a test accuracy of at least twice that of guessing; found none"
        )
    chosen = [rows[place] for place in torch.linspace(0, len(rows) - 1, min(len(rows), MOST_NETS)).long().tolist()]
    sets: dict[tuple[Any, ...], Images] = {}
    worst = dict.fromkeys(SCALINGS, 0.0)
    with progress("verifying accuracies", len(chosen)) as advance:
        for row in chosen:
            key = row["image_set"], *zoo.archs[row["arch"]]["image_shape"]
            if key not in sets:
                sets[key] = images.load(key[0], shape=key[1:])
            module = zoo.module(row["net"], row["step"])
            found = {scaling: accuracy(module, sets[key], SCALINGS[scaling]) for scaling in worst}
            off = {scaling: abs(value - row["test_accuracy"]) for scaling, value in found.items()}
            worst = {scaling: max(worst[scaling], off[scaling]) for scaling in worst if off[scaling] <= TOLERANCE}
            if not worst:
                told = ", ".join(f"{value:.4f} with pixels of {scaling}" for scaling, value in found.items())
                raise ValueError(
                    f"{row['source.where']}: its source says a test accuracy of {row['test_accuracy']:.4f} on "
                    f"{row['image_set']}, found {told}. Its layout, or its images, are not what this format expects."
                )
            advance()
    scaling = min(worst, key=lambda name: worst[name])
    return {"nets": len(chosen), "pixels": scaling, "largest_difference": round(worst[scaling], 6)}


def accuracy(module: nn.Module, known: Images, scale: Callable[[Pixels, Images], Pixels]) -> float:
    """The share of the test images that the module gives their class."""
    correct = 0
    with torch.no_grad():
        for pixels, labels in zip(known.test.split(BATCH), known.test_labels.split(BATCH), strict=True):
            correct += int((module(scale(pixels.float().div(255), known)).argmax(1) == labels).sum())
    return correct / len(known.test)


def _tells(row: dict[str, Any], zoo: Zoo) -> bool:
    known = row["image_set"] in images.SETS and row["status"] == "ok" and row.get("test_accuracy") is not None
    return known and row["test_accuracy"] * images.SETS[row["image_set"]].num_classes >= 2


def _standardised(pixels: Pixels, known: Images) -> Pixels:
    train = known.train.flatten(2).float().div(255)
    mean, deviation = train.mean((0, 2)), train.std((0, 2))
    return (pixels - mean[:, None, None]) / deviation[:, None, None]
