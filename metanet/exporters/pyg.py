"""Parameter graphs for PyTorch Geometric: graphs-K.pt as `InMemoryDataset` writes them, `shard_size` bytes at most.

    from torch_geometric.data import InMemoryDataset

    graphs = InMemoryDataset()
    graphs.load("OUT/graphs-0.pt")  # torch.load(weights_only=True): tensors and plain values alone
    graphs[0]  # Data(x, edge_index, edge_attr, edge_type, node_space, edge_block, u, y, net, step)

These are plain Data: every node and edge has all columns, as in `ParameterGraph.widened`; docs/graphs.md tells what
they hold. `y` [1, targets] has a column per entry of targets.json: the place in `classes`, or a number. splits.json has
the places of the training, validation and test graphs, counted through all files: the split by training runs that
`metanet.train` takes. Where the activation is a target, the graphs do not show it. columns.json names the columns of x,
edge_attr, u and edge_type.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset

from metanet import splits, targets
from metanet.exporters import Snapshot, check_shard_size
from metanet.targets import Target
from metanet.views.graph import EDGE_COLUMNS, EDGE_TYPES, GRAPH_COLUMNS, NODE_COLUMNS, ParameterGraph, graph_of
from metanet.zoo import disk
from metanet.zoo.nets import ACTIVATIONS
from metanet.zoo.store import Zoo

COLUMNS = {"x": NODE_COLUMNS, "edge_attr": EDGE_COLUMNS, "u": GRAPH_COLUMNS, "edge_type": EDGE_TYPES}


def write(zoo: Zoo, snapshots: Sequence[Snapshot], folder: Path, *, shard_size: int = 1_000_000_000) -> Iterator[None]:
    """The graphs in the order of the nets, then what they are."""
    check_shard_size(shard_size)
    parts, found, labels = _described(zoo)
    hidden = tuple(sorted(ACTIVATIONS)) if any(target.name == "activation" for target in found) else ()
    graphs: list[Data] = []
    files = 0
    for number, snapshot in enumerate(snapshots):
        key = snapshot.row["net"], snapshot.row["step"]
        if key not in parts:
            raise ValueError(f"{zoo.path}: {snapshot.name} has status {snapshot.row['status']}; a graph needs ok")
        template = zoo.template(snapshot.row["arch"], snapshot.row["activation"]).hide(hidden)
        graph = _plain(graph_of(template, snapshot.state_dict()))
        graph.y, graph.net, graph.step = labels[key][None], *key
        graphs.append(graph)
        if number == len(snapshots) - 1 or sum(map(_bytes, graphs)) + _bytes(graph) > shard_size:
            disk.write_atomically(folder / f"graphs-{files}.pt", pack(graphs))
            graphs, files = [], files + 1
        yield
    sides = [parts[snapshot.row["net"], snapshot.row["step"]] for snapshot in snapshots]
    places = {name: [place for place, side in enumerate(sides) if side == name] for name in splits.PARTS}
    told = [{"name": one.name, "kind": one.kind, "classes": one.classes, "log": one.log} for one in found]
    for name, content in (("targets", told), ("splits", places), ("columns", COLUMNS)):
        disk.write_atomically(folder / f"{name}.json", json.dumps(content, indent=1).encode())


def pack(graphs: Sequence[Data]) -> bytes:
    """The file that `InMemoryDataset.load` reads; equal graphs, equal bytes."""
    whole, slices = InMemoryDataset.collate(graphs)
    buffer = io.BytesIO()
    torch.save((whole.to_dict(), slices), buffer)
    return buffer.getvalue()


def _described(zoo: Zoo) -> tuple[dict[tuple[int, int], str], tuple[Target, ...], dict[tuple[int, int], Tensor]]:
    """By net and step, of all nets of the zoo that did not diverge: the part of the split, and the targets' values.

    Raises:
        ValueError: too few training runs for a split.
    """
    table = zoo.manifest.filter(pc.field("status") == "ok")
    part = splits.split(table)
    columns = targets.candidates(table, zoo.columns["hyperparameters"])
    found, _ = targets.find(table, columns, "all", part == splits.PARTS.index("train"), None)
    encoded = [one.encode(columns[one.name].to_numpy(zero_copy_only=False)) for one in found]
    values = torch.from_numpy(np.stack([*encoded, np.zeros(len(table))], axis=1)[:, :-1]).float()
    keys = list(zip(table["net"].to_pylist(), table["step"].to_pylist(), strict=True))
    sides = {key: splits.PARTS[side] for key, side in zip(keys, part, strict=True)}
    return sides, found, dict(zip(keys, values, strict=True))


def _plain(graph: ParameterGraph) -> Data:
    wide = graph.widened()
    names = ("x", "edge_index", "edge_attr", "edge_type", "node_space", "edge_block", "u")
    return Data(**{name: getattr(wide, name) for name in names})


def _bytes(graph: Data) -> int:
    return sum(tensor.nbytes for tensor in graph.to_dict().values() if isinstance(tensor, Tensor))
