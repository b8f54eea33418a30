"""nn.Module -> exported operator graph -> axis types -> Template. Operators are known to `rules/` alone."""

from __future__ import annotations

import contextlib
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind
from torch.fx import Node

from metanet.arch import rules
from metanet.arch.axes import factors_of, fixed, free
from metanet.arch.certificate import certify
from metanet.arch.record import Call, Record, SpaceDraft, UnsupportedOperator, Value
from metanet.arch.symmetry import from_axes
from metanet.arch.template import Space, Template

__all__ = ["UnsupportedOperator", "trace"]

_PARAMETERS = (InputKind.PARAMETER, InputKind.BUFFER)


def trace(module: nn.Module, *example_inputs: Any) -> Template:
    """The parameter graph of a module and its symmetry, as the module computes in eval mode.

    The module is not changed, and none of its values enters the template; the sizes of the example inputs do.

    Raises:
        UnsupportedOperator: an operator without a rule, or used in a way that its rule does not know.
        ValueError: a parameter or buffer that no operator reads, or a module that torch cannot export.
    """
    with _eval_mode(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the module itself warns of is no news of this call
        try:
            program = torch.export.export(module, example_inputs, strict=False)
        except Exception as error:
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"{type(module).__name__} cannot be exported by torch.export: {why}") from error
    record = Record()
    state = module.state_dict(keep_vars=True)
    tied = _tied(state)
    entries = _walk(program.graph, program.graph_signature, state, tied, record)
    read = {name: value for name, value in entries.items() if name in record.represented}
    unread = sorted(entries.keys() - read.keys())
    if unread:
        raise ValueError(
            f"{type(module).__name__}: no operator reads {', '.join(unread)} in eval mode, so the graph would not hold "
            "them. Remove them from the module, or trace the part of it that uses them."
        )
    if not record.blocks:
        raise ValueError(f"{type(module).__name__} has no weight tensor, so there is nothing to make a graph of.")
    certify(record.equations, record.scopes)
    return Template(
        spaces=tuple(_space(draft) for draft in record.spaces),
        blocks=tuple(record.blocks),
        links=tuple(record.links),
        symmetry=from_axes(
            {name: value.axes for name, value in read.items()}
            | {name: read[first].axes for name, first in tied.items() if first in read}
        ),
        shapes={name: value.shape for name, value in read.items()},
        tied=tied,
    )


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of entries that are one tensor with an earlier entry -> the name of that one."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    return {name: other for name, other in names.items() if name != other}


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for the export; every submodule gets its own flag back."""
    before = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, training in before.items():
            child.training = training


def _walk(
    graph: torch.fx.Graph,
    signature: ExportGraphSignature,
    state: Mapping[str, Tensor],
    tied: Mapping[str, str],
    record: Record,
) -> dict[str, Value]:
    """Applies the operators' rules in order; the entries of the state_dict as values."""
    kinds = {spec.arg.name: spec for spec in signature.input_specs}
    values: dict[Node, Value] = {}
    several: dict[Node, list[Value]] = {}  # of operators that return a list, which only getitem reads
    entries: dict[str, Value] = {}
    for number, node in enumerate(graph.nodes):
        if node.op == "placeholder":
            spec = kinds[node.name]
            name = spec.target or ""
            if spec.kind in _PARAMETERS and name in state:
                name = tied.get(name, name)
                value = (
                    entries[name]
                    if name in entries
                    else Value(tuple(free(size) for size in state[name].shape), entry=name)
                )
                if not (name.endswith("num_batches_tracked") and not value.axes):
                    entries[name] = value
            elif spec.kind is InputKind.USER_INPUT and isinstance(node.meta.get("val"), Tensor):
                record.spaces.append(SpaceDraft(_unique("input", record), "input"))
                axes = tuple(fixed(size) for size in node.meta["val"].shape)
                value = Value(axes, space=len(record.spaces) - 1, shared=len(node.users) > 1)
            else:
                continue  # a constant or an unused input: an operator that reads it says that it has no rule for it
            values[node] = replace(value, storage=number)
        elif node.target is operator.getitem and node.args[0] in several:
            values[node] = replace(several[node.args[0]][node.args[1]], shared=len(node.users) > 1)  # type: ignore[index]
        elif node.op == "call_function":
            result = _apply(node, number, values, record)
            if isinstance(result, Value):
                values[node] = result
            else:
                several[node] = result
    _finish_outputs(graph, signature, values, record)
    record.scopes.extend(value.axes for value in values.values())
    return entries


def _apply(node: Node, number: int, values: dict[Node, Value], record: Record) -> Value | list[Value]:
    """The value of one operator call, by its rule; several where the operator returns a list."""
    call = _call(node, values, record)
    rule = rules.BY_OPERATOR.get(call.operator.removesuffix("_"))  # relu_ is relu
    if rule is None:
        raise call.unsupported(
            "no rule for this operator. Add one to a file in metanet/arch/rules/ (docs/add-a-layer.md tells how)."
        )
    read = [values[argument] for argument in node.all_input_nodes if argument in values]
    value = rule(call)
    if isinstance(value, list):
        return value
    inherited = any(one.shared and one.space == value.space for one in read)
    value = replace(
        value,
        shared=inherited or len(node.users) > 1,
        storage=number if value.storage is None else value.storage,
    )
    if call.operator.endswith("_"):
        _overwrite(node, value, values, call)
    return value


def _overwrite(node: Node, value: Value, values: dict[Node, Value], call: Call) -> None:
    """After an in-place operator later readers of its argument see the result; an alias of the argument is refused."""
    target = node.args[0]
    assert isinstance(target, Node)
    storage, later = values[target].storage, False
    for other in node.graph.nodes:
        later = later or other is node
        if not later or other is node:
            continue
        for read in other.all_input_nodes:
            if read is not target and read is not node and read in values and values[read].storage == storage:
                raise call.unsupported(f"it changes {target.name!r} in place while {read.name!r} shares its memory")
    values[target] = value


def _call(node: Node, values: Mapping[Node, Value], record: Record) -> Call:
    """The node's arguments by the names of the operator's schema, with its defaults."""

    def known(argument: Any) -> Any:
        if isinstance(argument, Node):
            return values.get(argument, argument)
        if isinstance(argument, list | tuple):
            return [known(item) for item in argument]
        return argument

    schema = getattr(node.target, "_schema", None)
    output = node.meta.get("val")
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    arguments: dict[str, Any] = {}
    if schema is not None:
        for position, parameter in enumerate(schema.arguments):
            given = node.args[position] if position < len(node.args) else node.kwargs.get(parameter.name, _ABSENT)
            arguments[parameter.name] = parameter.default_value if given is _ABSENT else known(given)
    operator = ".".join(str(node.target).split(".")[:2]) if schema is not None else str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return Call(operator, path, _source(node), arguments, shape, record)


_ABSENT = object()


def _source(node: Node) -> str:
    """The innermost line of the user's code that made this call, as "file.py:12"."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [line for line in lines if "/torch/nn/" not in line[0]] or lines
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


def _unique(name: str, record: Record) -> str:
    count = sum(draft.role == "input" for draft in record.spaces)
    return name if count == 0 else f"{name}:{count + 1}"


def _finish_outputs(
    graph: torch.fx.Graph, signature: ExportGraphSignature, values: Mapping[Node, Value], record: Record
) -> None:
    """The order of the network's outputs is fixed, and their spaces are output spaces."""
    outputs = {spec.arg.name for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT}
    for node, value in values.items():
        if node.name in outputs:
            Call("output", "", "", {}, value.shape, record).pin(*value.axes)
            if value.space is not None and record.spaces[value.space].role == "hidden":
                record.spaces[value.space].role = "output"


def _space(draft: SpaceDraft) -> Space:
    size = 1 if draft.axis is None else draft.axis.size
    is_fixed = draft.axis is None or all(factor.fixed for factor in factors_of([draft.axis]))
    return Space(draft.name, size, draft.role, is_fixed, tuple(draft.operations), dict(draft.vectors))
