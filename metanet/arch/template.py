"""Template: one architecture as a parameter computational graph. It holds no weights and is built once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from metanet.arch.symmetry import Part, Permutation, Symmetry

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data

VECTOR_ROLES = ("bias", "scale", "shift", "mean", "variance")  # what a 1-D entry of the state_dict does on its space
VECTOR_DEFAULTS = {"bias": 0.0, "scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}  # the identity's values


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
    role: str  # "input" | "hidden" | "output"
    fixed: bool  # its nodes are not exchangeable (network input and output)
    operations: tuple[Operation, ...] = ()
    vectors: Mapping[str, str] = field(default_factory=dict)  # VECTOR_ROLES entry -> state_dict name


@dataclass(frozen=True)
class Block:
    """A weight tensor as the edges from space `source` to space `target`: [out, in, taps] after `pattern`."""

    name: str  # state_dict name of the weight
    source: int
    target: int
    kind: str  # "conv" | "linear" | "flatten" (a linear layer that reads flattened positions as taps)
    shape: tuple[int, int, int]  # out, in (per group), number of taps
    taps: tuple[int, ...]  # kernel size; flattened grid for "flatten"; () for a plain linear layer
    pattern: str  # einops pattern from the weight's own shape to "out in taps", e.g. "o i h w -> o i (h w)"
    axes: Mapping[str, int] = field(default_factory=dict)  # sizes that einops needs for the pattern
    groups: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)  # stride, padding, dilation, ...


@dataclass(frozen=True)
class Link:
    """A parameter-free connection between two spaces: residual add, concatenation, identity."""

    kind: str
    source: int
    target: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """Spaces, blocks, links and symmetry of one architecture, from `metanet.trace`."""

    spaces: tuple[Space, ...]
    blocks: tuple[Block, ...]
    links: tuple[Link, ...]
    symmetry: Symmetry
    shapes: Mapping[str, tuple[int, ...]]  # every entry of the state_dict that the graph represents
