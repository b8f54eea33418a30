"""Store: reads the trained nets of a zoo from disk. The layout and its promises are in docs/zoo.md."""

from __future__ import annotations

import functools
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn

from metanet.arch.template import Template
from metanet.zoo import layout, manifest, nets, shards, templates, verify


def open_zoo(path: str | Path) -> Zoo:
    """The zoo in the folder `path`; of one that is still being trained, the snapshots that are there by now.

    Raises:
        FileNotFoundError: no zoo there.
        ValueError: zoo.json or the manifest is damaged.
    """
    return Zoo(Path(path))


class Zoo:
    """The nets of a zoo. A row is a net at a snapshot, by its place in `manifest`, which is sorted by (net, step)."""

    def __init__(self, path: Path):
        self.path = path
        self.record = layout.read_record(path)
        self.spec: dict[str, Any] = self.record["spec"]
        self.columns: dict[str, list[str]] = self.record["columns"]
        self.manifest: pa.Table = _read_manifest(path, self.record)
        self.archs: dict[str, dict[str, Any]] = self.record["archs"]
        self._arch = self._column("arch")
        self._row = self._column("row")
        self._net, self._step = self._column("net"), self._column("step")
        self._shards, self._shard = self._shards_of_rows()
        self._templates: dict[tuple[str, str], Template] = {}
        self._load = functools.lru_cache(maxsize=1024)(lambda path: shards.load(path)[0])

    def __repr__(self) -> str:
        return f"Zoo({str(self.path)!r}: {len(self)} rows, {len(self.archs)} architectures)"

    def __len__(self) -> int:
        return self.manifest.num_rows

    @property
    def name(self) -> str:
        return self.spec["name"]

    @property
    def num_classes(self) -> int:
        return self.spec["num_classes"]

    @property
    def finished(self) -> bool:
        return layout.is_complete(self.path, self.record)

    def _column(self, name: str) -> np.ndarray:
        return self.manifest[name].to_numpy()

    def steps(self, net: int) -> list[int]:
        """The steps of a net's snapshots, ascending.

        Raises:
            ValueError: no such net.
        """
        start, end = np.searchsorted(self._net, [net, net + 1])
        if start == end:
            raise ValueError(f"{self.path}: found no net {net}; expected one of 0..{self._net.max(initial=-1)}")
        return self._step[start:end].tolist()

    def row(self, net: int, step: int) -> int:
        """The manifest row of a net at a snapshot.

        Raises:
            ValueError: the zoo has no such net, or no snapshot of it after `step` steps.
        """
        steps = self.steps(net)
        if step not in steps:
            raise ValueError(f"{self.path}: found no snapshot of net {net} after {step} steps; expected one of {steps}")
        return int(np.searchsorted(self._net, net)) + steps.index(step)

    def state_dict(self, net: int, step: int) -> dict[str, Tensor]:
        """The net's ordinary PyTorch state_dict (copies, on the CPU)."""
        row = self.row(net, step)
        return {name: tensor[self._row[row]].clone() for name, tensor in self._shard_of(row).items()}

    def module(self, net: int, step: int) -> nn.Module:
        """The net itself, in eval mode."""
        values = self.manifest.slice(self.row(net, step), 1).to_pylist()[0]
        arch = self.archs[values["arch"]]
        module = nets.build(arch, activation=values["activation"], dropout=values["dropout"])
        module.load_state_dict(self.state_dict(net, step))
        return module.eval()

    def stacked(self, arch: str, rows: Int64[Tensor, " nets"]) -> dict[str, Float[Tensor, "nets ..."]]:
        """The weights and floating-point buffers of nets of one architecture: state_dict name -> [nets, *shape].

        Cost: one gather per shard that holds any of the rows.

        Raises:
            ValueError: a row of another architecture, a damaged shard, or weights that are not finite.
        """
        chosen = rows.cpu().numpy()
        wrong = chosen[self._arch[chosen] != arch]
        if len(wrong):
            raise ValueError(f"{self.path}: row {wrong[0]} is a {self._arch[wrong[0]]}, expected {arch}")
        order = np.argsort(self._shard[chosen], kind="stable")
        starts = np.flatnonzero(np.diff(self._shard[chosen][order], prepend=-1))
        out: dict[str, Tensor] = {}
        for part in np.split(order, starts[1:]) if len(order) else ():
            places, inside = torch.from_numpy(part), torch.from_numpy(self._row[chosen[part]])
            for name, tensor in self._shard_of(int(chosen[part[0]])).items():
                if tensor.is_floating_point():
                    if name not in out:
                        out[name] = tensor.new_empty(len(chosen), *tensor.shape[1:])
                    out[name][places] = tensor[inside]
        self._check_finite(out, chosen)
        return out

    def _shards_of_rows(self) -> tuple[list[Path], np.ndarray]:
        """The shards that the manifest speaks of, and for each of its rows the place of its own among them."""
        groups = self.manifest["group"].combine_chunks().dictionary_encode()
        names, group = groups.dictionary.to_pylist(), groups.indices.to_numpy()
        of_all_steps = {entry["group"] for entry in self.record["plan"] if layout.steps(entry) == [None]}
        whole = np.array([name in of_all_steps for name in names], dtype=bool)
        steps, step = np.unique(np.where(whole[group], -1, self._step), return_inverse=True)
        pairs, shard = np.unique(group.astype(np.int64) * len(steps) + step, return_inverse=True)
        places = [divmod(pair, len(steps)) for pair in pairs.tolist()]
        own = [(names[group], None if whole[group] else int(steps[step])) for group, step in places]
        return [layout.shard_path(self.path, *of) for of in own], shard

    def _shard_of(self, row: int) -> dict[str, Tensor]:
        return self._load(self._shards[self._shard[row]])

    def _check_finite(self, stacked: dict[str, Tensor], rows: np.ndarray) -> None:
        for name, tensor in stacked.items():
            if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
                bad = rows[int((~tensor.flatten(1).isfinite().all(1)).nonzero()[0])]
                raise ValueError(
                    f"{self.path}: {name} of net {self._net[bad]} at step {self._step[bad]} has values that are not "
                    f"finite, in {self._shards[self._shard[bad]].relative_to(self.path)}. Leave the net out."
                )

    def example_input(self, arch: str) -> Num[Tensor, "2 *shape"]:
        """Two inputs of an architecture, always the same: see `nets.example_input`."""
        return nets.example_input(self.archs[arch])

    def template(self, arch: str, activation: str) -> Template:
        """The parameter graph of an architecture with an activation: what build_graphs has left, else traced once.

        Raises:
            ValueError: no such architecture, or what build_graphs has left is damaged.
        """
        if arch not in self.archs:
            close = get_close_matches(arch, self.archs, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            known = ", ".join(sorted(self.archs))
            raise ValueError(f"{self.path}: found no architecture {arch!r}, expected one of {known}{hint}")
        if (arch, activation) not in self._templates:
            path = templates.path(self.path, arch, activation)
            template = templates.read(path, self.archs[arch], activation)
            self._templates[arch, activation] = template or self._trace(arch, activation)
        return self._templates[arch, activation]

    def _trace(self, arch: str, activation: str) -> Template:
        from metanet.arch.trace import trace  # takes a second to import, and readers of weights do not need it

        return trace(nets.build(self.archs[arch], activation=activation).eval(), self.example_input(arch))

    def verify(self) -> list[str]:
        """All damage in words, naming file, tensor and net; empty if every byte is as it was written."""
        return list(verify.problems(self.path))


def _read_manifest(zoo: Path, record: dict[str, Any]) -> pa.Table:
    whole, digested = zoo / layout.MANIFEST, layout.has_digests(record)
    if whole.is_file():
        return manifest.in_order(manifest.read(whole.read_bytes(), whole, digested)[0])
    fragments = _fragments(zoo)
    if not fragments:
        return manifest.schema(record["columns"]).empty_table()
    return manifest.read(manifest.merge(fragments, digested), zoo / "manifest")[0]


def _fragments(zoo: Path) -> dict[str, bytes]:
    """File name -> content."""
    return {path.name: path.read_bytes() for path in sorted((zoo / "manifest").glob("[!.]*.parquet"))}
