"""nn.Module -> exported operator graph -> axis types -> Template. Operators are known to `rules/` alone."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from metanet.arch.axes import factors_of
from metanet.arch.certificate import certify, orbits
from metanet.arch.functional import functional
from metanet.arch.record import UnsupportedOperator
from metanet.arch.symmetry import from_axes
from metanet.arch.template import Block, Link, Space, Template
from metanet.arch.value import Entry, SpaceDraft
from metanet.arch.walk import Walk

__all__ = ["UnsupportedOperator", "trace"]


def trace(module: nn.Module, *example_inputs: Any) -> Template:
    """The parameter graph of a module and its symmetry, as the module computes in eval mode.

    The module is not changed, and none of its values enters the template; the sizes of the example inputs do.

    Raises:
        UnsupportedOperator: an operator without a rule, or used in a way that its rule does not know.
        ValueError: a module that torch cannot export, or one that reads a parameter behind the exporter's back.
    """
    known = module.state_dict(keep_vars=True).items()
    state = {name: tensor for name, tensor in known if tensor.is_floating_point() and tensor.numel()}
    tied = _tied(state)
    walk = Walk(_export(module, example_inputs), state, tied)
    walk.run()
    record, entries = walk.record, {name: value for name, value in walk.entries.items() if name not in tied}
    steps = [step.part.name for step in record.steps if isinstance(step.part, Block)]
    read = {*steps}.union(*(draft.vectors.values() for draft in record.spaces))
    if not steps:
        raise ValueError(f"{type(module).__name__} has no weight tensor, so there is nothing to make a graph of.")
    if unread := sorted(entries.keys() - read):
        _check_unread(module, example_inputs, unread)
        walk.keep(unread)
    certify(record.equations, walk.scopes())
    number = {id(draft): place for place, draft in enumerate(record.spaces)}
    parts = [replace(part, source=number[id(a)], target=number[id(b)]) for part, a, b in record.steps]
    named = entries | {name: walk.entries[first] for name, first in tied.items()}
    return Template(
        spaces=tuple(_space(draft) for draft in record.spaces),
        blocks=tuple(part for part in parts if isinstance(part, Block)),
        links=tuple(part for part in parts if isinstance(part, Link)),
        symmetry=from_axes({name: value.home.types for name, value in named.items() if isinstance(value.home, Entry)}),
        shapes={name: value.shape for name, value in entries.items()},
        tied=tied,
    )


def _export(module: nn.Module, example_inputs: tuple[Any, ...]) -> ExportedProgram:
    with _eval_mode(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the module itself warns of is no news of this call
        try:
            return functional(torch.export.export(module, example_inputs, strict=False))
        except Exception as error:
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if "not a known type" in why:
                why = (
                    f"{why.partition('. ')[0]}. Let it take and give tensors; in transformers that is use_cache=False."
                )
            raise ValueError(f"{type(module).__name__} cannot be exported by torch.export: {why}") from error


def _check_unread(module: nn.Module, example_inputs: tuple[Any, ...], names: list[str]) -> None:
    """Parameters that no operator reads may be kept as they are if the module's outputs do not depend on them."""
    known = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    saved = {name: known[name].detach().clone() for name in names}
    with _eval_mode(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [one.clone() for one in tree_leaves(module(*example_inputs)) if isinstance(one, Tensor)]
        try:
            for name in names:
                known[name].add_(1)
            after = [one for one in tree_leaves(module(*example_inputs)) if isinstance(one, Tensor)]
        finally:
            for name, value in saved.items():
                known[name].copy_(value)
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)):
        raise ValueError(
            f"{type(module).__name__}: no operator is seen to read {', '.join(names)}, but the outputs depend on them. "
            "A tensor that the module holds outside of its parameters too is a constant to torch.export."
        )


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of entries that are one tensor with an earlier entry -> the name of that one."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    return {name: other for name, other in names.items() if name != other}


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for the export, without torch's fused attention; every submodule gets its own flag back."""
    before, fast = {child: child.training for child in module.modules()}, torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for child, training in before.items():
            child.training = training


def _space(draft: SpaceDraft) -> Space:
    moving = [factor for factor in factors_of([draft.type]) if factor.size > 1]
    some = any(factor.fixed for factor in moving) and not all(factor.fixed for factor in moving)
    return Space(
        draft.name,
        draft.type.size,
        draft.role,
        all(factor.fixed for factor in moving) if moving else draft.type.size == 1 and draft.role != "hidden",
        tuple(draft.operations),
        dict(draft.vectors),
        dict(draft.starts),
        tuple(orbits(draft.type)) if some else (),
    )
