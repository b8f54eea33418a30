"""Looking: whether the weights of foreign nets are those of their architectures and finite, and what is told if not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxtyping import Float32
from torch import Tensor

from metanet.errors import RefusedError
from metanet.importers.intake import fitting
from metanet.importers.intake.source import Foreign, Layout, LeftOut, Numbers, Stack
from metanet.zoo import nets


@dataclass(frozen=True)
class Looked:
    """What was found in the weights of nets."""

    found: Foreign | Stack
    tensors: Mapping[str, Tensor] | Numbers | None  # of a single net, as they are stored; a stack is read once more
    bad: Mapping[int, str]  # row -> the name of a tensor that is not finite there
    is_there: bool = False  # on the disk already, and not looked at

    def __len__(self) -> int:
        return len(self.found) if isinstance(self.found, Stack) else 1


Found = Foreign | Stack | LeftOut


def look_ahead(
    stream: Iterator[Found], done: set[str], threads: Executor | None, count: int
) -> Iterator[Looked | list[LeftOut]]:
    """What `look` gives of the stream; the next `count` whose weights must be read are looked at meanwhile."""
    waiting: deque[Callable[[], Looked | list[LeftOut]]] = deque()
    for found in stream:
        looking = partial(look, found, done)
        if threads and isinstance(found, Stack):
            looking = threads.submit(looking).result
        elif threads and isinstance(found, Foreign) and callable(found.tensors) and found.where not in done:
            reading = threads.submit(found.tensors)  # alone: many small steps in several threads wait for each other
            looking = partial(look, replace(found, tensors=reading.result), done)
        waiting.append(looking)
        if len(waiting) > count:
            yield waiting.popleft()()
    for looked in waiting:
        yield looked()


def look(found: Found, done: set[str]) -> Looked | list[LeftOut]:
    """The weights of what a source gives; or that all of it is left out, and why."""
    if isinstance(found, LeftOut):
        return [found]
    if done and done.issuperset([found.where] if isinstance(found, Foreign) else found.where):
        return Looked(found, None, {}, is_there=True)
    try:
        if isinstance(found, Stack):
            looked = Looked(found, None, _not_finite_in_stack(found))
        else:
            try:
                tensors = found.tensors() if callable(found.tensors) else found.tensors
            except (ValueError, OSError) as error:
                return [LeftOut.of(found.where, error)]
            if isinstance(tensors, Numbers):
                _check_layout(tensors.layout, found.arch, found.where)
                looked = Looked(found, tensors, _not_finite_in_rows(tensors.row[None], tensors.layout, found.arch))
            else:
                tensors = fitting.fit(tensors, found.arch, found.where)
                looked = Looked(found, tensors, _not_finite(tensors))
        fitting.name(found.arch)
        return looked
    except ValueError as error:
        told, refused = str(error), isinstance(error, RefusedError)
        wheres = [found.where] if isinstance(found, Foreign) else found.where
        return [
            LeftOut(where, "does not fit its architecture", told.replace(wheres[0], where, 1), refused)
            for where in wheres
        ]


def problems(found: Foreign | Stack) -> Iterator[tuple[int, LeftOut]]:
    """Row -> why a net is left out whatever its weights are."""
    brings = nets.brings_activation(found.arch)
    if isinstance(found, Stack):
        activations = found.columns["activation"]
        if brings or set(activations.unique().to_pylist()).issubset(nets.ACTIVATIONS):
            return
        for row, (where, activation) in enumerate(zip(found.where, activations.to_pylist(), strict=True)):
            if activation not in nets.ACTIVATIONS:
                yield row, LeftOut(where, "unknown activation", f"{where}: found {activation!r}")
    elif found.activation not in nets.ACTIVATIONS and not brings:
        yield 0, LeftOut(found.where, "unknown activation", f"{found.where}: found {found.activation!r}")
    elif large := [value for value in (found.step, *found.values.values()) if type(value) is int and abs(value) >> 63]:
        yield 0, LeftOut(found.where, "a number beyond 64 bits", f"{found.where}: found {large[0]}")


def _check_layout(layout: Layout, arch: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where it is not that of the architecture."""
    fitting.check({name: places.shape for name, places in layout.items()}, arch, where)


def _not_finite_in_stack(stack: Stack) -> dict[int, str]:
    """Row -> the name of a tensor that is not finite there.

    Raises:
        ValueError: the tensors are not those of the architecture.
    """
    _check_layout(stack.layout, stack.arch, "these nets")
    bad: dict[int, str] = {}
    for start, numbers in stack.pieces():
        own = _not_finite_in_rows(numbers, stack.layout, stack.arch)
        bad |= {start + row: name for row, name in own.items()}
    return bad


def _not_finite_in_rows(
    numbers: Float32[Tensor, "rows numbers"], layout: Layout, arch: Mapping[str, Any]
) -> dict[int, str]:
    """Row -> the name of a tensor that is not finite there."""
    bad: dict[int, str] = {}
    if not math.isfinite(numbers.sum()):  # no value that is not finite can be lost in a sum
        finite = numbers.isfinite()
        for name in (name for name in fitting.expected(arch) if name in layout):
            rows = finite[:, layout[name].reshape(-1)].all(1).logical_not().nonzero()[:, 0]
            bad = dict.fromkeys(rows.tolist(), name) | bad
    return bad


def _not_finite(tensors: Mapping[str, Tensor]) -> dict[int, str]:
    """0 -> the name of a tensor of a net that is not finite; nothing if all are."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not math.isfinite(tensor.sum()) and not tensor.isfinite().all():
            return {0: name}
    return {}
