"""Template: one architecture as a parameter computational graph. It holds no weights and is built once."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from metanet.arch.symmetry import Part, Permutation, Symmetry

if TYPE_CHECKING:
    import networkx

    from metanet.arch.actions import Rescaling
    from metanet.views.parameter_graph import ParameterGraph

# What a 1-D entry of the state_dict does on its space: the value that does nothing.
VECTOR_DEFAULTS = {"bias": 0.0, "scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0, "slope": 1.0}
VECTOR_ROLES = tuple(VECTOR_DEFAULTS)


@dataclass(frozen=True)
class Operation:
    """One parameter-free step, or the typed part of a norm, on the values of a space."""

    kind: str  # "relu", "elu", "batch_norm", "max_pool", ...; "hidden" once masked by Template.hide
    attributes: Mapping[str, Any] = field(default_factory=dict)  # eps, alpha, kernel, stride, padding, ...


@dataclass(frozen=True)
class Space:
    """A channel axis: `size` nodes, the operations on it in the order they run, and its 1-D parameters and buffers.

    `operations` names the writing step too ("bias" where it is added, "batch_norm" where it normalises), so that
    conv -> norm -> activation and conv -> activation -> norm differ.
    """

    name: str  # "input", or the module path that writes it
    size: int
    role: str  # "input" | "hidden" | "output" | "constant" (a number that is always there)
    fixed: bool  # its nodes are not exchangeable (network input and output)
    operations: tuple[Operation, ...] = ()
    vectors: Mapping[str, str] = field(
        default_factory=dict
    )  # VECTOR_ROLES entry -> state_dict name; of one value: for all
    starts: Mapping[str, int] = field(
        default_factory=dict
    )  # role -> first value of the entry, where it holds others too
    orbits: tuple[
        int, ...
    ] = ()  # of a space in which some permutations are missing: nodes that may meet have one number


@dataclass(frozen=True)
class Block:
    """A weight tensor as the edges from space `source` to space `target`: [out, in, taps] after `pattern`."""

    name: str  # state_dict name of the weight
    source: int
    target: int
    kind: (
        str  # "conv" | "conv_transpose" | "linear" | "flatten" (a linear layer that reads flattened positions as taps)
    )
    shape: tuple[int, int, int]  # out, in (per group), number of taps
    taps: tuple[int, ...]  # kernel size; flattened grid for "flatten"; () for a plain linear layer
    pattern: str  # einops pattern from the weight's own shape to "out in taps", e.g. "o i h w -> o i (h w)"
    axes: Mapping[str, int] = field(default_factory=dict)  # sizes that einops needs for the pattern
    groups: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)  # stride, padding, dilation, layout, ...
    slices: tuple[tuple[int, int], ...] = ()  # of each axis of the entry, where the block is a part of it


@dataclass(frozen=True)
class Link:
    """A parameter-free connection between two spaces: an edge from node sources[i] to node targets[i], for every i.

    Without `sources` (or `targets`) they are all nodes in their order; a single source reaches every target.
    """

    kind: str  # one of LINKS of the rule files: "identity", "add", "cat", "flatten", ...
    source: int
    target: int
    sources: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)  # layout: how it walks through the source's positions


@dataclass(frozen=True)
class Template:
    """Spaces, blocks, links and symmetry of one architecture, from `metanet.trace`.

    Spaces stand in the order of computation, so every block and link leads from an earlier space to a later one.

    Raises:
        ValueError: parts that do not fit each other, by name.
    """

    spaces: tuple[Space, ...]
    blocks: tuple[Block, ...]
    links: tuple[Link, ...]
    symmetry: Symmetry
    shapes: Mapping[str, tuple[int, ...]]  # every entry of the state_dict that the graph represents
    tied: Mapping[str, str] = field(default_factory=dict)  # other names of entries -> the name in `shapes`

    def __post_init__(self) -> None:
        for step in (*self.blocks, *self.links):
            if not 0 <= step.source < step.target < len(self.spaces):
                raise ValueError(f"{step}: expected source < target < {len(self.spaces)} spaces")
        for block in self.blocks:
            shape = tuple(stop - start for start, stop in block.slices) or self._shape(block.name)
            if math.prod(block.shape) != math.prod(shape):
                raise ValueError(f"block {block.name!r}: {block.shape} does not fit shape {self.shapes[block.name]}")
        for space in self.spaces:
            for role, name in space.vectors.items():
                if role not in VECTOR_ROLES or (
                    math.prod(self._shape(name)) not in (1, space.size) and role not in space.starts
                ):
                    raise ValueError(
                        f"space {space.name!r}: its {role} {name!r} has shape {self.shapes[name]}, expected "
                        f"({space.size},) and a role of {', '.join(VECTOR_ROLES)}"
                    )
        for name, axes in self.symmetry.axes.items():
            shape = self._shape(self.tied.get(name, name))
            if len(axes) != len(shape):
                raise ValueError(f"symmetry of {name!r}: {len(axes)} axes, expected {len(shape)}")

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.shapes:
            raise ValueError(f"{name!r} is not among the template's entries: {', '.join(self.shapes)}")
        return self.shapes[name]

    @property
    def num_params(self) -> int:
        """Number of values of one net that the graph holds: parameters and norm statistics."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def coverage(self) -> float:
        """Share of those values that a block or space really carries, in [0, 1]; `metanet.trace` gives 1 or fails."""
        return sum(int(mask.sum()) for mask in self._carried().values()) / max(1, self.num_params)

    def incomplete(self) -> list[str]:
        """The entries of which no block or space carries some values."""
        return [name for name, mask in self._carried().items() if not mask.all()]

    def _carried(self) -> dict[str, np.ndarray]:
        """Which values of every entry a block or a space carries."""
        masks = {name: np.zeros(shape, dtype=bool) for name, shape in self.shapes.items()}
        for block in self.blocks:
            masks[block.name][tuple(slice(*part) for part in block.slices)] = True
        for space in self.spaces:
            for role, name in space.vectors.items():
                start = space.starts.get(role, 0)
                masks[name].reshape(-1)[start : start + space.size] = True
        return masks

    @property
    def actions(self) -> dict[str, Symmetry | Rescaling]:
        """The function-preserving actions by name: "permutation", "scaling" and "sign"; see metanet.arch.actions."""
        from metanet.arch import actions  # which imports this module

        return actions.actions(self)

    def hide(self, kinds: Collection[str]) -> Template:
        """The template with every operation of the given kinds replaced by Operation("hidden"), attributes and all.

        What is predicted must not be readable from the graph. An unknown kind hides nothing.
        """
        hidden = Operation("hidden")
        spaces = tuple(
            replace(space, operations=tuple(hidden if o.kind in kinds else o for o in space.operations))
            for space in self.spaces
        )
        return replace(self, spaces=spaces)

    def graph(
        self, state_dict: Mapping[str, Tensor], bidirectional: bool = False, scalar_edges: bool = False
    ) -> ParameterGraph:
        """The parameter graph of one net, a PyG Data; see metanet.views.graph.graph_of.

        With `scalar_edges` it has an edge per scalar parameter; see metanet.views.scalar_graph.
        """
        from metanet.views import graph, scalar_graph  # torch_geometric takes seconds to import

        return (scalar_graph if scalar_edges else graph).graph_of(self, state_dict, bidirectional)

    def to_networkx(self, state_dict: Mapping[str, Tensor]) -> networkx.MultiDiGraph:
        """The parameter graph of one net for networkx; see metanet.views.graph.networkx_of."""
        from metanet.views import graph

        return graph.networkx_of(self, state_dict)

    def to_json(self) -> str:
        """The template as JSON; `from_json` gives an equal one."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Template:
        """The template that `to_json` wrote.

        Raises:
            ValueError: text that is no template, or parts that do not fit each other.
        """
        try:
            raw = _tuples(json.loads(text))
            symmetry = raw["symmetry"]
            axes = {
                name: tuple(tuple(Part(**part) for part in parts) for parts in axes)
                for name, axes in symmetry["axes"].items()
            }
            return Template(
                spaces=tuple(
                    Space(**(space | {"operations": tuple(Operation(**o) for o in space["operations"])}))
                    for space in raw["spaces"]
                ),
                blocks=tuple(Block(**block) for block in raw["blocks"]),
                links=tuple(Link(**link) for link in raw["links"]),
                symmetry=Symmetry(tuple(Permutation(**factor) for factor in symmetry["factors"]), axes),
                shapes=raw["shapes"],
                tied=raw["tied"],
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a template in JSON, as Template.to_json writes it: {error!r}") from error


def _tuples(value: Any) -> Any:
    """JSON values with a tuple for every list."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
