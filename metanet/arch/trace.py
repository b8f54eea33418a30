"""nn.Module -> exported operator graph -> axis types -> Template. Operators are known to `rules/` alone."""

from __future__ import annotations

import contextlib
import io
import logging
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
from metanet.arch.record import Record, UnsupportedOperator
from metanet.arch.sizes import with_numbers
from metanet.arch.symmetry import from_axes
from metanet.arch.template import Block, Link, Space, Template
from metanet.arch.value import Entry, SpaceDraft
from metanet.arch.walk import Walk

__all__ = ["UnsupportedOperator", "trace"]

_MOST_NODES = (
    1 << 20
)  # beyond, what could be nodes stays positions: a layer over places has a node per place and channel
Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # by place, and by name


def trace(module: nn.Module, *example_inputs: Any, **named_inputs: Any) -> Template:
    """The parameter graph of a module and its symmetry, as the module computes in eval mode.

    The inputs may be nested in dicts, tuples and dataclasses. The module is not changed, and none of its values enters
    the template; the sizes of the example inputs do.

    Raises:
        UnsupportedOperator: an operator without a rule, or used in a way that its rule does not know.
        ValueError: no module, one that torch cannot export, one that reads a parameter behind the exporter's back, or
            one with complex parameters.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"found a {type(module).__name__} to trace, expected an nn.Module and inputs for it")
    inputs = example_inputs, named_inputs
    state = _state(module)
    tied = _tied(state)
    walk = _walk(_export(module, inputs), state, tied)
    entries = walk.entries.keys() - tied.keys()
    steps = {step.part.name for step in walk.record.steps if isinstance(step.part, Block)}
    if not steps:
        raise ValueError(f"{type(module).__name__} has no weight tensor, so there is nothing to make a graph of.")
    if unread := sorted(entries - steps.union(*(draft.vectors.values() for draft in walk.record.spaces))):
        _check_unread(module, inputs, unread)
        walk.keep(unread)
    template = _certified(walk, tied)
    if incomplete := template.incomplete():  # of a stack of matrices some are not read
        walk.keep(incomplete, moving=True)
        template = _certified(walk, tied)
    return template


def _certified(walk: Walk, tied: Mapping[str, str]) -> Template:
    """The template of what the walk has found, once its symmetry has passed the certificate."""
    record, entries = walk.record, {name: value for name, value in walk.entries.items() if name not in tied}
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
        tied=dict(tied),
    )


def _walk(program: ExportedProgram, state: Mapping[str, Tensor], tied: Mapping[str, str]) -> Walk:
    """The walk in which axes that a parameter alone holds are nodes where these can change places, or are keys.

    Whether they can shows in the end: a walk for the types alone takes all of them for nodes and sees which get fixed.
    """
    walk = Walk(program, state, tied)
    walk.run()
    if not walk.record.alone:
        return walk
    trial = Walk(program, state, tied, Record(raised=walk.record.alone, types_only=True))
    with contextlib.suppress(UnsupportedOperator):  # positions are always possible
        trial.run()
        if sum(draft.type.size for draft in trial.record.spaces) > _MOST_NODES:
            return walk
        certify(trial.record.equations, trial.scopes())
        types = {name: value.home.types for name, value in trial.entries.items() if isinstance(value.home, Entry)}
        found = {(name, axis): factors_of([types[name][axis]]) for name, axis in walk.record.alone}
        moving = [factor for factors in found.values() for factor in factors if factor.size > 1 and not factor.fixed]
        needed = {id(one) for factor in moving for one in (factor, *factor.keys)}
        free = {place for place, factors in found.items() if not needed.isdisjoint(map(id, factors))}
        again = Walk(program, state, tied, Record(raised=free))
        if free:
            again.run()
            return again
    return walk


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The entries of the state_dict that hold real numbers; whole numbers are constants of the code."""
    if wrong := [name for name, parameter in module.named_parameters() if parameter.is_complex()]:
        raise ValueError(
            f"{type(module).__name__}: {', '.join(wrong)} holds complex numbers, and a graph real ones. "
            "Let the parameter hold real and imaginary parts, and read it by torch.view_as_complex."
        )
    known = module.state_dict(keep_vars=True).items()
    tensors = ((name, value) for name, value in known if isinstance(value, Tensor))  # quantised modules hold more
    return {name: tensor for name, tensor in tensors if tensor.is_floating_point() and tensor.numel()}


def _export(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    with _eval_mode(module), torch.no_grad(), _no_logs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the module itself warns of is no news of this call
        try:
            return with_numbers(functional(torch.export.export(module, *inputs, strict=False)))
        except Exception as error:
            why = next((line for line in str(error).splitlines() if line.strip()), "")
            why = f"{type(error).__name__}: {why}" if isinstance(error, LookupError) or not why else why
            if "not a known type" in why:
                why = (
                    f"{why.partition('. ')[0]}. Let it take and give tensors (in transformers that is "
                    "use_cache=False), or tell torch what a dataclass holds by torch.export.register_dataclass."
                )
            raise ValueError(f"{type(module).__name__} cannot be exported by torch.export: {why}") from error


@contextlib.contextmanager
def _no_logs() -> Iterator[None]:
    """Without what torch logs and prints of an export that fails, tracebacks and programs: the error says it."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _check_unread(module: nn.Module, inputs: Inputs, names: list[str]) -> None:
    """Parameters that no operator reads may be kept as they are if the module's outputs do not depend on them."""
    known = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    saved = {name: known[name].detach().clone() for name in {*names, *dict(module.named_buffers())}}

    def outputs() -> list[Tensor]:
        try:
            return [one.clone() for one in tree_leaves(module(*inputs[0], **inputs[1])) if isinstance(one, Tensor)]
        finally:
            for name, value in saved.items():  # a net may change its buffers
                known[name].copy_(value)

    with _eval_mode(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = outputs()
        for name in names:
            known[name].add_(1)
        after = outputs()
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
    with contextlib.suppress(NotImplementedError):  # of an exported program, which has no modes
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
