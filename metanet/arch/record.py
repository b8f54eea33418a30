"""What a trace writes down while it walks the operator graph."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from metanet.arch.axes import Axis, fixed
from metanet.arch.certificate import Equation, Scope
from metanet.arch.template import Block, Link
from metanet.arch.value import SpaceDraft


class UnsupportedOperator(ValueError):  # noqa: N818 (the name says what the user meets)
    """An operator without a rule, or used in a way that its rule does not know; names it, its place, and what to do."""


class Step(NamedTuple):
    """A block or link between drafts, which get their numbers in the end."""

    part: Block | Link
    source: SpaceDraft
    target: SpaceDraft


Alone = tuple[str, int]  # an axis of a parameter that no operand beside it holds: name, axis


@dataclass
class Record:
    """Everything found so far."""

    spaces: list[SpaceDraft] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    parameters: dict[str, SpaceDraft] = field(default_factory=dict)  # spaces of entries that are used like inputs
    decided: dict[str, tuple[int, ...]] = field(default_factory=dict)  # which of their axes are nodes
    alone: set[Alone] = field(default_factory=set)  # axes that could be nodes as well as positions
    raised: Collection[Alone] = ()  # those of them that are to be nodes
    high: list[Axis] = field(default_factory=list)  # the types of those that were met
    types_only: bool = False  # no links, and no nodes for products that are summed over

    def constant(self) -> SpaceDraft:
        """The space of the number one, from which the parameters that are used like inputs are drawn."""
        found = next((draft for draft in self.spaces if draft.name == "constant"), None)
        if found is None:
            found = SpaceDraft("constant", "constant", fixed(1))
            self.spaces.append(found)
        return found
