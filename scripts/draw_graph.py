"""Draws the parameter graph of an architecture as an interactive page (.html) or a picture (.png).

    python scripts/draw_graph.py zoo=zoos/demo out=graph.html                      # the zoo's first architecture
    python scripts/draw_graph.py zoo=zoos/demo arch=mlp-2x64-1x14x14-10 out=graph.png
    python scripts/draw_graph.py module=pytorchcv.models.resnet:resnet18 out=graph.html       # any module
    python scripts/draw_graph.py module=mypackage.nets:make_net input=1,3,32,32 out=graph.png fold=2

`module` is package:factory, a function without required arguments that returns an nn.Module; it is imported and called.
`input` is the shape of its input, by default one colour image of 224 x 224 pixels. Large networks come folded, a box
for each module; the page opens them on a double click and can show every space. `fold` chooses how many components of
the module paths are kept (0: every space is a box).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from metanet import commandline
from metanet.arch.draw import draw
from metanet.arch.template import Template
from metanet.arch.trace import trace
from metanet.zoo.families import factory
from metanet.zoo.store import open_zoo


@dataclass
class Options:
    out: str = field(default="graph.html", metadata={"help": "the picture, .html or .png"})
    zoo: str | None = field(default=None, metadata={"help": "a zoo's folder"})
    arch: str | None = field(default=None, metadata={"help": "an architecture of the zoo (its first)"})
    activation: str = field(default="relu", metadata={"help": "the activation that the zoo's architecture gets"})
    module: str | None = field(default=None, metadata={"help": "package:factory, in place of a zoo"})
    input: Any = field(default="1,3,224,224", metadata={"help": "shape of the module's input"})
    fold: int | None = field(default=None, metadata={"help": "components of module paths to fold to (as fits)"})


def main(options: Options) -> None:
    if (options.zoo is None) == (options.module is None):
        raise ValueError(
            "found zoo= and module= both or neither, expected one of them: zoo=zoos/NAME or module=package:factory"
        )
    title, template = _of_zoo(options) if options.zoo else _of_module(options)
    draw(template, Path(options.out), title, options.fold)
    parts = f"{len(template.spaces)} spaces, {len(template.blocks)} blocks, {template.num_params:,} parameters"
    print(f"{options.out}: {title}, {parts}")


def _of_zoo(options: Options) -> tuple[str, Template]:
    zoo = open_zoo(str(options.zoo))
    arch = options.arch or min(zoo.archs)
    return f"{arch}, {options.activation}", zoo.template(arch, options.activation)


def _of_module(options: Options) -> tuple[str, Template]:
    shape = _shape(options.input)
    name = str(options.module)
    return name.partition(":")[2], trace(factory.made(name), torch.randn(shape))


def _shape(given: Any) -> list[int]:
    """The sizes in "1,3,32,32", or in a list of them."""
    sizes = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    try:
        shape = [int(size) for size in sizes]
    except (TypeError, ValueError):
        shape = []
    if not shape or min(shape) < 1:
        raise ValueError(f"input={given}: expected the sizes of a tensor, for example input=1,3,32,32")
    return shape


if __name__ == "__main__":
    commandline.run(main, Options)
