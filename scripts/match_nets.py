"""Aligns one net of a zoo with another by the symmetry of their architecture, and measures the line between the two.

    python scripts/match_nets.py zoo=zoos/wide nets=[0,1]
    python scripts/match_nets.py zoo=zoos/wide nets=[0,1] method=activations out=line.png
    python scripts/match_nets.py zoo=zoos/wide nets=[0,1] method=straight_through step=1248

Prints the test loss and accuracy of the nets (1 - t) a + t b, with net b as it is and with its aligned copy, which
computes the same function, and how high the loss rises above the ends (the barrier). Draws both lines as a page
(.html) or a picture (.png). Norm statistics are measured anew for every net in between (reset=false keeps them).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from metanet import commandline
from metanet.arch.matching import METHODS, distance, match
from metanet.interpolation import Batches, Line, line
from metanet.reporting import figures, page
from metanet.zoo import images
from metanet.zoo.feed import standardise
from metanet.zoo.store import Zoo, open_zoo

BATCH = 256


@dataclass
class Options:
    zoo: str = field(default=commandline.REQUIRED, metadata={"help": "a zoo's folder"})
    nets: list[int] = field(default=commandline.REQUIRED, metadata={"help": "two nets of one architecture: [0,1]"})
    step: int | None = field(default=None, metadata={"help": "a snapshot of both (the last of each)"})
    method: str = field(default="weights", metadata={"help": ", ".join(METHODS)})
    images: int = field(default=2048, metadata={"help": "training images to match and to measure statistics with"})
    epochs: int = field(default=5, metadata={"help": "of straight_through, over these images"})
    points: int = field(default=11, metadata={"help": "places on the line, ends included"})
    reset: bool = field(default=True, metadata={"help": "measure norm statistics anew, where a net has any"})
    out: str = field(default="matching.html", metadata={"help": "the figure, .html or .png"})


@dataclass(frozen=True)
class Result:
    """What was measured; the lines lead from net a to net b as it is, and to its aligned copy."""

    before: Line
    after: Line
    distance_before: float
    distance_after: float
    function_error: float  # of the aligned copy in float64, relative to its largest logit


def main(options: Options) -> Result:
    """Matches, measures, prints and draws.

    Raises:
        ValueError: nets that cannot be compared, or an option that is out of range.
    """
    _check(options)
    zoo = open_zoo(options.zoo)
    rows = [_row(zoo, net, options.step) for net in options.nets]
    for name in ("arch", "activation", "image_set"):
        if rows[0][name] != rows[1][name]:
            raise ValueError(
                f"{zoo.path}: net {rows[0]['net']} has {name} {rows[0][name]}, net {rows[1]['net']} has "
                f"{rows[1][name]}; only nets of one architecture, activation and image set can be matched"
            )
    module = zoo.module(rows[0]["net"], rows[0]["step"])
    a, b = (zoo.state_dict(row["net"], row["step"]) for row in rows)
    train, test = _batches(zoo, rows[0], options.images)
    template = zoo.template(rows[0]["arch"], rows[0]["activation"])
    inputs = [batch for batch, _ in train]
    evidence: dict[str, dict[str, Any]] = {
        "activations": {"module": module, "inputs": inputs},
        "straight_through": {"module": module, "batches": train, "epochs": options.epochs},
    }
    aligned = match(template, a, b, options.method, **evidence.get(options.method, {}))(b)
    normed = any({"mean", "variance"} & set(space.vectors) for space in template.spaces)
    reset = inputs if options.reset and normed else []
    lines = [line(module, a, other, test, options.points, reset) for other in (b, aligned)]
    result = Result(
        before=lines[0],
        after=lines[1],
        distance_before=distance(template, a, b),
        distance_after=distance(template, a, aligned),
        function_error=_function_error(module, b, aligned, inputs[0]),
    )
    title = f"{rows[0]['arch']}, {rows[0]['activation']}: nets {options.nets[0]} and {options.nets[1]}"
    _print(title, options, result)
    _draw(title, options, result)
    return result


def _check(options: Options) -> None:
    if len(options.nets) != 2 or options.nets[0] == options.nets[1]:
        raise ValueError(f"nets={options.nets}: expected two different nets, for example nets=[0,1]")
    if options.method not in METHODS:
        raise ValueError(f"method={options.method}: expected one of {', '.join(METHODS)}")
    if Path(options.out).suffix not in (".html", ".png"):
        raise ValueError(f"out={options.out}: the figure is written as .html or .png")
    for name in ("images", "epochs", "points"):
        least = 2 if name == "points" else 1
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)}: expected at least {least}")


def _row(zoo: Zoo, net: int, step: int | None) -> dict[str, Any]:
    found = zoo.manifest.slice(zoo.row(net, zoo.steps(net)[-1] if step is None else step), 1).to_pylist()[0]
    if found["status"] != "ok":
        raise ValueError(f"{zoo.path}: net {net} has status {found['status']} after {found['step']} steps")
    return found


def _batches(zoo: Zoo, row: Mapping[str, Any], count: int) -> tuple[Batches, Batches]:
    """The first training images, and the test images on which the zoo evaluates its nets, as the nets see them."""
    found = images.load(row["image_set"], shape=tuple(zoo.archs[row["arch"]]["image_shape"]))

    def parts(pixels: Tensor, labels: Tensor, most: int | None) -> Batches:
        whole = standardise(pixels[:most].float().div(255))
        return list(zip(whole.split(BATCH), labels[:most].split(BATCH), strict=True))

    train = parts(found.train, found.train_labels, count)
    return train, parts(found.test, found.test_labels, zoo.spec["eval_images"])


def _function_error(module: nn.Module, b: Mapping[str, Tensor], aligned: Mapping[str, Tensor], batch: Tensor) -> float:
    net = module.double().eval()
    logits = []
    with torch.no_grad():
        for state in (b, aligned):
            net.load_state_dict(state)
            logits.append(net(batch.double()))
    module.float()
    return ((logits[1] - logits[0]).abs().max() / logits[0].abs().max()).item()


def _print(title: str, options: Options, result: Result) -> None:
    table = Table(title=f"{title}, matched by {options.method}", title_justify="left")
    for name in ("t", "loss\nas it is", "loss\naligned", "accuracy\nas it is", "accuracy\naligned"):
        table.add_column(name, justify="right")
    for i, place in enumerate(result.before.places):
        losses = (f"{one.loss[i]:.4f}" for one in (result.before, result.after))
        accuracies = (f"{one.accuracy[i]:.4f}" for one in (result.before, result.after))
        table.add_row(f"{place:.2f}", *losses, *accuracies)
    table.add_section()
    table.add_row("barrier", f"{result.before.barrier:.4f}", f"{result.after.barrier:.4f}")
    table.add_row("distance", f"{result.distance_before:.2f}", f"{result.distance_after:.2f}")
    console = Console()
    console.print(table)
    console.print(f"the aligned copy computes what net {options.nets[1]} does, to {result.function_error:.0e}")


def _draw(title: str, options: Options, result: Result) -> None:
    path, after = Path(options.out), f"aligned by {options.method.replace('_', ' ')}"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = {f"net {options.nets[1]} as it is": result.before, after: result.after}
    if path.suffix == ".png":
        _save_png(path, title, lines)
    else:
        drawn, label = page.Figures(), f"from net {options.nets[0]} (0) to net {options.nets[1]} (1)"
        palette = figures.colours(list(lines), [])
        panels = [
            drawn.panel(what, "on test images", figures.along(result.after.places, values, label, palette))
            for what, values in _measured(lines).items()
        ]
        rows = [(name, f"barrier {one.barrier:.4f} nats") for name, one in lines.items()]
        body = [f"<h1>{escape(title)}</h1>", page.definitions(rows), f'<div class="panels">{"".join(panels)}</div>']
        path.write_text(page.page(title, body, drawn), encoding="utf-8")
    print(f"{path}: loss and accuracy on the line")


def _measured(lines: Mapping[str, Line]) -> dict[str, dict[str, tuple[float, ...]]]:
    """What is drawn -> line -> its values."""
    loss, accuracy = ({name: getattr(one, what) for name, one in lines.items()} for what in ("loss", "accuracy"))
    return {"loss": loss, "accuracy": accuracy}


def _save_png(path: Path, title: str, lines: Mapping[str, Line]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"{path}: a PNG needs matplotlib; pip install 'metanet[draw]', or write .html") from error
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    palette = figures.colours(list(lines), [])
    for axes, (what, values) in zip(panels, _measured(lines).items(), strict=True):
        for name, one in lines.items():
            axes.plot(one.places, values[name], color=palette[name], marker="o", markersize=3, label=name)
        axes.set(xlabel="t, from one net to the other", ylabel=f"test {what}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    commandline.run(main, Options)
