"""Measures how many nets per second become graphs, beside a plain per-net loop and the machine's memory copy.

    python scripts/benchmark_graphs.py
    python scripts/benchmark_graphs.py nets=512 device=cuda
    python scripts/benchmark_graphs.py tuned=false    # as in a program that leaves the allocator as it is

Two Markdown tables: both layouts beside a plain loop, and how time grows with width, depth and the number of nets
(that of tracing too, which is done once per architecture). The loop is written as published code does it: for every net
and layer it pads the kernels, lists the edges and makes a PyG Data, and collates the list at the end. All results are
checked to be equal first, bit for bit. GB/s are of a layout's bytes per second; "of memcpy" compares them with what a
copy that misses the caches writes. `blocked` writes only nodes: its edges are views of the weights, which is checked
too, so it may pass memcpy. "goal" is what the project wants to reach there.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from metanet import commandline, machine
from metanet.arch.template import VECTOR_DEFAULTS, Template
from metanet.arch.trace import trace
from metanet.views.graph import GRID, Blocked, ParameterGraph, blocked, sparse, wiring
from metanet.zoo import nets

ARCHITECTURES: list[dict[str, Any]] = [
    {
        "family": "small_cnn",
        "image_shape": [1, 28, 28],
        "num_classes": 10,
        "batch_norm": False,
        "conv_depth": 3,
        "conv_width": 16,
    },
    {"family": "mlp", "image_shape": [1, 7, 7], "num_classes": 10, "batch_norm": False, "depth": 2, "width": 64},
    {
        "family": "nws_cnn",
        "image_shape": [1, 14, 14],
        "num_classes": 10,
        "batch_norm": True,
        "filter_size": 3,
        "conv_depth": 3,
        "conv_width": 8,
        "dense_depth": 2,
        "dense_width": 32,
    },
    {
        "family": "nws_cnn",
        "image_shape": [3, 32, 32],
        "num_classes": 20,
        "batch_norm": True,
        "filter_size": 5,
        "conv_depth": 5,
        "conv_width": 8,
        "dense_depth": 4,
        "dense_width": 128,
    },
]

CNN, MLP = ARCHITECTURES[:2]
GOALS = {  # (number of the architecture, layout): the least rate
    (0, "blocked"): "100,000 nets/s",
    (0, "sparse"): "50,000 nets/s",
    (3, "blocked"): "50% of memcpy",
    (3, "sparse"): "50% of memcpy",
}
GROWTH: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "conv_width": (CNN, (8, 16, 32, 64, 128)),
    "depth": (MLP, (1, 2, 4, 8, 16, 32)),
    "nets": (CNN, (16, 64, 256, 1024)),
}


@dataclass
class Options:
    nets: int = field(default=64, metadata={"help": "stacked nets of each architecture"})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda or cuda:<number>"})
    tuned: bool = field(default=True, metadata={"help": "keep freed memory, by machine.tune_allocator(keep_all=True)"})


def main(options: Options) -> None:
    if options.nets < 1:
        raise ValueError(f"nets={options.nets}: expected at least 1")
    if options.tuned:
        machine.tune_allocator(keep_all=True)
    copy = machine.memcpy_rate(options.device) / 2
    print(f"{machine.describe(options.device)}; memcpy writes {copy / 1e9:.1f} GB/s; {options.nets} nets in a stack\n")
    print("| architecture | parameters | edges | layout | nets/s | goal | GB/s | of memcpy | times the loop |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|")
    for number in range(len(ARCHITECTURES)):
        for row in measure(number, options, copy):
            print("|", " | ".join(row), "|", flush=True)
    print("\n| changed | parameters | edges | nets | trace, s | blocked, us/net | sparse, us/net | sparse, ns/edge |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for size, (arch, values) in GROWTH.items():
        for value in values:
            print("|", " | ".join(grown(arch, size, value, options)), "|", flush=True)


def grown(arch: dict[str, Any], size: str, value: int, options: Options) -> tuple[str, ...]:
    """The row of an architecture with one of its sizes changed, or of another number of its nets."""
    count = value if size == "nets" else options.nets
    start = time.perf_counter()
    template = traced(arch if size == "nets" else arch | {size: value})
    tracing = time.perf_counter() - start
    params = {name: torch.randn(count, *shape).to(options.device) for name, shape in template.shapes.items()}
    ways: list[Callable[[Template, dict[str, Tensor]], object]] = [blocked, sparse]
    seconds = [machine.seconds_per_call(functools.partial(way, template, params), options.device) for way in ways]
    micros = [1e6 / count * taken for taken in seconds]
    edges = sum(block.shape[0] * block.shape[1] for block in template.blocks)
    facts = (
        f"{arch['family']}, {size} {value}",
        f"{template.num_params:,}",
        f"{edges:,}",
        f"{count:,}",
        f"{tracing:.2f}",
    )
    return (*facts, *(f"{one:,.1f}" for one in micros), f"{1e3 * micros[1] / edges:,.1f}")


def traced(arch: dict[str, Any]) -> Template:
    return trace(nets.build(arch).eval(), torch.randn(2, *arch["image_shape"]))


def measure(number: int, options: Options, copy: float) -> list[tuple[str, ...]]:
    """The rows of one of ARCHITECTURES; `copy` is in bytes per second."""
    arch = ARCHITECTURES[number]
    template = traced(arch)
    params = {name: torch.randn(options.nets, *shape).to(options.device) for name, shape in template.shapes.items()}
    check(template, {name: tensor[:2] for name, tensor in params.items()})
    ways: list[Callable[[Template, dict[str, Tensor]], object]] = [blocked, sparse, per_net_loop]
    seconds = [machine.seconds_per_call(functools.partial(way, template, params), options.device) for way in ways]
    edges = sum(block.shape[0] * block.shape[1] for block in template.blocks)
    rows = []
    for way, taken in zip(ways, seconds, strict=True):
        rate = bytes_of(way(template, params)) / taken
        facts = (f"`{nets.arch_name(arch)}`", f"{template.num_params:,}", f"{edges:,}", way.__name__)
        rates = (
            f"{options.nets / taken:,.0f}",
            GOALS.get((number, way.__name__), ""),
            f"{rate / 1e9:.2f}",
            f"{rate / copy:.0%}",
            f"{seconds[-1] / taken:,.1f}",
        )
        rows.append(facts + rates)
    return rows


def per_net_loop(template: Template, params: dict[str, Tensor]) -> Batch:
    """One ParameterGraph per net, layer by layer, then PyG's own collation; edges in the order of the layers.

    What is the same for all nets (codes, types) is looked up and not made again: that is in the loop's favour.
    """
    count, device = len(next(iter(params.values()))), next(iter(params.values())).device
    first = [sum(space.size for space in template.spaces[:i]) for i in range(len(template.spaces))]
    wires = wiring(template, device=device)
    shared = ("node_space", "place", "space_codes", "relation_codes", "relation_type", "relation_block", "u")
    fields = {name: getattr(wires, name) for name in shared}
    constant = functools.partial(torch.full, device=device)
    graphs = []
    for net in range(count):
        nodes, ends, edges, relations = [], [], [], []
        for space in template.spaces:
            vectors = [
                params[space.vectors[role]][net] if role in space.vectors else constant((space.size,), default)
                for role, default in VECTOR_DEFAULTS.items()
            ]
            nodes.append(torch.stack(vectors, 1))
        for number, block in enumerate(template.blocks):
            out, inputs, _ = block.shape
            height, width = (1, 1, *block.taps)[-2:]
            kernels = params[block.name][net].reshape(out * inputs, height, width)
            top, left = GRID // 2 - (height - 1) // 2, GRID // 2 - (width - 1) // 2
            edges.append(F.pad(kernels, (left, GRID - width - left, top, GRID - height - top)).flatten(1))
            pairs = torch.cartesian_prod(torch.arange(out, device=device), torch.arange(inputs, device=device))
            ends.append(torch.stack([pairs[:, 1] + first[block.source], pairs[:, 0] + first[block.target]]))
            relations.append(constant((out * inputs,), number))  # kernels of two axes fit the grid
        own = {"x": torch.cat(nodes), "edge_index": torch.cat(ends, 1), "edge_attr": torch.cat(edges)}
        graphs.append(ParameterGraph(**fields, **own, edge_relation=torch.cat(relations)))
    return Batch.from_data_list(graphs)


def check(template: Template, params: dict[str, Tensor]) -> None:
    """The loop and `sparse` make the same graphs, bit for bit: edges are compared in order of destination, which is
    `sparse`'s. The edges of `blocked` are where the weights are.
    """
    for block, edges in zip(template.blocks, blocked(template, params).edges, strict=True):
        assert edges.data_ptr() == params[block.name].data_ptr(), f"{block.name}: blocked() copies its weights"
    ours, theirs = sparse(template, params), per_net_loop(template, params)
    order = theirs["edge_index"][1].argsort(stable=True)
    for name, tensor in dict(iter(theirs)).items():
        theirs_sorted = tensor.index_select(int(name == "edge_index"), order) if name.startswith("edge_") else tensor
        same = torch.equal(ours[name].view(torch.uint8), theirs_sorted.view(torch.uint8))
        assert same, f"the loop and sparse() make different {name}"


def bytes_of(built: object) -> int:
    if isinstance(built, Blocked):
        return sum(part.nbytes for part in (*built.nodes, *built.edges))
    assert isinstance(built, Batch)
    return sum(tensor.nbytes for _, tensor in built if isinstance(tensor, Tensor))


if __name__ == "__main__":
    commandline.run(main, Options)
