"""The ONNX graph of a module: what torch.export gives, operator by operator.

It is exported for two numbers of samples. A size that differs between them is that of the samples, and is written so
that any number will do. Operators that read no input and no weights are computed here and now.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.fx.node import map_arg

from metanet.exporters.onnx_files import rules
from metanet.exporters.onnx_files.rules import Call, Ref

OPSET, IR_VERSION = 21, 10  # what onnx 1.16 knows
SAMPLES = (2, 3)
INPUT = "input"
_ABSENT = object()


@dataclass
class Graph:
    """An ONNX graph in the making."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def name(self, wanted: str) -> str:
        """A name that nothing else has."""
        number, name = 1, wanted
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name

    def whole(self, numbers: Sequence[int] | Tensor) -> str:
        """Whole numbers, or truths, as an initialiser."""
        array = np.array(numbers, np.int64) if not isinstance(numbers, Tensor) else numbers.numpy()
        name = self.name("constant")
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def number(self, value: float | Tensor) -> str:
        """Floats as a Constant: they are no weights."""
        name = self.name("number")
        array = np.array(value, np.float32) if not isinstance(value, Tensor) else value.float().numpy()
        self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        return name

    def node(self, kind: str, inputs: Sequence[str], count: int = 1, /, **attributes: Any) -> list[str]:
        """The names of what one more node gives."""
        outputs = [self.name(kind.lower()) for _ in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def prune(self, outputs: Sequence[str]) -> None:
        """Leaves out what none of the outputs needs."""
        needed, kept = set(outputs), list[NodeProto]()
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: one for name, one in self.constants.items() if name in needed}


def model(module: nn.Module, sample: Tensor) -> onnx.ModelProto:
    """The model of a module in eval mode that reads samples like `sample`, [1, *shape], without its weights.

    Raises:
        ValueError: torch cannot export it, or it has an operator without a rule, which the message names.
    """
    programs = [_exported(module, torch.cat([sample] * count)) for count in SAMPLES]
    graph = Graph(taken={INPUT, *module.state_dict(), *(name.partition(".")[2] for name in module.state_dict())})
    walk = _Walk(graph, programs)
    nodes = [list(program.graph.nodes) for program in programs]
    if len(nodes[0]) != len(nodes[1]):
        raise ValueError(f"{type(module).__name__}: its operators depend on the number of samples")
    for one, other in zip(*nodes, strict=True):
        walk.take(one, other)
    outputs = [
        spec.arg.name for spec in programs[0].graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT
    ]
    found = [value for node, value in walk.values.items() if node.name in outputs]
    if not found or not all(isinstance(value, Ref) for value in found):
        raise ValueError(f"{type(module).__name__}: its output is not computed from its input")
    graph.prune([value.name for value in found])
    kind = TensorProto.FLOAT if sample.is_floating_point() else TensorProto.INT64
    inside = helper.make_graph(
        graph.nodes,
        type(module).__name__,
        [helper.make_tensor_value_info(INPUT, kind, ["samples", *sample.shape[1:]])],
        [
            helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["samples", *value.shape[1:]])
            for value in found
        ],
        list(graph.constants.values()),
    )
    return helper.make_model(
        inside, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="metanet"
    )


def filled(model: onnx.ModelProto, tensors: Mapping[str, Tensor], names: Sequence[str]) -> onnx.ModelProto:
    """The model with the weights that its nodes read, each under a name of its own."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    read = {name for node in whole.graph.node for name in node.input}
    renamed = {name: own for name, own in zip(tensors, names, strict=True) if name in read}
    for node in whole.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    whole.graph.initializer.extend(numpy_helper.from_array(tensors[old].numpy(), new) for old, new in renamed.items())
    return whole


def _exported(module: nn.Module, x: Tensor) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the module itself warns of is no news of this call
        try:
            return torch.export.export(module.eval(), (x,), strict=False)
        except Exception as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{type(module).__name__} cannot be exported by torch.export: {why}") from error


@dataclass
class _Walk:
    graph: Graph
    programs: list[ExportedProgram]  # for each number of samples
    values: dict[Node, Any] = field(default_factory=dict)  # a Ref, or a Tensor where no input and no weight is read
    twins: dict[Node, Node] = field(default_factory=dict)  # in the other program

    def take(self, node: Node, other: Node) -> None:
        """One node, and what it is for the other number of samples."""
        self.twins[node] = other
        if node.op == "placeholder":
            for one, program in zip((node, other), self.programs, strict=True):
                self._placeholder(one, program)
        elif node.target is operator.getitem and node.users:
            for one in (node, other) if other.args[0] in self.values else (node,):
                self.values[one] = self.values[one.args[0]][one.args[1]]  # type: ignore[index]
        elif (
            node.op == "call_function"
            and node.target is not operator.getitem
            and (node.users or node.meta.get("val") is not None)
        ):
            self._call(node, other)

    def _placeholder(self, node: Node, program: ExportedProgram) -> None:
        (spec,) = (one for one in program.graph_signature.input_specs if one.arg.name == node.name)
        if spec.kind is InputKind.USER_INPUT:
            self.values[node] = Ref(INPUT, node.meta["val"].shape, dtype=node.meta["val"].dtype)
        elif spec.target in program.state_dict and program.state_dict[spec.target].is_floating_point():
            self.values[node] = Ref(str(spec.target), node.meta["val"].shape, weight=True)
        else:
            constants = {**program.state_dict, **program.constants}
            self.values[node] = constants[str(spec.target)].detach()

    def _call(self, node: Node, other: Node) -> None:
        if all(isinstance(self.values.get(one), Tensor) for one in node.all_input_nodes):
            for one in (node, other):
                args, kwargs = map_arg((one.args, one.kwargs), lambda part: self.values[part])
                self.values[one] = one.target(*args, **kwargs)  # type: ignore[operator]
            return
        name = ".".join(str(node.target).split(".")[:2])
        rule = rules.RULES.get(name.removesuffix("_"))
        if rule is None:
            raise ValueError(f"{name}: there is no rule that writes this operator as ONNX")
        first = next(iter(_results(node)), None)
        more = () if first is None else (first.dtype,)
        self.values[node] = rule(Call(self.graph, name, self._arguments(node), _shapes(node, other), *more))

    def _spread(self, node: Node) -> Any:
        """A value; one that was computed here, and is the same for every sample, for as many of them as there are."""
        value, more = self.values.get(node), self.values.get(self.twins[node])
        if not isinstance(value, Tensor) or not isinstance(more, Tensor) or value.shape == more.shape:
            return value
        (shape,) = _shapes(node, self.twins[node])
        row = value[tuple(slice(1) if size == -1 else slice(None) for size in shape)]
        if not torch.equal(row.expand_as(value), value) or not torch.equal(row.expand_as(more), more):
            return value
        call = Call(self.graph, str(node.target), {}, [shape], value.dtype)
        return replace(call.emit("Expand", row, call.sizes()), each=row)

    def _arguments(self, node: Node) -> dict[str, Any]:
        """The arguments by the names of the operator's schema, with its defaults."""
        found: dict[str, Any] = {}
        for place, one in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
            given = node.args[place] if place < len(node.args) else node.kwargs.get(one.name, _ABSENT)
            found[one.name] = one.default_value if given is _ABSENT else self._known(given)
        return found

    def _known(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self._spread(argument)
        return [self._known(one) for one in argument] if isinstance(argument, list | tuple) else argument


def _shapes(node: Node, other: Node) -> list[tuple[int, ...]]:
    """The shape of each result, with -1 where the samples are."""
    both = zip(_results(node), _results(other), strict=True)
    return [
        tuple(size if size == more else -1 for size, more in zip(one.shape, two.shape, strict=True))
        for one, two in both
    ]


def _results(node: Node) -> list[Tensor]:
    found = node.meta["val"]
    return [one for one in (found if isinstance(found, list | tuple) else [found]) if isinstance(one, Tensor)]
