"""Typed codes: what the weights do not say about a space, a block, a tap or a fixed node, in a fixed number of columns.

Every template has the same columns, so one model reads all architectures. A code is injective: two operations,
orders, or attributes that differ have different codes. What has no column is refused, never dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from metanet.arch.depth import depths, heights
from metanet.arch.rules import OPERATIONS
from metanet.arch.template import VECTOR_ROLES, Block, Link, Operation, Space, Template
from metanet.views.once import once_per_object
from metanet.views.taps import grid_of

Device = torch.device | str | None

POSITION_CODES = 20  # bits of a fixed node's position: up to 1,048,576 input features or classes

_SPATIAL = {  # one number per grid axis, and what it is along an axis that is not there
    "kernel": 1,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "output": 1,
    "output_padding": 0,
    "before": 0,
    "after": 0,
    "factor": 0,
}
_MOST_OPERATIONS = 24  # float32 holds the binary fraction of their order
_ROLES = ("input", "hidden", "output", "constant")
_BLOCK_KINDS = ("conv", "conv_transpose", "linear", "flatten", "parameter")
_DIGESTS = ("layout", "table", "axes", "shifts", "places")  # text, of which two columns hold a hash
_SIDES = ("front", "back", "top", "bottom", "left", "right")


def _columns_of(attribute: str) -> tuple[str, ...]:
    if attribute in _DIGESTS:
        return (f"{attribute}.0", f"{attribute}.1")
    return (
        tuple(f"{attribute}_{side}" for side in ("depth", "height", "width")) if attribute in _SPATIAL else (attribute,)
    )


SPACE_COLUMNS: tuple[str, ...] = (
    *(f"role.{role}" for role in _ROLES),
    "fixed",
    "log2_size",
    "relative_depth",
    "log2_depth",
    "log2_height",
    *(f"has.{role}" for role in VECTOR_ROLES),
    *(f"does.{kind}" for kind in OPERATIONS),
    *(f"order.{kind}" for kind in OPERATIONS),
    *(f"{kind}.{column}" for kind, names in OPERATIONS.items() for name in names for column in _columns_of(name)),
)
BLOCK_COLUMNS: tuple[str, ...] = (
    *(f"kind.{kind}" for kind in _BLOCK_KINDS),
    "tap_axes",
    *(column for name in ("kernel", "stride", "dilation", "output_padding") for column in _columns_of(name)),
    *(f"padding_{side}" for side in _SIDES),
    *(column for name in ("layout", "places") for column in _columns_of(name)),
    "log2_groups",
    "log2_fan_in",
    "log2_fan_out",
    "relative_depth",
    "from_input",
    "to_output",
)
SPACE_CODES, BLOCK_CODES = len(SPACE_COLUMNS), len(BLOCK_COLUMNS)


@once_per_object
def space_codes(template: Template, device: Device = None) -> Float32[Tensor, "spaces codes"]:
    """One row of SPACE_COLUMNS per space: role, size, place, 1-D parameters, and its operations in their order.

    `does.KIND` is 1 where the operation occurs, `order.KIND` sums 2^-(i+1) over its places i = 0, 1, ...: a binary
    fraction, so that every sequence of operations has a code of its own. Sizes are log2(1 + n), eps is log10 / 5.

    Raises:
        ValueError: an operation or attribute that has no column, or one kind twice on a space with two settings.
    """
    depth, height = depths(template), heights(template)
    rows = []
    for i, space in enumerate(template.spaces):
        row = {
            f"role.{space.role}": 1.0,
            "fixed": float(space.fixed),
            "log2_size": math.log2(space.size),
            "relative_depth": depth[i] / max(1, *depth),
            "log2_depth": math.log2(1 + depth[i]),
            "log2_height": math.log2(1 + height[i]),
            **{f"has.{role}": 1.0 for role in space.vectors},
        }
        rows.append(row | _operation_codes(space))
    return _table(rows, SPACE_COLUMNS).to(device)


@once_per_object
def block_codes(template: Template, device: Device = None) -> Float32[Tensor, "blocks codes"]:
    """One row of BLOCK_COLUMNS per block: kind, kernel, stride, padding, dilation, groups, fans and place.

    Raises:
        ValueError: a kind or an attribute that has no column.
    """
    depth = depths(template)
    rows = []
    for block in template.blocks:
        if block.kind not in _BLOCK_KINDS:
            raise ValueError(f"block {block.name!r}: no code for kind {block.kind!r}; known: {', '.join(_BLOCK_KINDS)}")
        out, inputs, taps = block.shape
        row = {
            f"kind.{block.kind}": 1.0,
            "tap_axes": float(len(block.taps)),
            "log2_groups": math.log2(block.groups),
            "log2_fan_in": math.log2(inputs * taps),
            "log2_fan_out": math.log2(out * taps),
            "relative_depth": (depth[block.source] + depth[block.target]) / 2 / max(1, *depth),
            "from_input": float(template.spaces[block.source].role == "input"),
            "to_output": float(template.spaces[block.target].role == "output"),
        }
        rows.append(row | _kernel_codes(block))
    return _table(rows, BLOCK_COLUMNS).to(device)


@once_per_object
def link_codes(template: Template, device: Device = None) -> Float32[Tensor, "links codes"]:
    """One row of BLOCK_COLUMNS per link: how it walks through the positions, where they are put."""
    return _table(map(_link_row, template.links), BLOCK_COLUMNS).to(device)


@once_per_object
def places(template: Template) -> Int64[Tensor, " nodes"]:
    """Which node of its space each is, -1 where all of them are exchangeable.

    Where only some permutations are missing, nodes that may be exchanged have the place of the first of them.
    """
    parts = []
    for space in template.spaces:
        known = torch.arange(space.size) if space.fixed else torch.full((space.size,), -1)
        parts.append(torch.tensor(space.orbits) if space.orbits else known)
    return torch.cat(parts)


@once_per_object
def fixed_positions(template: Template, device: Device = None) -> list[Float32[Tensor, "_ codes"]]:
    """Per space [size, POSITION_CODES]: the bits of `places`.

    Raises:
        ValueError: as `position_bits`.
    """
    codes = position_bits(places(template).to(device))
    return list(codes.split([space.size for space in template.spaces]))


def position_bits(places: Int64[Tensor, " nodes"]) -> Float32[Tensor, "nodes codes"]:
    """[nodes, POSITION_CODES]: the bits of a place as -1 and 1, zeros for a place of -1.

    Raises:
        ValueError: a place of more than POSITION_CODES bits.
    """
    last = int(places.max())
    if last >> POSITION_CODES:
        raise ValueError(f"a space of {last + 1:,} fixed nodes; this code holds at most {1 << POSITION_CODES:,}")
    signs = (places[:, None] >> torch.arange(POSITION_CODES, device=places.device)) % 2 * 2 - 1
    return signs.float() * (places >= 0)[:, None]


def _operation_codes(space: Space) -> dict[str, float]:
    row: dict[str, float] = {}
    seen: dict[str, Operation] = {}
    for place, operation in enumerate(space.operations):
        kind, attributes = operation.kind, operation.attributes
        where = f"space {space.name!r}, operation {kind!r}"
        if kind not in OPERATIONS:
            raise ValueError(f"{where}: no code for this kind; known: {', '.join(OPERATIONS)}")
        if set(attributes) != set(OPERATIONS[kind]):
            expected = ", ".join(OPERATIONS[kind]) or "none"
            raise ValueError(f"{where}: found attributes {', '.join(attributes) or 'none'}, expected {expected}")
        if dict(seen.setdefault(kind, operation).attributes) != dict(attributes):
            raise ValueError(
                f"{where}: occurs twice on one space with different attributes, which one code cannot hold"
            )
        row[f"does.{kind}"] = 1.0
        row[f"order.{kind}"] = row.get(f"order.{kind}", 0.0) + 2.0 ** -(place + 1)
        for name, value in attributes.items():
            row |= {f"{kind}.{column}": code for column, code in _attribute_codes(where, name, value).items()}
    if len(space.operations) > _MOST_OPERATIONS:
        raise ValueError(
            f"space {space.name!r}: {len(space.operations)} operations, expected at most {_MOST_OPERATIONS}"
        )
    return row


def _link_row(link: Link) -> dict[str, float]:
    row = {}
    for name in ("layout", "places"):
        value = "" if name == "places" and "taps" in link.attributes else link.attributes.get(name, "")
        row |= _attribute_codes(f"link {link.kind!r}", name, value)
    return row


def _kernel_codes(block: Block) -> dict[str, float]:
    where, attributes = f"block {block.name!r}", dict(block.attributes)
    row = _attribute_codes(where, "kernel", grid_of(block.taps, where))
    for name in ("stride", "dilation", "output_padding"):
        row |= _attribute_codes(where, name, attributes.pop(name, ()))
    row |= _attribute_codes(where, "layout", attributes.pop("layout", ""))
    padding = (*[0] * 6, *attributes.pop("padding", ()))[-6:]  # a 1-D kernel is a row: it has a left and a right
    row |= {f"padding_{side}": math.log2(1 + size) for side, size in zip(_SIDES, padding, strict=True)}
    if attributes:
        raise ValueError(f"{where}: no code for attribute {', '.join(attributes)}")
    return row


def _attribute_codes(where: str, name: str, value: Any) -> dict[str, float]:
    try:
        if name in _DIGESTS:
            return dict(zip(_columns_of(name), _digest(value), strict=True))
        if name in _SPATIAL:
            sizes = (*[_SPATIAL[name]] * (3 - len(value)), *value)  # of one axis it is the width
            return {column: _signed_log2(size) for column, size in zip(_columns_of(name), sizes, strict=True)}
        if name == "eps":
            return {name: math.log10(max(value, 1e-30)) / 5}
        if name == "approximate":  # gelu's only choice
            return {name: {"none": 0.0, "tanh": 1.0}[value]}
        return {name: _bounded(float(value))}
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{where}: no code for {name} = {value!r}") from error


def _digest(value: Any) -> tuple[float, float]:
    """Two numbers in [-1, 1) that differ where the text differs; zeros for none."""
    if value in ("", ()):
        return 0.0, 0.0
    number = int(hashlib.sha256(str(value).encode()).hexdigest()[:12], 16)
    return (number >> 24) / 2**23 - 1, number % 2**24 / 2**23 - 1


def _bounded(value: float) -> float:
    """A number as it is up to 10,000, and beyond by its logarithm: a mask's -inf becomes -20,000."""
    if abs(value) <= 1e4:
        return value
    return math.copysign(1e4 + min(math.log2(abs(value)), 1e4), value)


def _signed_log2(size: int | float) -> float:
    """log2(1 + size); a pad that crops has a negative size."""
    return math.copysign(math.log2(1 + abs(size)), size)


def _table(rows: Iterable[Mapping[str, float]], columns: tuple[str, ...]) -> Float32[Tensor, "rows columns"]:
    table = []
    for row in rows:
        unknown = set(row) - set(columns)
        if unknown:
            raise ValueError(f"no code column for {', '.join(sorted(unknown))}")
        table.append([row.get(name, 0.0) for name in columns])
    return torch.tensor(table, dtype=torch.float32).view(-1, len(columns))
