"""Reads one checkpoint and says how the net was trained.

    python -m metanet.predict run=runs/digits_mini/gnn-seed0 checkpoint=net.safetensors
    python -m metanet.predict run=... checkpoint=net.safetensors module=package:factory input=[1,1,8,8] json=true

The architecture is in the safetensors metadata of checkpoints from scripts/export_nets.py. For any other state_dict,
`module` names a function or class that takes no arguments and gives the nn.Module, and `input` its input's shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rich.console
import torch
from rich.table import Column, Table
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import metanet
from metanet import commandline, runs
from metanet.zoo import nets, shards
from metanet.zoo.families import factory


@dataclass
class Options:
    run: str = field(default="???", metadata={"help": "the folder of a finished run"})
    checkpoint: str = field(default="???", metadata={"help": "a safetensors file with one net's state_dict"})
    module: str | None = field(default=None, metadata={"help": "package:factory, if the file does not say what it is"})
    input: list[int] | None = field(default=None, metadata={"help": "with module: the input's shape, [1,1,8,8]"})
    json: bool = field(default=False, metadata={"help": "print JSON instead of a table"})


def main(options: Options) -> dict[str, dict[str, Any]]:
    """Prints and returns {target: {predicted, probabilities by class}} or {target: {predicted, error}}.

    Raises:
        ValueError, OSError: no such run or file, no architecture, weights that do not fit it or are not finite.
    """
    if options.input and not options.module:
        raise ValueError(f"input={options.input} goes with module=package:factory, which is missing")
    run = runs.load_run(options.run)
    state_dict, about = load_checkpoint(Path(options.checkpoint))
    module, example = from_factory(options) if options.module else from_metadata(about, options)
    try:
        template = metanet.trace(module.eval(), example)
        outputs = run.predict([(template, state_dict)])
    except ValueError as error:
        raise ValueError(f"{options.checkpoint}: {error}") from error
    answers = read(run, outputs)
    if options.json:
        print(json.dumps(answers, indent=1))
    else:
        show(answers, about, f"{options.checkpoint}, read by {options.run}")
    return answers


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of any safetensors file, and what its metadata say under `metanet`.

    Raises:
        FileNotFoundError, ValueError: no such file, truncated, or no safetensors file.
    """
    if path.is_dir():
        raise ValueError(f"{path}: found a folder, expected a safetensors file in it")
    shards.check_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("metanet", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def from_metadata(about: Mapping[str, Any], options: Options) -> tuple[nn.Module, Tensor]:
    """The net that a checkpoint of scripts/export_nets.py says it is, and an input for it."""
    if "arch" not in about:
        raise ValueError(
            f"{options.checkpoint}: its metadata does not say what architecture it is. "
            f"Give module=package:factory and input=[1,channels,height,width]."
        )
    module = nets.build(about["arch"], activation=about.get("activation", "relu"))
    return module, nets.example_input(about["arch"])


def from_factory(options: Options) -> tuple[nn.Module, Tensor]:
    """The module that `package:factory` gives, and an input of the shape `input`."""
    assert options.module is not None
    module = factory.made(options.module)
    if not options.input:
        raise ValueError(
            f"module={options.module}: the shape of its input is missing; give input=[1,1,8,8] or the like"
        )
    return module, torch.zeros(options.input)


def read(run: runs.Run, outputs: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """One net's outputs in words; `test_score` says how far to trust them."""
    answers: dict[str, dict[str, Any]] = {}
    for target in run.schema.targets:
        output, scores = outputs[target.name][0], run.result["test"][target.name]
        if target.kind == "classification":
            by_class = dict(zip(target.classes, output.tolist(), strict=True))
            answers[target.name] = {"predicted": target.classes[int(output.argmax())], "probabilities": by_class}
        else:
            unit = "decades" if target.log else "units"
            answers[target.name] = {"predicted": float(output), f"mean_absolute_error_in_{unit}": scores["mae"]}
        answers[target.name]["test_score"] = scores["score"]
    return answers


def show(answers: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any], title: str) -> None:
    """A table; what the checkpoint's own metadata say of a target stands beside the prediction."""
    names = (Column("target", no_wrap=True), Column("predicted", no_wrap=True))
    table = Table(*names, "probabilities, or error", "test score", title=title)
    if about:
        table.add_column("its metadata")
    for name, answer in answers.items():
        if "probabilities" in answer:
            ranked = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
            predicted, detail = answer["predicted"], ", ".join(f"{label} {share:.2f}" for label, share in ranked)
        else:
            error = next(value for key, value in answer.items() if key.startswith("mean_absolute_error"))
            decades = "mean_absolute_error_in_decades" in answer
            predicted = f"{answer['predicted']:.3g}"
            detail = f"within a factor of {10**error:.2g} on average" if decades else f"± {error:.2g} on average"
        row = [name, predicted, detail, f"{answer['test_score']:.2f}"]
        known = about.get(name, "")
        told = f"{known:.3g}" if isinstance(known, float) else str(known)
        table.add_row(*row, *([told] if about else []))
    rich.console.Console().print(table)


if __name__ == "__main__":
    commandline.run(main, Options)
