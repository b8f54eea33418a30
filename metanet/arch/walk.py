"""One walk over the exported operator graph, which applies the operators' rules in order."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from metanet.arch import rules
from metanet.arch.axes import fixed, free
from metanet.arch.call import Call
from metanet.arch.certificate import Scope
from metanet.arch.decompose import decomposed
from metanet.arch.layout import expand, whole
from metanet.arch.record import Record, UnsupportedOperator
from metanet.arch.rules.grouped import Experts, applied, merged
from metanet.arch.template import Operation
from metanet.arch.value import Entry, SpaceDraft, Value, draft_of

_PARAMETERS = (InputKind.PARAMETER, InputKind.BUFFER)
_ABSENT = object()
_REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
# Constants of the shape of an activation: nothing else of it is read.
_SHAPE_ONLY = {
    **dict.fromkeys(("aten.zeros_like", "aten.new_zeros", "aten.empty_like", "aten.new_empty"), 0.0),
    **dict.fromkeys(("aten.ones_like", "aten.new_ones"), 1.0),
}
_FILLED = ("aten.full_like", "aten.new_full")  # the same with a number of their own


@dataclass
class Walk:
    """Applies the operators' rules in order."""

    program: ExportedProgram
    state: Mapping[str, Tensor]
    tied: Mapping[str, str]
    record: Record = field(default_factory=Record)
    values: dict[Node, Any] = field(default_factory=dict)  # a Value; a Tensor where no input or parameter is read
    entries: dict[str, Value] = field(default_factory=dict)
    memory: Iterator[int] = field(default_factory=itertools.count)  # a number for all values that share memory

    def run(self) -> None:
        kinds = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, kinds[node.name])
            else:
                self._compute(node, node)
        self._finish_outputs()

    def scopes(self) -> list[Scope]:
        """The index spaces of the operators, of the spaces and of the entries."""
        entries = [value.home.types for value in self.entries.values() if isinstance(value.home, Entry)]
        return [*self.record.scopes, *((draft.type,) for draft in self.record.spaces), *entries]

    def keep(self, names: Sequence[str], moving: bool = False) -> None:
        """Gives parameters a space each, so that the graph holds them; nothing moves in those that nothing reads."""
        call = Call("unread", "", "", {}, (), self.record)
        for name in names:
            value = self.entries[name]
            call.decide(call.active(value), range(len(value.sizes)) if moving else [])

    def _compute(self, node: Node, origin: Node) -> None:
        """The value of a node; `origin` is the node of the exported graph that it belongs to."""
        if node.op != "call_function" or not (node.users or node.meta.get("val") is not None):
            return  # the output, or an assertion
        if node.target is operator.getitem:
            self._getitem(node, origin)
        else:
            self._call_function(node, origin)

    def _placeholder(self, node: Node, spec: Any) -> None:
        name, example = spec.target or "", node.meta.get("val")
        if spec.kind in _PARAMETERS and name in self.state:
            name = self.tied.get(name, name)
            shape = tuple(self.state[name].shape)
            entry = Entry(name, tuple(free(size) for size in shape))
            value = Value(entry, shape, whole(shape), (0,) * len(shape), storage=next(self.memory))
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
            self.values[node] = Value(
                draft, sizes, whole(sizes), (0,) * len(sizes), shared=shared, storage=next(self.memory)
            )

    def _getitem(self, node: Node, origin: Node) -> None:
        several = self.values.get(node.args[0])  # type: ignore[arg-type]
        place = node.args[1]
        if not node.users:
            return
        if not isinstance(several, list | tuple) or place >= len(several):  # type: ignore[operator]
            raise self._call(node, origin).unsupported("there is no rule for what this part of the result is read for")
        one = several[place]  # type: ignore[index]
        one = one() if callable(one) and not isinstance(one, Tensor) else one  # made where it is read
        shared = len(node.users) > 1 or len(node.args[0].users) > 1  # type: ignore[union-attr]
        if isinstance(one, Value):
            storage = next(self.memory) if one.storage is None else one.storage
            one = replace(one, shared=one.shared or shared, storage=storage)
        self.values[node] = one

    def _call_function(self, node: Node, origin: Node) -> None:
        """The value of one operator call, by its rule; several where the operator returns a list."""
        if isinstance(node.target, HigherOrderOperator) and node.target.name() in _REGIONS:
            self.values[node] = self._region(node, origin)
            return
        known = [self.values.get(argument) for argument in node.all_input_nodes]
        if all(isinstance(one, Tensor | int | float) for one in known) and not _draws(node):
            self.values[node] = self._evaluated(node, origin)
            return
        call = self._call(node, origin)
        if _draws(node) and call.operator.removesuffix("_") not in rules.BY_OPERATOR:
            raise call.unsupported(
                "it draws random numbers in eval mode too, so the net is no function of its inputs and weights. "
                "Trace a part without it, or let the numbers be an input."
            )
        if call.operator in _SHAPE_ONLY or (call.operator in _FILLED and call.is_number("fill_value")):
            number = call["fill_value"] if call.operator in _FILLED else _SHAPE_ONLY[call.operator]
            self.values[node] = torch.full(call.shape, number, dtype=call.dtypes.get(""))
            return
        if 0 in call.shape and isinstance(node.meta.get("val"), Tensor):
            self.values[node] = torch.zeros(call.shape)  # it holds no number
            return
        rule = rules.rule_of(call.operator)
        if any(isinstance(one, Experts) for one in known):
            done = applied(call, rule)
            if not isinstance(done, Call):
                self._keep_experts(node, done, call)
                return
            call = done
        value = rule(call) if rule is not None else None
        value = self._in_parts(node, origin, call) if value is None else value
        if isinstance(value, Value):
            if len(value.axes) < len(call.shape):  # a tensor of one number was taken for the number, which has no axes
                value = replace(value, axes=expand(value.axes, call.shape))
            read = [one for one in known if isinstance(one, Value)]
            inherited = any(one.shared and one.home is value.home for one in read)
            value = replace(
                value,
                shared=inherited or value.shared or len(node.users) > 1,
                storage=next(self.memory) if value.storage is None else value.storage,
            )
            if value.shape != call.shape:
                raise call.unsupported(f"its rule gives the shape {value.shape} in the place of {call.shape}")
            if call.operator.endswith("_"):
                self._overwrite(node, value, call)
        self.values[node] = value

    def _keep_experts(self, node: Node, done: Any, call: Call) -> None:
        """What a call gave of every expert; an in-place operator on it is its ordinary form (functional.py)."""
        several = done if isinstance(done, list) else [done]
        kept = [replace(one, value=replace(one.value, shared=True)) for one in several]
        self.values[node] = kept if isinstance(done, list) else kept[0]
        if call.operator.endswith("_") and not isinstance(done, list):
            self.values[node.args[0]] = kept[0]  # type: ignore[index]

    def _in_parts(self, node: Node, origin: Node, call: Call) -> Any:
        """The value of an operator without a rule, by the rules of those that torch decomposes it into."""
        missing = "no rule for this operator. Add one to a file in metanet/arch/rules/ (docs/add-a-layer.md tells how)."
        module = decomposed(node)
        if module is None:
            raise call.unsupported(missing)
        try:
            return self._inside(module, [self.values[one] for one in node.all_input_nodes], origin)
        except UnsupportedOperator as error:
            raise call.unsupported(f"no rule for this operator, and of its parts: {error}") from error

    def _region(self, node: Node, origin: Node) -> Any:
        """The value of a part of the graph that only runs under other settings of torch."""
        place = next(k for k, one in enumerate(node.args) if isinstance(one, Node) and one.op == "get_attr")
        module = getattr(self.program.graph_module, str(node.args[place].target))  # type: ignore[union-attr]
        return self._inside(module, [self.values[one] for one in node.args[place + 1 :]], origin)  # type: ignore[index]

    def _inside(self, module: GraphModule, given: Sequence[Any], origin: Node) -> Any:
        """What a graph within the graph returns for given values of its placeholders."""
        values = iter(given)
        for inner in module.graph.nodes:
            if inner.op == "placeholder":
                value = next(values)
                again = isinstance(value, Value) and len(inner.users) > 1
                self.values[inner] = replace(value, shared=True) if again else value
            elif inner.op == "get_attr":
                self.values[inner] = getattr(module, inner.target)
            elif inner.op != "output":
                self._compute(inner, inner if inner.meta.get("nn_module_stack") else origin)
        return map_arg(next(reversed(module.graph.nodes)).args[0], lambda one: self.values[one])

    def _evaluated(self, node: Node, origin: Node) -> Any:
        """What an operator that reads no input and no parameter returns."""
        overload = isinstance(node.target, torch._ops.OpOverload)
        if not callable(node.target) or not (overload or node.target.__module__ == "_operator"):
            raise self._call(node, origin).unsupported("no rule for this operator")
        writes = overload and node.target._schema.is_mutable  # the memory may be the module's own
        args, kwargs = map_arg(
            (node.args, node.kwargs), lambda one: self.values[one].clone() if writes else self.values[one]
        )
        result = node.target(*args, **kwargs)
        if writes:
            self.values[node.args[0]] = result  # type: ignore[index]
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

    def _call(self, node: Node, origin: Node) -> Call:
        """The node's arguments by the names of the operator's schema, with its defaults; its place is the origin's."""

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
        dtypes = {"": output.dtype} if isinstance(output, Tensor) else {}
        if schema is not None:
            for position, parameter in enumerate(schema.arguments):
                given = node.args[position] if position < len(node.args) else node.kwargs.get(parameter.name, _ABSENT)
                arguments[parameter.name] = parameter.default_value if given is _ABSENT else known(given)
                first = next((one for one in given if one is not None), None) if isinstance(given, list) else given
                if isinstance(first, Node) and isinstance(first.meta.get("val"), Tensor):
                    dtypes[parameter.name] = first.meta["val"].dtype
        name = ".".join(str(node.target).split(".")[:2]) if schema is not None else str(node.target)
        stack = list((origin.meta.get("nn_module_stack") or {}).values())
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        module, source, readers = stack[-1][0] if stack else "", _source(origin), len(node.users)
        return Call(name, module, source, arguments, shape, self.record, dtypes, readers)

    def _finish_outputs(self) -> None:
        """The order of the network's outputs is fixed, and their spaces are output spaces."""
        specs = [s for s in self.program.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
        names = [spec.arg.name for spec in specs]
        by_name = {node.name: value for node, value in self.values.items() if isinstance(value, Value | Experts)}
        for place, name in enumerate(names):
            value = by_name.get(name)
            call = Call("output", "", "", {}, (), self.record)
            value = merged(call, value) if isinstance(value, Experts) else value
            if value is None or isinstance(value.home, Entry):
                continue
            call.decide(value, [])
            mixed = any(value.carries(k) and any(not value.is_node(d) for d in row) for k, row in enumerate(value.axes))
            value = value if mixed else call.settled(value)
            if place:
                value = call.operate(value, "output", number=place)
            call.pin(draft_of(value).type)
            if draft_of(value).role == "hidden":
                draft_of(value).role = "output"


def _draws(node: Node) -> bool:
    """Whether the operator may draw random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _source(node: Node) -> str:
    """The innermost line of the user's code that made this call, as "file.py:12"."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [line for line in lines if "/torch/nn/" not in line[0]] or lines
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""
