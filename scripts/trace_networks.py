"""Which public networks become parameter graphs: a Markdown table, one row per network.

    pip install --no-deps pytorchcv monai && pip install transformers
    python scripts/trace_networks.py                             # all of them
    python scripts/trace_networks.py only=transformers check=true

pytorchcv's networks have their published sizes and read an image, most of them of 224 x 224 pixels; those of
transformers and monai are built small (scripts/networks.yaml); nothing is downloaded. Seconds are processor time of
`metanet.trace`, the export by torch included. With `check` a permuted copy of every network is compared with it in
float64. A network that is refused has the reason in its row. Their packages are no dependencies of metanet; a network
whose package is missing says so.
"""

import functools
import importlib
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from metanet import commandline
from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace

NETWORKS = Path(__file__).with_name("networks.yaml")
TOKENS = torch.zeros(2, 6, 12)
WORDS = torch.zeros(2, 7, dtype=torch.int64)
TORCH: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "nn.LSTM": (lambda: nn.LSTM(12, 8, num_layers=2, bidirectional=True), (TOKENS,)),
    "nn.GRU": (lambda: nn.GRU(12, 8), (TOKENS,)),
    "nn.RNN": (lambda: nn.RNN(12, 8, num_layers=2), (TOKENS,)),
    "nn.MultiheadAttention": (lambda: nn.MultiheadAttention(12, 3, batch_first=True), (TOKENS, TOKENS, TOKENS)),
    "nn.TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(12, 3, 16, batch_first=True), (TOKENS,)),
    "nn.Transformer": (lambda: nn.Transformer(12, 3, 2, 2, 16, batch_first=True), (TOKENS, TOKENS)),
    "nn.Bilinear": (lambda: nn.Bilinear(12, 12, 5), (TOKENS, TOKENS)),
}


@dataclass
class Options:
    only: str = field(default="", metadata={"help": "networks whose name, package:network, contains this"})
    check: bool = field(default=False, metadata={"help": "compare a permuted copy of each with it"})


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], tuple[Tensor, ...]]]:
    """The name of each network, a function that makes it, and its inputs."""
    for package, members in yaml.safe_load(NETWORKS.read_text()).items():
        for name, one in members.items():
            shape = one.get("input", [1, 3, 224, 224])
            x = WORDS if shape == "words" else torch.zeros(shape)
            yield f"{package}:{name}", functools.partial(MAKERS[package], name, **one), (x,)
    for name, (make, inputs) in TORCH.items():
        yield f"torch:{name}", make, inputs


def pytorchcv(name: str, module: str, **_: Any) -> nn.Module:
    return getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)()


def transformers(name: str, config: str, settings: dict[str, Any], **_: Any) -> nn.Module:
    package = importlib.import_module("transformers")
    return getattr(package, name)(getattr(package, config)(**settings))


def monai(name: str, settings: dict[str, Any], **_: Any) -> nn.Module:
    return getattr(importlib.import_module("monai.networks.nets"), name)(**settings)


MAKERS = {"pytorchcv": pytorchcv, "transformers": transformers, "monai": monai}


def row(name: str, make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], check: bool) -> str:
    """The network's line of the table."""
    torch.manual_seed(0)
    try:
        net = make().eval()
    except ImportError:
        return f"| {name} | package not installed | | | |"
    count = sum(parameter.numel() for parameter in net.parameters())
    start = time.process_time()
    try:
        template = trace(net, *inputs)
    except ValueError as error:
        why = re.sub(r" \(/[^)]*\)|Add one to a file.*", "", str(error).splitlines()[0])  # without the place on disk
        return f"| {name} | {count:,} | {time.process_time() - start:.1f} | | {why} |"
    seconds = time.process_time() - start
    error = f"{check_symmetry(template, net, *inputs, samples=1):.0e}" if check else ""
    return f"| {name} | {count:,} | {seconds:.1f} | {template.symmetry.log10_order:,.3f} | {error} |"


def main(options: Options) -> None:
    warnings.simplefilter("ignore")
    print(
        "| network | parameters | seconds | log10 of the group's order | error of a permuted copy, or what it lacks |"
    )
    print("|---|---:|---:|---:|---|")
    for name, make, inputs in networks():
        if options.only in name:
            print(row(name, make, inputs, options.check), flush=True)


if __name__ == "__main__":
    commandline.run(main, Options)
