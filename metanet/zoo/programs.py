"""Programs: architectures that are data, lists of steps. families/program.py says how they look; here they are checked.

Nothing of a program is run: its text only chooses from the table of metanet/zoo/operators.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from metanet.zoo.operators import OPERATORS, PLAIN, SEVERAL

MOST_TEXT = 1 << 24  # characters of a program
MOST_NUMBER = 1 << 31  # of any size or other whole number
MOST_CONSTANTS = 1 << 20  # numbers in all constants
MOST_AXES = 8
DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
KINDS = {"float32": (int, float), "int64": (int,), "bool": (bool,)}  # of a constant's values
MOST = {"float32": 3.5e38, "int64": 2.0**63, "bool": 2}  # which infinity is above
TABLES = ("parameters", "buffers", "constants")
KEYS = ("input", *TABLES, "steps", "outputs")
TAKEN = frozenset(dir(nn.Module()))  # no part of a tensor's name, because modules have attributes of these names


@dataclass(frozen=True)
class Step:
    """One operator, and the names of what it reads."""

    name: str
    operator: str
    inputs: tuple[str | None, ...]
    attributes: Mapping[str, Any]

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Raises ValueError, which names the step, where shapes or kinds do not fit."""
        read = [None if name is None else values[name] for name in self.inputs]
        try:
            return OPERATORS[self.operator](*read, **self.attributes)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"program: step {self.name!r} ({self.operator}): {why}") from error


def parse(text: str) -> dict[str, Any]:
    """The program in a text.

    Raises:
        ValueError: too long, or no JSON object.
    """
    if len(text) > MOST_TEXT:
        raise ValueError(f"program: found {len(text):,} characters, expected at most {MOST_TEXT:,}")
    try:
        program = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"program: no readable JSON ({error})") from error
    _keys(program, KEYS, "program")
    return program


def steps(program: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps of a program that is sound as far as it can be told without shapes.

    Raises:
        ValueError: a key, name, operator, input or attribute that is unknown, missing or of another kind; says where.
    """
    _keys(program, KEYS, "program")
    known: set[str] = set()
    _keys(program["input"], ("name", "shape", "dtype"), "program: input")
    _new(program["input"]["name"], known, "program: input")
    _shape(program["input"]["shape"], "program: input")
    if program["input"]["dtype"] not in ("float32", "int64"):
        found = _short(program["input"]["dtype"])
        raise ValueError(f"program: input: found the dtype {found}, expected float32 or int64")
    for table in TABLES:
        if not isinstance(program[table], dict):
            raise ValueError(f"program: {table}: found {_short(program[table])}, expected {{name: shape}}")
        for name, described in program[table].items():
            _new(name, known, f"program: {table}")
            check = _constant if table == "constants" else _shape
            check(described, f"program: {table}: {name!r}")
    names = [name for table in TABLES for name in program[table]]
    if wrong := next((name for name, own in usable(names).items() if name != own), None):
        raise ValueError(f"program: no module can hold a tensor called {wrong!r} beside the others")
    if sum(len(one["values"]) for one in program["constants"].values()) > MOST_CONSTANTS:
        raise ValueError(f"program: constants: expected at most {MOST_CONSTANTS:,} numbers in all")
    found = _steps(program["steps"], known)
    _outputs(program["outputs"], found)
    return found


def usable(names: Iterable[str]) -> dict[str, str]:
    """For each foreign name of a tensor the name in a program: itself, if a module can hold it beside those before."""
    found: dict[str, str] = {}
    tensors: set[str] = set()
    modules: set[str] = set()
    for name in names:
        parts = [part + "_" if part in TAKEN else part for part in name.split(".") if part] or ["tensor"]
        while ".".join(parts) in tensors | modules or any(".".join(parts[:k]) in tensors for k in range(1, len(parts))):
            parts = ["_".join(parts) + "_"]
        found[name] = ".".join(parts)
        tensors.add(found[name])
        modules |= {".".join(parts[:k]) for k in range(1, len(parts))}
    return found


def _steps(described: Any, known: set[str]) -> tuple[Step, ...]:
    if not isinstance(described, list) or not described:
        raise ValueError(f"program: steps: found {_short(described)}, expected a list of at least one")
    later = {name for one in described if isinstance(one, dict) and isinstance(name := one.get("name"), str)}
    several: set[str] = set()
    found: list[Step] = []
    for number, one in enumerate(described):
        _keys(one, ("name", "op", "inputs"), f"program: step {number}", ("attributes",))
        name, operator, inputs = one["name"], one["op"], one["inputs"]
        where = f"program: step {number} {_short(name)}"
        if not isinstance(operator, str) or operator not in OPERATORS:
            raise ValueError(f"{where}: unknown op {_short(operator)}{_hint(operator, OPERATORS)}")
        where += f" ({operator})"
        if not isinstance(inputs, list) or not all(one is None or isinstance(one, str) for one in inputs):
            raise ValueError(f"{where}: found the inputs {_short(inputs)}, expected a list of names")
        for read in inputs:
            if read is not None and read not in known:
                why = "comes later: the steps are in a wrong order, or in a cycle" if read in later else "is not there"
                raise ValueError(f"{where} reads {read!r}, which {why}")
            if (read in several) != (operator == "item"):
                raise ValueError(f"{where} reads {read!r}: item, and nothing else, reads one of several results")
        attributes = one.get("attributes", {})
        _inputs(operator, inputs, where)
        _attributes(operator, attributes, where)
        _new(name, known, where)
        several |= {name} if operator in SEVERAL else set()
        found.append(Step(name, operator, tuple(inputs), attributes))
    return tuple(found)


@functools.cache
def _parameters(operator: str) -> tuple[list[inspect.Parameter], dict[str, inspect.Parameter]]:
    """Of an operator: its inputs, and its attributes by name."""
    every = inspect.signature(_one if operator in PLAIN else OPERATORS[operator]).parameters
    inputs = [one for one in every.values() if one.kind is not one.KEYWORD_ONLY]
    return inputs, {name: one for name, one in every.items() if one.kind is one.KEYWORD_ONLY}


def _one(x: Tensor) -> None:
    """The signature of torch's own functions of one value, which inspect cannot read."""


def _inputs(operator: str, names: list[str | None], where: str) -> None:
    """Number of inputs, and which may be null, are as the operator says."""
    wanted = _parameters(operator)[0]
    variadic = wanted[-1].kind is inspect.Parameter.VAR_POSITIONAL
    least = sum(one.default is one.empty and one.kind is not one.VAR_POSITIONAL for one in wanted) or 1
    if len(names) < least or (len(names) > len(wanted) and not variadic):
        more = " or more" if variadic else f" to {len(wanted)}" if len(wanted) > least else ""
        raise ValueError(f"{where}: found {len(names)} inputs, expected {least}{more}")
    for number, name in enumerate(names):
        one = wanted[min(number, len(wanted) - 1)]
        if name is None and type(None) not in get_args(one.annotation):
            raise ValueError(f"{where}: found null in place of the input {one.name}")


def _attributes(operator: str, found: Any, where: str) -> None:
    """Names and kinds of attributes are as the operator says."""
    wanted = _parameters(operator)[1]
    if not isinstance(found, dict):
        raise ValueError(f"{where}: found the attributes {_short(found)}, expected {{name: value}}")
    for name, value in found.items():
        if name not in wanted:
            raise ValueError(f"{where}: unknown attribute {name!r}{_hint(name, wanted)}")
        if not _is(value, wanted[name].annotation):
            kind = inspect.formatannotation(wanted[name].annotation)
            raise ValueError(f"{where}: attribute {name!r}: found {_short(value)}, expected {kind}")
    missing = [name for name, one in wanted.items() if one.default is one.empty and name not in found]
    if missing:
        raise ValueError(f"{where}: missing are the attributes {', '.join(missing)}")


def _is(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of an annotated kind."""
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind)
    if origin is list:
        return (
            isinstance(value, list) and len(value) <= MOST_NUMBER and all(_is(one, get_args(kind)[0]) for one in value)
        )
    if isinstance(kind, types.UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if kind is types.NoneType:
        return value is None
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind and (kind is not int or abs(value) < MOST_NUMBER)


def _constant(described: Any, where: str) -> None:
    _keys(described, ("shape", "dtype", "values"), where)
    shape, dtype, values = described["shape"], described["dtype"], described["values"]
    _shape(shape, where)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where}: found the dtype {_short(dtype)}, expected one of {', '.join(DTYPES)}")
    if not isinstance(values, list) or len(values) != math.prod(shape):
        raise ValueError(f"{where}: expected {math.prod(shape):,} values, as its shape {shape} says")
    if not all(type(value) in KINDS[dtype] and abs(value) < MOST[dtype] for value in values):
        raise ValueError(f"{where}: found values that are not of the dtype {dtype}")


def _outputs(names: Any, found: Iterable[Step]) -> None:
    single = {step.name for step in found if step.operator not in SEVERAL}
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name in single for name in names):
        raise ValueError(f"program: outputs: found {_short(names)}, expected names of steps with one result")


def _keys(found: Any, needed: Collection[str], where: str, optional: Collection[str] = ()) -> None:
    if not isinstance(found, Mapping) or not set(needed) <= set(found) <= {*needed, *optional}:
        keys = sorted(map(str, found)) if isinstance(found, Mapping) else _short(found)
        raise ValueError(f"{where}: found {_short(keys)}, expected an object with {', '.join(needed)}")


def _new(name: Any, known: set[str], where: str) -> None:
    """Adds a name that nothing else has."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1024 or name in known:
        raise ValueError(f"{where}: found the name {_short(name)}, expected printable text that nothing else is called")
    known.add(name)


def _shape(shape: Any, where: str) -> None:
    sizes = isinstance(shape, list) and len(shape) <= MOST_AXES and all(type(size) is int for size in shape)
    if not sizes or min(shape, default=1) < 1 or math.prod(shape) >= MOST_NUMBER:
        raise ValueError(
            f"{where}: found the shape {_short(shape)}, expected at most {MOST_AXES} sizes of at least 1, for fewer "
            f"than {MOST_NUMBER:,} numbers"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _hint(found: object, names: Iterable[str]) -> str:
    close = get_close_matches(str(found), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""
