"""ONNX: a file net-N-step-S.onnx per net, for runtimes and for `scripts/import_zoo.py format=onnx`.

The graph is written from torch.export's operators, for any number of samples, and the weights have the names and the
numbers that they have in the zoo: reading the files back gives the same, bit for bit. Before a file is written, onnx's
reference evaluator has run it on random input and given what the net gives. metadata.csv has a row per file with the
net's hyperparameters and accuracies. Needs the package onnx: pip install metanet[onnx].
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metanet.exporters import Snapshot, put_labels
from metanet.zoo import disk, nets
from metanet.zoo.store import Zoo

MOST_BYTES = 2_000_000_000  # a file of protobuf has at most 2 GiB


def write(zoo: Zoo, snapshots: Sequence[Snapshot], folder: Path) -> Iterator[None]:
    """The files, then the table."""
    if importlib.util.find_spec("onnx") is None:
        raise ValueError("format=onnx needs the package onnx, which is not installed: pip install metanet[onnx]")
    graphs = [_graph(json.dumps(one.arch, sort_keys=True), one.row["activation"]) for one in snapshots]
    for snapshot, graph in zip(snapshots, graphs, strict=True):
        disk.write_atomically(folder / f"{snapshot.name}.onnx", _file(snapshot, graph))
        yield
    put_labels(folder / "metadata.csv", [one.labels(f"{one.name}.onnx") for one in snapshots], snapshots)


@functools.lru_cache(maxsize=64)
def _graph(arch: str, activation: str) -> Any:
    """The model of an architecture, without weights."""
    from metanet.exporters.onnx_files import graph  # which imports onnx

    described = json.loads(arch)
    try:
        return graph.model(
            nets.build(described, activation=activation),
            nets.example_input(described)[:1],
        )
    except ValueError as error:
        raise ValueError(
            f"{nets.arch_name(described)} cannot be exported as ONNX: {error}. "
            f"Choose nets of other architectures with nets=[...], or another format."
        ) from error


def _file(snapshot: Snapshot, graph: Any) -> bytes:
    """The bytes of a net's file.

    Raises:
        ValueError: too large, or onnx's evaluator gives something else than the net.
    """
    from metanet.exporters.onnx_files import check
    from metanet.exporters.onnx_files.graph import filled

    tensors = snapshot.state_dict()
    if sum(tensor.nbytes for tensor in tensors.values()) > MOST_BYTES:
        raise ValueError(f"{snapshot.name}: its weights take more than {MOST_BYTES:,} bytes, which ONNX cannot hold")
    model = filled(graph, tensors, list(nets.own_names(tensors, snapshot.arch)))
    model.graph.name = snapshot.row["arch"]
    check.equal(model, snapshot.zoo.module(snapshot.row["net"], snapshot.row["step"]), snapshot.name)
    return model.SerializeToString(deterministic=True)
