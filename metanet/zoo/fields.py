"""Fields: the numbers and names that tell the architectures of a family apart."""

from __future__ import annotations

import hashlib
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
    of_each: str | None = None  # an earlier field, a number of layers: each has a value; an architecture's is "3-7-5"
    digest: bool = False  # a long text, of which names and manifests hold the start of its SHA-256

    def named(self, value: Any) -> str:
        """The value in a name; a flag that is off does not show."""
        if self.check.kind is bool:
            return self.prefix if value else ""
        return f"{self.prefix}{self.shown(value)}"

    def shown(self, value: Any) -> Any:
        """The value in a manifest."""
        return hashlib.sha256(value.encode()).hexdigest()[:12] if self.digest and value is not None else value

    @property
    def kind(self) -> type:
        """Of an architecture's value."""
        return str if self.of_each else self.check.kind

    def problem(self, name: str, arch: Arch) -> str | None:
        """What is wrong with the value of an architecture, in words; None if nothing is."""
        value = arch[name]
        if self.of_each is None:
            return None if self.check.accepts(value) else f"found {name} {value!r}, expected {self.check.expected}"
        layers = value.split("-") if isinstance(value, str) else []
        good = len(layers) == arch[self.of_each] and all(map(self._fits, layers))
        things = "names" if self.check.kind is str else "numbers"
        each = f"{arch[self.of_each]} {things} joined by -, each {self.check.expected}"
        return None if good else f"found {name} {value!r}, expected {each}"

    def _fits(self, layer: str) -> bool:
        if self.check.kind is str:
            return self.check.accepts(layer)
        return layer.isdecimal() and self.check.accepts(int(layer))


BATCH_NORM = Field("-bn", BOOLEAN)
