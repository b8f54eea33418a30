"""Looking: whether the weights of foreign nets are those of their architectures and finite, and what is told if not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from metanet.errors import RefusedError
from metanet.importers.intake import fitting
from metanet.importers.intake.source import Foreign, LeftOut, Stack
from metanet.zoo import nets


@dataclass(frozen=True)
class Looked:
    """What was found in the weights of nets."""

    found: Foreign | Stack
    tensors: Mapping[str, Tensor] | None  # of a single net, as they are stored; a stack is read again to be written
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
            tensors = fitting.fit(tensors, found.arch, found.where)
            looked = Looked(found, tensors, _not_finite(tensors, stacked=False))
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


def _not_finite_in_stack(stack: Stack) -> dict[int, str]:
    """Row -> the name of a tensor that is not finite there.

    Raises:
        ValueError: the tensors are not those of the architecture.
    """
    bad: dict[int, str] = {}
    for start, numbers in stack.pieces():
        rows = np.arange(1 if start == 0 else 0)  # to see whether they fit
        with np.errstate(over="ignore"):
            flat = torch.from_numpy(numbers.astype(np.float32, copy=False))
        if not math.isfinite(flat.sum()):
            rows = flat.isfinite().all(1).logical_not().nonzero()[:, 0].numpy()
        if len(rows):
            tensors = fitting.fit(stack.tensors(numbers[rows]), stack.arch, "these nets", stacked=True)
            bad |= {start + int(rows[row]): name for row, name in _not_finite(tensors, stacked=True).items()}
    return bad


def _not_finite(tensors: Mapping[str, Tensor], stacked: bool) -> dict[int, str]:
    """Row -> the name of a tensor that is not finite there; tensors that are not stacked are those of row 0."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    whole = torch.cat([tensor.reshape(-1) for tensor in floating.values()])
    if math.isfinite(whole.sum()):  # no value that is not finite can be lost in a sum
        return {}
    bad: dict[int, str] = {}
    for name, tensor in floating.items():
        rows = (tensor if stacked else tensor[None]).flatten(1).isfinite().all(1)
        bad = dict.fromkeys(rows.logical_not().nonzero()[:, 0].tolist(), name) | bad
    return bad
