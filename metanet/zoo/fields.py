"""Fields: the numbers and names that tell the architectures of a family apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from metanet.zoo.distributions import BOOLEAN, Check, integer

Arch = Mapping[str, Any]
Layers = Iterator[tuple[str, nn.Module]]


SIZE = integer(1)


@dataclass(frozen=True)
class Field:
    """What an architecture's value must be, and what stands before it in the architecture's name."""

    prefix: str
    check: Check = SIZE  # its kind is the type of the manifest's column

    def named(self, value: Any) -> str:
        """The value in a name; a flag that is off does not show."""
        if self.check.kind is bool:
            return self.prefix if value else ""
        return f"{self.prefix}{value}"


BATCH_NORM = Field("-bn", BOOLEAN)
