"""Distributions of a spec: how they are written, checked and drawn from.

A distribution is a constant, a list (each value equally likely), {uniform: [low, high]} or {log_uniform: [low, high]}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Check:
    """What a value must be."""

    kind: type  # how the manifest stores it; float may be drawn from a range
    expected: str  # in words, for the error
    accepts: Callable[[Any], bool]
    names: Collection[str] = ()  # all that is accepted, for "did you mean"

    def or_none(self) -> Check:
        return Check(self.kind, f"{self.expected} or null", lambda value: value is None or self.accepts(value))


def one_of(names: Collection[str]) -> Check:
    return Check(str, "one of " + ", ".join(names), lambda value: isinstance(value, str) and value in names, names)


def integer(low: int) -> Check:
    return Check(int, f"an integer of at least {low}", lambda value: type(value) is int and value >= low)


def real(expected: str, accepts: Callable[[float], bool]) -> Check:
    return Check(float, expected, lambda value: type(value) in (int, float) and math.isfinite(value) and accepts(value))


BOOLEAN = Check(bool, "true or false", lambda value: type(value) is bool)


def draw(distribution: Any, key: int) -> Any:
    """One value of a checked distribution, decided by a key of `metanet.seeding`.

    Ranges are rounded to 6 digits, so that the last bit of a machine's logarithm does not matter.
    """
    if isinstance(distribution, list):
        return distribution[key * len(distribution) >> 63]
    if isinstance(distribution, dict):
        ((kind, (low, high)),) = distribution.items()
        uniform = key / 2**63
        value = low * (high / low) ** uniform if kind == "log_uniform" else low + (high - low) * uniform
        return float(f"{value:.6g}")
    return distribution


def check_distribution(raw: Any, check: Check, where: str) -> Any:
    """The distribution with every value checked, and real numbers as floats.

    Raises:
        ValueError: naming `where`, what was found and what was expected (as all checks here).
    """
    if isinstance(raw, dict):
        kind, ends = next(iter(raw.items())) if len(raw) == 1 else (None, None)
        known = kind in ("uniform", "log_uniform")
        if check.kind is not float or not known or not isinstance(ends, list) or len(ends) != 2:
            ranges = ", {uniform: [low, high]} or {log_uniform: [low, high]}" if check.kind is float else ""
            raise ValueError(f"{where}: found {raw!r}, expected {check.expected}, or a list of such{ranges}")
        low, high = (check_distribution(end, check, where) for end in ends)
        if low > high or (kind == "log_uniform" and low <= 0):
            raise ValueError(f"{where}: found {raw!r}, expected low <= high, and 0 < low for log_uniform")
        return {kind: [low, high]}
    if isinstance(raw, list):
        check_list(raw, check, where)
        return [check.kind(value) for value in raw]
    check_value(raw, check, where)
    return check.kind(raw)


def check_value(value: Any, check: Check, where: str) -> None:
    if not check.accepts(value):
        raise ValueError(f"{where}: found {value!r}, expected {check.expected}{_hint(value, check.names)}")


def check_list(values: Any, check: Check, where: str, length: int | None = None) -> None:
    """A list of `length` values, or of any number above 0 of different ones."""
    if not isinstance(values, list) or not values or length not in (None, len(values)):
        raise ValueError(f"{where}: found {values!r}, expected a list of {length or 'at least one'}")
    for value in values:
        check_value(value, check, where)
    if length is None and len(set(values)) < len(values):
        raise ValueError(f"{where}: found {values!r}, expected every value once")


def check_mapping(value: Any, known: Collection[str], where: str, optional: Collection[str] = ()) -> None:
    """A mapping with all keys of `known`, perhaps some of `optional`, and no other."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: found {value!r}, expected `key: value` lines")
    allowed = (*known, *optional)
    for key in value:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key!r}, expected {', '.join(allowed)}{_hint(key, allowed)}")
    missing = [key for key in known if key not in value]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")


def _hint(found: object, names: Collection[str]) -> str:
    close = get_close_matches(str(found), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
