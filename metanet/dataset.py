"""Nets with their targets, in batches that share memory fairly between architectures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metanet import splits
from metanet.arch.template import Template
from metanet.targets import Target, candidates, find, known
from metanet.zoo.nets import ACTIVATIONS
from metanet.zoo.store import Zoo

GPU_SHARE = 0.5  # of the free memory of a GPU may hold the zoo; a larger zoo stays in the host's memory


@dataclass(frozen=True)
class Nets:
    """Some nets of one architecture: what every model reads. A batch is a list of these.

    `params` maps each state_dict name to [nets, *shape]; `targets` maps a target's name to class numbers [nets]
    (int64) or standardised values [nets] (float); it is empty when nothing is known. `facts` is what the model's own
    `facts(nets)` said of each net, [nets, ...], where it was asked beforehand (Dataset.remember).
    """

    arch: str
    template: Template
    params: Mapping[str, Tensor]
    rows: Int64[Tensor, " nets"]  # rows of the zoo's manifest
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, places: Int64[Tensor, " chosen"], device: torch.device | str | None = None) -> Nets:
        """The nets at `places`, on `device`."""
        places = places.to(self.rows.device)

        def gather(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, places).to(device or tensor.device, non_blocking=True)

        return Nets(
            self.arch,
            self.template,
            {name: gather(tensor) for name, tensor in self.params.items()},
            gather(self.rows),
            {name: gather(tensor) for name, tensor in self.targets.items()},
            None if self.facts is None else gather(self.facts),
        )


Batch = list[Nets]


@dataclass(frozen=True)
class Schema:
    """What the data determine of a model: its targets, and the templates of the architectures it is trained on."""

    targets: tuple[Target, ...]
    templates: Mapping[str, Template]  # by Nets.arch
    hidden: tuple[str, ...] = ()  # kinds of operations that no template shows, because they are to be predicted

    def to_json(self) -> str:
        return json.dumps(
            {
                "targets": [dataclasses.asdict(target) for target in self.targets],
                "hidden": self.hidden,
                "templates": {name: json.loads(template.to_json()) for name, template in self.templates.items()},
            }
        )

    @staticmethod
    def from_json(text: str) -> Schema:
        raw = json.loads(text)
        found = tuple(Target(**(target | _tuples(target))) for target in raw["targets"])
        templates = {name: Template.from_json(json.dumps(template)) for name, template in raw["templates"].items()}
        return Schema(found, templates, tuple(raw["hidden"]))


class Dataset:
    """The finished nets of a zoo, split, with targets, loaded once.

    With `schema`, that of a run, the nets are described as that run's were, targets that this zoo lacks are left out,
    and without a split all nets are test nets. Without a schema, targets and their scales are found in the zoo, on the
    training part only. Architectures whose activation is a target share one template, which does not show it.

    Raises:
        ValueError: no usable net or target, a wrong target or split, weights that are not finite.
    """

    schema: Schema
    targets: tuple[Target, ...]  # of the schema, those that this zoo has
    left_out: dict[str, str]  # targets that this zoo cannot have: name -> reason
    nets: list[Nets]  # everything of each architecture
    parts: list[Int64[Tensor, " nets"]]  # beside `nets`: the place in splits.PARTS
    encoded: dict[str, Float[np.ndarray, " rows"]]  # by target: class numbers or values, by row of the manifest

    def __init__(
        self,
        zoo: Zoo,
        targets: str | Iterable[str] = "all",
        split: Mapping[str, Any] | None = None,
        snapshots: str = "all",
        device: torch.device | str = "cpu",
        schema: Schema | None = None,
    ):
        self.zoo, self.device = zoo, torch.device(device)
        rows = _usable_rows(zoo, snapshots)
        self.table = zoo.manifest.take(rows)
        part = splits.split(self.table, **(split or {}))
        if schema is not None and split is None:
            part[:] = splits.PARTS.index("test")
        columns = candidates(self.table, zoo.columns["hyperparameters"])
        if schema is None:
            held_out = (split or {}).get("column")
            found, self.left_out = find(self.table, columns, targets, part == splits.PARTS.index("train"), held_out)
        else:
            found, self.left_out = known(columns, schema.targets)
        if not found:
            reasons = "; ".join(f"{name} is {reason}" for name, reason in self.left_out.items())
            raise ValueError(f"{zoo.path}: nothing to predict, for {reasons}")
        self.encoded = {target.name: np.full(len(zoo.manifest), np.nan) for target in found}
        for target in found:
            self.encoded[target.name][rows] = target.encode(_numpy(columns[target.name]))
        is_target = any(target.name == "activation" for target in found)
        hidden = schema.hidden if schema else tuple(sorted(ACTIVATIONS)) if is_target else ()
        self._load(rows, part, found, hidden)
        templates = {nets.arch: nets.template for nets in self.nets}
        self.schema = schema or Schema(found, templates, hidden)
        self.targets = found

    def __len__(self) -> int:
        return len(self.table)

    def count(self, part: str) -> int:
        """The number of nets in a part of the split."""
        return sum(len(self._places(index, part)) for index in range(len(self.nets)))

    def part(self, part: str) -> list[Nets]:
        """All nets of one part, an entry for each architecture, in the manifest's order; for models that are fitted."""
        chosen = [(nets, self._places(index, part)) for index, nets in enumerate(self.nets)]
        return [nets.select(places, self.device) for nets, places in chosen if len(places)]

    def remember(self, facts: Callable[[Nets], Tensor], chunk: int = 256) -> None:
        """Asks a model once for what it reads of each net and training never changes; `Nets.facts` from now on."""
        for index, nets in enumerate(self.nets):
            said = [facts(nets.select(places, self.device)) for places in torch.arange(len(nets)).split(chunk)]
            self.nets[index] = dataclasses.replace(nets, facts=torch.cat(said).to(nets.rows.device))

    def batches(
        self,
        part: str,
        batch_nets: int,
        batch_elements: int,
        generator: torch.Generator | None = None,
        together: int = 8,
    ) -> Iterator[Batch]:
        """Batches of at most `batch_nets` nets and `batch_elements` weights (or one larger net), each net once.

        Where only `batch_nets` bounds them they are of nearly equal size: a last batch of one net would train badly.
        With a generator the order is random: nets of an architecture are shuffled, cut into runs of `together`, and
        the runs are shuffled, so that a batch mixes architectures and still has a few nets of each. Without one, nets
        come by architecture in the manifest's order.
        """
        runs: list[tuple[int, Tensor]] = []
        for index in range(len(self.nets)):
            places = self._places(index, part)
            if generator is not None:
                places = places[torch.randperm(len(places), generator=generator)]
            runs += [(index, run) for run in places.split(together if generator is not None else max(len(places), 1))]
        if generator is not None:
            runs = [runs[place] for place in torch.randperm(len(runs), generator=generator).tolist()]
        arch = torch.cat([torch.full_like(run, index) for index, run in runs])
        places = torch.cat([run for _, run in runs])
        elements = torch.tensor([sum(t[0].numel() for t in nets.params.values()) for nets in self.nets])[arch].cumsum(0)
        batch_nets = -(-len(arch) // -(-len(arch) // batch_nets))
        start = 0
        while start < len(arch):
            before = int(elements[start - 1]) if start else 0
            fitting = int(torch.searchsorted(elements, before + batch_elements, right=True))
            stop = max(start + 1, min(start + batch_nets, fitting))
            here = arch[start:stop]
            yield [
                self.nets[index].select(places[start:stop][here == index], self.device)
                for index in here.unique().tolist()
            ]
            start = stop

    def _places(self, index: int, part: str) -> Int64[Tensor, " nets"]:
        return (self.parts[index] == splits.PARTS.index(part)).nonzero().squeeze(1)

    def _load(
        self,
        rows: Int64[np.ndarray, " nets"],
        part: Int64[np.ndarray, " nets"],
        found: Iterable[Target],
        hidden: tuple[str, ...],
    ) -> None:
        arch, activation = _numpy(self.table["arch"]), _numpy(self.table["activation"])
        keys = arch if hidden else np.array([f"{a}/{b}" for a, b in zip(arch, activation, strict=True)])
        self.nets, self.parts = [], []
        for key in np.unique(keys):
            here = np.flatnonzero(keys == key)
            first = here[0]
            template = self.zoo.template(str(arch[first]), str(activation[first]))
            chosen = torch.from_numpy(rows[here])
            params = self.zoo.stacked(str(arch[first]), chosen)
            truths = {target.name: target.truth(self.encoded[target.name][rows[here]]) for target in found}
            self.nets.append(Nets(str(key), template.hide(hidden), params, chosen, truths))
            self.parts.append(torch.from_numpy(part[here]))
        if self.device.type == "cuda":
            size = sum(tensor.nbytes for nets in self.nets for tensor in nets.params.values())
            if size < GPU_SHARE * torch.cuda.mem_get_info(self.device)[0]:
                self.nets = [nets.select(torch.arange(len(nets)), self.device) for nets in self.nets]


def _numpy(column: Any) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)


def _usable_rows(zoo: Zoo, snapshots: str) -> Int64[np.ndarray, " nets"]:
    """Manifest rows of nets that did not diverge: of all snapshots, or of the last one of each net."""
    if snapshots not in ("all", "last"):
        raise ValueError(f"snapshots={snapshots}: expected all or last")
    usable = _numpy(zoo.manifest["status"]) == "ok"
    if snapshots == "last":
        _, net = np.unique(zoo.manifest["net"].to_numpy(), return_inverse=True)
        step = zoo.manifest["step"].to_numpy()
        last = np.zeros(net.max(initial=-1) + 1, dtype=np.int64)
        np.maximum.at(last, net, step)
        usable &= step == last[net]
    rows = np.flatnonzero(usable)
    if not zoo.finished:
        raise ValueError(f"{zoo.path}: not finished, and its splits would change. scripts/make_zoo.py goes on with it.")
    if len(rows) == 0:
        raise ValueError(f"{zoo.path}: no net with status ok among {len(zoo.manifest)} rows of its manifest")
    return rows


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The lists among the values as tuples, which JSON does not have."""
    return {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
