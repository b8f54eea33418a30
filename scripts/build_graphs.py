"""Builds the parameter graphs of a zoo: traces every architecture, checks its symmetry, and measures the building.

    python scripts/build_graphs.py zoo=zoos/demo
    python scripts/build_graphs.py zoo=zoos/demo materialize=true                  # PyG tensors for other tools
    python scripts/build_graphs.py zoo=zoos/demo materialize=true out=graphs
    python scripts/build_graphs.py zoo=zoos/demo materialize=true scalar_edges=true    # an edge per parameter

Writes <zoo>/templates/<architecture>-<activation>.json. Models read these templates instead of tracing anew, and gather
the weights through them while they train, so nothing else has to be stored; `materialize` writes the graphs all the
same (docs/graphs.md says how to read them) as <out>/<architecture>-<activation>-<part>.safetensors, <zoo>/graphs unless
`out` is given.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import save
from torch import Tensor

from metanet import commandline
from metanet.arch.check import check_symmetry
from metanet.arch.template import VECTOR_ROLES, Template
from metanet.progress import progress
from metanet.views.codes import SPACE_COLUMNS
from metanet.views.graph import EDGE_TYPES, GRAPH_COLUMNS, RELATION_COLUMNS, TAP_COLUMNS, blocked, sparse
from metanet.views.scalar_graph import (
    SCALAR_EDGE_COLUMNS,
    SCALAR_EDGE_TYPES,
    SCALAR_NODE_COLUMNS,
    SCALAR_RELATION_COLUMNS,
    edge_values,
    scalar_wiring,
)
from metanet.zoo import templates
from metanet.zoo.disk import make_folder, one_writer, write_atomically
from metanet.zoo.store import Zoo, open_zoo

Advance = Callable[..., None]
_OF_BUILDING = ("rows", "fixed_values")  # fields of a wiring that say where values belong
CHUNK_BYTES = 1 << 28  # of what is in memory at once, and of a materialised file
SHARED_COLUMNS = {"space_codes": SPACE_COLUMNS, "u": GRAPH_COLUMNS}
COLUMNS = SHARED_COLUMNS | {
    "x": VECTOR_ROLES,
    "edge_attr": TAP_COLUMNS,
    "relation_codes": RELATION_COLUMNS,
    "edge_type": EDGE_TYPES,
}
SCALAR_COLUMNS = SHARED_COLUMNS | {
    "x": SCALAR_NODE_COLUMNS,
    "edge_attr": SCALAR_EDGE_COLUMNS,
    "relation_codes": SCALAR_RELATION_COLUMNS,
    "edge_type": SCALAR_EDGE_TYPES,
}


@dataclass
class Options:
    zoo: str = field(default=commandline.REQUIRED, metadata={"help": "a zoo's folder"})
    materialize: bool = field(default=False, metadata={"help": "write the graphs of all nets, not only the templates"})
    out: str | None = field(default=None, metadata={"help": "folder of the materialised graphs (<zoo>/graphs)"})
    scalar_edges: bool = field(default=False, metadata={"help": "write an edge per parameter, not per channel pair"})


@dataclass
class Built:
    """What the summary says of one architecture; sums over its activations and nets."""

    nets: int = 0
    snapshots: int = 0
    nodes: int = 0
    edges: int = 0
    bytes: int = 0  # of all its weights
    seconds: float = 0.0  # to build the blocked layout of all its snapshots
    log10_order: float = 0.0
    error: float = 0.0  # the largest error of its symmetry check


def main(options: Options) -> None:
    for given, text in ((options.scalar_edges, "scalar_edges=true"), (options.out is not None, f"out={options.out}")):
        if given and not options.materialize:
            raise ValueError(f"{text} is about the graphs that are written; add materialize=true")
    zoo = open_zoo(options.zoo)
    rows = _rows(zoo)
    if not rows:
        raise ValueError(f"{zoo.path}: no net of this zoo has status ok, so there is nothing to build")
    built: dict[str, Built] = {}
    with one_writer(zoo.path):
        make_folder(zoo.path / "templates")
        with progress("tracing architectures", len(rows), "templates") as advance:
            for (arch, activation), its_rows in rows.items():
                template = zoo.template(arch, activation)
                entry = built.setdefault(arch, _facts(template))
                entry.error = max(entry.error, _symmetry_error(zoo, template, arch, its_rows[0]))
                templates.write(templates.path(zoo.path, arch, activation), zoo.archs[arch], activation, template)
                advance(note=arch)
        total = sum(map(len, rows.values()))
        with progress("building graphs", total, "nets") as advance:
            for (arch, activation), its_rows in rows.items():
                built[arch].nets += len(set(zoo.manifest["net"].take(its_rows).to_pylist()))
                _build(zoo, zoo.template(arch, activation), arch, its_rows, built[arch], advance)
        if options.materialize:
            folder = Path(options.out) if options.out else zoo.path / "graphs"
            make_folder(folder)
            with progress("writing graphs", total, "nets") as advance:
                for (arch, activation), its_rows in rows.items():
                    materialize(zoo, arch, activation, its_rows, folder, options.scalar_edges, advance)
    table, console = _table(zoo, built), Console()
    wanted = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, wanted)  # a log or a narrow terminal gets whole rows all the same
    console.print(table)


def _rows(zoo: Zoo) -> dict[tuple[str, str], list[int]]:
    """(architecture, activation) -> rows of the manifest whose net did not diverge."""
    columns = (zoo.manifest[name].to_pylist() for name in ("arch", "activation", "status"))
    rows: dict[tuple[str, str], list[int]] = {}
    for row, (arch, activation, status) in enumerate(zip(*columns, strict=True)):
        if status == "ok":
            rows.setdefault((arch, activation), []).append(row)
    return dict(sorted(rows.items()))


def _facts(template: Template) -> Built:
    edges = sum(block.shape[0] * block.shape[1] for block in template.blocks)
    order = template.symmetry.log10_order
    return Built(nodes=sum(space.size for space in template.spaces), edges=edges, log10_order=order)


def _symmetry_error(zoo: Zoo, template: Template, arch: str, row: int) -> float:
    net, step = (zoo.manifest[name][row].as_py() for name in ("net", "step"))
    return check_symmetry(template, zoo.module(net, step), zoo.example_input(arch))


def _build(zoo: Zoo, template: Template, arch: str, rows: list[int], entry: Built, advance: Advance) -> None:
    for chunk in torch.tensor(rows).split(max(1, CHUNK_BYTES // (4 * template.num_params))):
        params = zoo.stacked(arch, chunk)
        start = time.perf_counter()
        blocked(template, params)
        entry.seconds += time.perf_counter() - start
        entry.snapshots += len(chunk)
        entry.bytes += sum(tensor.nbytes for tensor in params.values())
        advance(len(chunk), note=arch)


def materialize(
    zoo: Zoo, arch: str, activation: str, rows: list[int], folder: Path, scalar_edges: bool, advance: Advance
) -> None:
    """Writes the sparse graphs of some nets: what differs stacked over nets, what they share once.

    Tensors: `x` [nets, nodes, VECTOR_ROLES], `edge_attr` [nets, edges, TAP_COLUMNS], `row` [nets] (of the manifest);
    shared by all nets: the other fields of a ParameterGraph. With `scalar_edges` only `value` [nets, edges] and `row`
    differ, and `taps` are the other columns of `edge_attr`. The metadata names the columns and holds the template.
    """
    template = zoo.template(arch, activation)
    names = SCALAR_COLUMNS if scalar_edges else COLUMNS
    metadata = {"template": template.to_json(), "columns": json.dumps(names), "arch": arch, "activation": activation}
    edges = sum(block.shape[0] * block.shape[1] for block in template.blocks)
    wide = template.num_params if scalar_edges else edges * len(TAP_COLUMNS)
    stack, kind = (_stacked_values, "-scalar") if scalar_edges else (_stacked_graphs, "")
    for part, chunk in enumerate(torch.tensor(rows).split(max(1, CHUNK_BYTES // (4 * wide)))):
        tensors = stack(template, zoo.stacked(arch, chunk)) | {"row": chunk.contiguous()}
        write_atomically(folder / f"{arch}-{activation}{kind}-{part}.safetensors", save(tensors, metadata))
        advance(len(chunk), note=arch)


def _stacked_values(template: Template, params: dict[str, Tensor]) -> dict[str, Tensor]:
    shared = {name: tensor for name, tensor in vars(scalar_wiring(template)).items() if name not in _OF_BUILDING}
    return {"value": edge_values(template, params)} | shared


def _stacked_graphs(template: Template, params: dict[str, Tensor]) -> dict[str, Tensor]:
    batch = sparse(template, params)
    own = {name: batch[name].view(batch.num_graphs, -1, batch[name].shape[-1]) for name in ("x", "edge_attr")}
    return {name: tensor.contiguous() for name, tensor in {**batch.get_example(0).to_dict(), **own}.items()}


def _table(zoo: Zoo, built: dict[str, Built]) -> Table:
    table = Table(title=f"{zoo.path}: parameter graphs", title_justify="left", box=box.SIMPLE)
    table.add_column("architecture", no_wrap=True)
    for name in ("nets", "snapshots", "nodes", "edges", "weights", "log10\nsymmetry", "its\nerror", "nets/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for arch, entry in built.items():
        table.add_row(arch, *_cells(entry), f"{entry.log10_order:,.1f}", f"{entry.error:.0e}", _rate(entry))
    whole = Built(
        nets=sum(entry.nets for entry in built.values()),
        snapshots=sum(entry.snapshots for entry in built.values()),
        nodes=sum(entry.nodes * entry.snapshots for entry in built.values()),
        edges=sum(entry.edges * entry.snapshots for entry in built.values()),
        bytes=sum(entry.bytes for entry in built.values()),
        seconds=sum(entry.seconds for entry in built.values()),
        error=max(entry.error for entry in built.values()),
    )
    table.add_section()
    table.add_row(f"{len(built)} architectures", *_cells(whole), "", f"{whole.error:.0e}", _rate(whole))
    table.caption = (
        "nodes and edges of one net, in the last row of all snapshots\n"
        "nets/s: stacked weights to the blocked layout, reading not counted"
    )
    table.caption_justify = "left"
    return table


def _cells(entry: Built) -> tuple[str, ...]:
    counts = (f"{count:,}" for count in (entry.nets, entry.snapshots, entry.nodes, entry.edges))
    return (*counts, f"{entry.bytes / 2**20:,.1f} MiB")


def _rate(entry: Built) -> str:
    return f"{entry.snapshots / max(entry.seconds, 1e-9):,.0f}"


if __name__ == "__main__":
    commandline.run(main, Options)
