"""nn.Module -> exported operator graph -> axis types -> Template. Operators are known to `rules/` alone."""

from __future__ import annotations

import contextlib
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.fx.node import map_arg

from metanet.arch import rules
from metanet.arch.axes import factors_of, fixed, free
from metanet.arch.certificate import certify, orbits
from metanet.arch.layout import whole
from metanet.arch.record import Call, Record, UnsupportedOperator
from metanet.arch.symmetry import from_axes
from metanet.arch.template import Block, Link, Operation, Space, Template
from metanet.arch.value import Entry, SpaceDraft, Value, draft_of

__all__ = ["UnsupportedOperator", "trace"]

_PARAMETERS = (InputKind.PARAMETER, InputKind.BUFFER)
_ABSENT = object()
# Constants of the shape of an activation: nothing else of it is read.
_SHAPE_ONLY = {"aten.zeros_like": 0.0, "aten.ones_like": 1.0, "aten.new_zeros": 0.0, "aten.new_ones": 1.0}


def trace(module: nn.Module, *example_inputs: Any) -> Template:
    """The parameter graph of a module and its symmetry, as the module computes in eval mode.

    The module is not changed, and none of its values enters the template; the sizes of the example inputs do.

    Raises:
        UnsupportedOperator: an operator without a rule, or used in a way that its rule does not know.
        ValueError: a parameter or buffer that no operator reads, or a module that torch cannot export.
    """
    state = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if tensor.is_floating_point()}
    tied = _tied(state)
    walk = _Walk(_export(module, example_inputs), state, tied)
    walk.run()
    record, entries = walk.record, {name: value for name, value in walk.entries.items() if name not in tied}
    steps = [step.part.name for step in record.steps if isinstance(step.part, Block)]
    read = {*steps}.union(*(draft.vectors.values() for draft in record.spaces))
    if unread := sorted(entries.keys() - read):
        raise ValueError(
            f"{type(module).__name__}: no operator reads {', '.join(unread)} in eval mode, so the graph would not hold "
            "them. Remove them from the module, or trace the part of it that uses them."
        )
    if not steps:
        raise ValueError(f"{type(module).__name__} has no weight tensor, so there is nothing to make a graph of.")
    certify(record.equations, record.scopes)
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
            return torch.export.export(module, example_inputs, strict=False)
        except Exception as error:
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if "not a known type" in why:
                why = (
                    f"{why.partition('. ')[0]}. Let it take and give tensors; in transformers that is use_cache=False."
                )
            raise ValueError(f"{type(module).__name__} cannot be exported by torch.export: {why}") from error


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


@dataclass
class _Walk:
    """Applies the operators' rules in order."""

    program: ExportedProgram
    state: Mapping[str, Tensor]
    tied: Mapping[str, str]
    record: Record = field(default_factory=Record)
    values: dict[Node, Any] = field(default_factory=dict)  # a Value; a Tensor where no input or parameter is read
    entries: dict[str, Value] = field(default_factory=dict)

    def run(self) -> None:
        kinds = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        for number, node in enumerate(self.program.graph.nodes):
            if node.op == "placeholder":
                self._placeholder(node, number, kinds[node.name])
            elif node.op == "call_function" and not (node.users or node.meta.get("val") is not None):
                continue  # an assertion
            elif node.target is operator.getitem:
                self._getitem(node)
            elif node.op == "call_function":
                self._call_function(node, number)
        self._finish_outputs()
        self.record.scopes.extend((draft.type,) for draft in self.record.spaces)
        self.record.scopes.extend(value.home.types for value in self.entries.values() if isinstance(value.home, Entry))

    def _placeholder(self, node: Node, number: int, spec: Any) -> None:
        name, example = spec.target or "", node.meta.get("val")
        if spec.kind in _PARAMETERS and name in self.state:
            name = self.tied.get(name, name)
            shape = tuple(self.state[name].shape)
            entry = Entry(name, tuple(free(size) for size in shape))
            value = Value(entry, shape, whole(shape), (0,) * len(shape), storage=number)
            self.values[node] = self.entries.setdefault(name, value)
        elif spec.kind in (*_PARAMETERS, InputKind.CONSTANT_TENSOR):
            constants = {**self.program.state_dict, **self.program.constants}
            self.values[node] = constants[name].detach()
        elif spec.kind is InputKind.USER_INPUT and isinstance(example, Tensor):
            count = sum(draft.role == "input" for draft in self.record.spaces)
            draft = SpaceDraft(f"input:{count + 1}" if count else "input", "input", fixed(1))
            draft.undecided = tuple(example.shape)
            if count:  # arguments of one shape differ by their place alone
                draft.operations.append(Operation("input", {"number": count}))
            self.record.spaces.append(draft)
            sizes = draft.undecided
            shared = len(node.users) > 1
            self.values[node] = Value(draft, sizes, whole(sizes), (0,) * len(sizes), shared=shared, storage=number)

    def _getitem(self, node: Node) -> None:
        several = self.values.get(node.args[0])  # type: ignore[arg-type]
        place = node.args[1]
        if not node.users:
            return
        if not isinstance(several, list | tuple) or place >= len(several):  # type: ignore[operator]
            raise self._call(node).unsupported("there is no rule for what this part of the result is read for")
        one = several[place]  # type: ignore[index]
        one = one() if callable(one) and not isinstance(one, Tensor) else one  # made where it is read
        shared = len(node.users) > 1 or len(node.args[0].users) > 1  # type: ignore[union-attr]
        self.values[node] = replace(one, shared=one.shared or shared) if isinstance(one, Value) else one

    def _call_function(self, node: Node, number: int) -> None:
        """The value of one operator call, by its rule; several where the operator returns a list."""
        known = [self.values.get(argument) for argument in node.all_input_nodes]
        if all(isinstance(one, Tensor) for one in known):
            self.values[node] = self._evaluated(node)
            return
        call = self._call(node)
        if call.operator in _SHAPE_ONLY:
            self.values[node] = torch.full(call.shape, _SHAPE_ONLY[call.operator])
            return
        rule = rules.BY_OPERATOR.get(call.operator.removesuffix("_")) or rules.BY_OPERATOR.get(call.operator)
        if rule is None:
            raise call.unsupported(
                "no rule for this operator. Add one to a file in metanet/arch/rules/ (docs/add-a-layer.md tells how)."
            )
        value = rule(call)
        if isinstance(value, Value):
            read = [one for one in known if isinstance(one, Value)]
            inherited = any(one.shared and one.home is value.home for one in read)
            value = replace(
                value,
                shared=inherited or value.shared or len(node.users) > 1,
                storage=number if value.storage is None else value.storage,
            )
            if call.operator.endswith("_"):
                self._overwrite(node, value, call)
        self.values[node] = value

    def _evaluated(self, node: Node) -> Any:
        """What an operator that reads no input and no parameter returns."""
        if not callable(node.target) or not isinstance(node.target, torch._ops.OpOverload):
            raise self._call(node).unsupported("no rule for this operator")
        args, kwargs = map_arg((node.args, node.kwargs), lambda one: self.values[one])
        result = node.target(*args, **kwargs)
        return list(result) if isinstance(result, list | tuple) else result

    def _overwrite(self, node: Node, value: Value, call: Call) -> None:
        """After an in-place operator later readers of its argument see the result; an alias of it is refused."""
        target = node.args[0]
        assert isinstance(target, Node)
        storage, later = self.values[target].storage, False
        for other in node.graph.nodes:
            later = later or other is node
            if not later or other is node:
                continue
            for read in other.all_input_nodes:
                alias = self.values.get(read) if read is not target and read is not node else None
                if isinstance(alias, Value) and alias.storage == storage:
                    raise call.unsupported(f"it changes {target.name!r} in place while {read.name!r} shares its memory")
        self.values[target] = value

    def _call(self, node: Node) -> Call:
        """The node's arguments by the names of the operator's schema, with its defaults."""

        def known(argument: Any) -> Any:
            if isinstance(argument, Node):
                return self.values.get(argument, argument)
            if isinstance(argument, list | tuple):
                return [known(item) for item in argument]
            return argument

        schema = getattr(node.target, "_schema", None)
        output = node.meta.get("val")
        output = output[0] if isinstance(output, list | tuple) and output else output
        arguments: dict[str, Any] = {}
        if schema is not None:
            for position, parameter in enumerate(schema.arguments):
                given = node.args[position] if position < len(node.args) else node.kwargs.get(parameter.name, _ABSENT)
                arguments[parameter.name] = parameter.default_value if given is _ABSENT else known(given)
        name = ".".join(str(node.target).split(".")[:2]) if schema is not None else str(node.target)
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        return Call(name, stack[-1][0] if stack else "", _source(node), arguments, shape, self.record)

    def _finish_outputs(self) -> None:
        """The order of the network's outputs is fixed, and their spaces are output spaces."""
        specs = [s for s in self.program.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
        names = [spec.arg.name for spec in specs]
        by_name = {node.name: value for node, value in self.values.items() if isinstance(value, Value)}
        for place, name in enumerate(names):
            value = by_name.get(name)
            if value is None or isinstance(value.home, Entry):
                continue
            call = Call("output", "", "", {}, value.shape, self.record)
            call.decide(value, [])
            mixed = any(value.carries(k) and any(not value.is_node(d) for d in row) for k, row in enumerate(value.axes))
            value = value if mixed else call.settled(value)
            if place:
                value = call.operate(value, "output", number=place)
            call.pin(draft_of(value).type)
            if draft_of(value).role == "hidden":
                draft_of(value).role = "output"


def _source(node: Node) -> str:
    """The innermost line of the user's code that made this call, as "file.py:12"."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [line for line in lines if "/torch/nn/" not in line[0]] or lines
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


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
