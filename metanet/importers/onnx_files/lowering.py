"""Lowering: the nodes of a graph, in order, become the steps of a program.

Nodes that read no input and no weights are computed here and now, for two numbers of samples. Every float of the file
is accounted for: it is in a tensor of the net, in an attribute or a constant of the program, or no node reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, NodeProto, helper
from torch import Tensor

from metanet.importers.onnx_files import folding, reading, rules
from metanet.importers.onnx_files.call import Active, Call, Fixed, Value
from metanet.importers.onnx_files.reading import File
from metanet.zoo import programs
from metanet.zoo.programs import Step

SAMPLES = (2, 3)
MOST_TRIES = 100  # lowerings of one file, which differ in their guesses
STATEFUL = ("LSTM", "GRU", "RNN")


@dataclass
class Lowering:
    """A program in the making."""

    file: File
    samples: tuple[int, int]
    fixed_samples: bool  # the file was made for the first number of them; the program takes any
    tensors: dict[str, Tensor] = field(default_factory=dict)  # by their names in the program
    buffers: set[str] = field(default_factory=set)
    constants: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)  # by their names in the file
    floats: dict[str, np.ndarray] = field(default_factory=dict)  # initialisers, Constants
    read: dict[str, str] = field(default_factory=dict)  # of those: "tensor" or "number"
    own: dict[str, str] = field(default_factory=dict)  # name in the file -> in the program
    program: dict[str, Any] = field(default_factory=dict)
    guesses: list[int] = field(default_factory=list)  # which of several ways, at each place where there were some
    ways: list[int] = field(default_factory=list)  # how many there were

    def guess(self, ways: int) -> int:
        """Which of several ways to take."""
        self.ways.append(ways)
        if len(self.ways) > len(self.guesses):
            self.guesses.append(0)
        return self.guesses[len(self.ways) - 1]

    def active(self, value: Value, where: str) -> Active:
        """The value as one of the program: an array becomes a constant."""
        if isinstance(value, Active):
            return value
        if value.source is not None:
            return self._tensor(value.source)
        one, other = value.arrays
        if one.ndim == other.ndim:
            samples = [axis for axis in range(one.ndim) if one.shape[axis] != other.shape[axis]]
            first = tuple(slice(1) if axis in samples else slice(None) for axis in range(one.ndim))
            if samples and (one[first] == one).all() and (other[first] == other).all():  # the same for every sample
                one, other = one[first], other[first]
        if one.shape != other.shape or (one != other).any():
            raise ValueError(f"{where}: a constant depends on the number of samples")
        return self._constant(one, where)

    def fixed(self, value: Value) -> tuple[np.ndarray, np.ndarray] | None:
        """The array of a value that no input decides; of a weight its numbers, which then are the architecture's."""
        if isinstance(value, Active):
            return None
        if value.source is not None:
            self.read.setdefault(value.source, "number")
        return value.arrays

    def step(self, where: str, op: str, inputs: Sequence[Active | None], attributes: dict[str, Any]) -> Active:
        name = f"{op}_{len(self.steps)}"
        names = tuple(None if one is None else one.name for one in inputs)
        step = Step(name, op, names, attributes)
        metas: list[Any] = []
        for number in range(2):
            values = {one.name: one.metas[number] for one in inputs if one is not None}
            try:
                with torch.no_grad():
                    metas.append(step(values))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        described = {"name": name, "op": op, "inputs": list(names)}
        self.steps.append(described | ({"attributes": attributes} if attributes else {}))
        return Active(name, (metas[0], metas[1]))

    def derived(self, value: Value | None, name: str, tensor: Tensor, where: str) -> Active:
        """A tensor of the net that holds some numbers of a weight, in another order."""
        if not isinstance(value, Fixed) or value.source is None or value.source in self.own:
            raise ValueError(f"{where}: a weight of it must be a tensor of the file that nothing else reads")
        self.read[value.source] = "tensor"
        key = f"{value.source}.{name}"
        if key not in self.own:
            self.own[key] = self._put(key, tensor).name
        meta = torch.empty(tensor.shape, device="meta")
        return Active(self.own[key], (meta, meta), weight=True)

    def account(self) -> dict[str, Any]:
        """How many floats the file has, and where they are now."""
        count = {
            kind: sum(one.size for name, one in self.floats.items() if self.read.get(name) == kind)
            for kind in ("tensor", "number", None)
        }
        found = sum(tensor.numel() for tensor in self.tensors.values())
        assert found == count["tensor"], f"{found} floats in tensors, expected {count['tensor']}"
        unread = [name for name in self.floats if name not in self.read]
        every = sum(one.size for one in self.floats.values())
        return {"all": every, "in_tensors": found, "in_architecture": count["number"], "not_read": unread}

    def _tensor(self, source: str) -> Active:
        """A float initialiser or Constant as a tensor of the net, under the same name wherever it is read."""
        if source not in self.own:
            self.own[source] = self._put(source, torch.from_numpy(np.array(self.floats[source]))).name
        self.read[source] = "tensor"
        name = self.own[source]
        meta = torch.empty(self.tensors[name].shape, device="meta")
        return Active(name, (meta, meta), weight=True)

    def _put(self, wanted: str, tensor: Tensor) -> Active:
        name = list(programs.usable([*self.tensors, wanted]).values())[-1]
        self.tensors[name] = tensor
        meta = torch.empty(tensor.shape, device="meta")
        return Active(name, (meta, meta), weight=True)

    def _constant(self, array: np.ndarray, where: str) -> Active:
        kind = "bool" if array.dtype == bool else "int64" if array.dtype.kind in "iu" else "float32"
        described = {"shape": list(array.shape), "dtype": kind, "values": array.reshape(-1).tolist()}
        if array.size > programs.MOST_CONSTANTS or not np.isfinite(array).all():
            raise ValueError(f"{where}: found a constant of {array.size:,} numbers, or of some that are not finite")
        name = next((name for name, one in self.constants.items() if one == described), None)
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = described
        meta = torch.empty(array.shape, dtype=programs.DTYPES[kind], device="meta")
        return Active(name, (meta, meta))


def lower(file: File, accept: Callable[[Lowering], None] = lambda _: None) -> Lowering:
    """The program of a file, in `program`, and its tensors.

    `accept` raises ValueError where a lowering is not right. Then, and where steps do not fit together, the last guess
    is made another way, until all have been; the error of the one that came furthest is raised.

    Raises:
        ValueError: a node without a rule, or used in a way that its rule does not know; names file, node and operator.
    """
    name, shape, count, dtype = _input(file)
    samples = SAMPLES if count is None else (count, count + 1)
    guesses: list[int] = []
    furthest, told = -1, ValueError()
    for _ in range(MOST_TRIES):
        lowering = Lowering(file, samples, count is not None, guesses=guesses)
        try:
            _lower(lowering, name, shape, dtype)
            accept(lowering)
            return lowering
        except ValueError as error:
            if len(lowering.steps) > furthest:
                furthest, told = len(lowering.steps), error
        guesses = lowering.guesses[: len(lowering.ways)]
        while guesses and guesses[-1] + 1 == lowering.ways[len(guesses) - 1]:
            guesses.pop()
        if not guesses:
            break
        guesses[-1] += 1
    raise told


def _lower(lowering: Lowering, name: str, shape: list[int], dtype: str) -> None:
    """All nodes, and what they make together."""
    file, graph = lowering.file, lowering.file.graph
    one, other = (
        torch.empty((count, *shape), dtype=programs.DTYPES[dtype], device="meta") for count in lowering.samples
    )
    lowering.values[name] = Active("input", (one, other))
    for tensor in graph.initializer:
        _keep(lowering, tensor.name, reading.array(file, tensor, "initialiser"), number=False)
    readers = {name for node in reading.nodes(graph) for name in node.input} | {output.name for output in graph.output}
    for number, node in enumerate(graph.node):
        _node(lowering, number, node, readers)
    outputs = []
    for output in graph.output:
        value = lowering.values.get(output.name)
        if not isinstance(value, Active) or value.name not in {step["name"] for step in lowering.steps}:
            raise ValueError(f"{file.path}: the output {output.name!r} is not computed from the input")
        outputs.append(value.name)
    shapes = {name: list(tensor.shape) for name, tensor in lowering.tensors.items()}
    lowering.program = {
        "input": {"name": "input", "shape": shape, "dtype": dtype},
        "parameters": {name: shape for name, shape in shapes.items() if name not in lowering.buffers},
        "buffers": {name: shape for name, shape in shapes.items() if name in lowering.buffers},
        "constants": lowering.constants,
        "steps": lowering.steps,
        "outputs": outputs,
    }


def _input(file: File) -> tuple[str, list[int], int | None, str]:
    """Name of the input, its shape without the samples, their number if it is fixed, and the kind of its numbers."""
    graph = file.graph
    names = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in names]
    if len(inputs) != 1 or graph.sparse_initializer:
        found = ", ".join(one.name for one in inputs) or "none"
        raise ValueError(f"{file.path}: found the inputs {found}, expected one, and no sparse tensors")
    (value,) = inputs
    kind, where = value.type.tensor_type.elem_type, f"{file.path}: input {value.name!r}"
    if kind not in (*reading.FLOATS, onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        raise ValueError(f"{where}: expected floats or whole numbers of 32 or 64 bits")
    dims = [
        one.dim_value if one.HasField("dim_value") else one.dim_param or "?" for one in value.type.tensor_type.shape.dim
    ]
    if not dims:
        raise ValueError(f"{where}: its shape is not in the file, or has no axis for the samples")
    if any(not isinstance(size, int) or size < 1 for size in dims[1:]):
        raise ValueError(f"{where}: found the shape {dims}; only the number of samples, on axis 0, may be left open")
    first = dims[0] if isinstance(dims[0], int) and dims[0] > 0 else None
    return value.name, [int(size) for size in dims[1:]], first, "float32" if kind in reading.FLOATS else "int64"


def _keep(lowering: Lowering, name: str, array: np.ndarray, number: bool) -> None:
    """A tensor of the file: floats are weights; whole numbers, and single floats of Constants, the architecture's."""
    if array.dtype.kind != "f":
        lowering.values[name] = Fixed((array, array))
        return
    lowering.floats[name] = array
    if number and array.size == 1:
        lowering.read[name] = "number"
    lowering.values[name] = Fixed((array, array), None if number and array.size == 1 else name)


def _node(lowering: Lowering, number: int, node: NodeProto, readers: set[str]) -> None:
    file = lowering.file
    where = f"{file.path}: node {number} {node.name or '/'.join(node.output)!r} ({node.op_type})"
    missing = [name for name in node.input if name and name not in lowering.values]
    if missing:
        raise ValueError(f"{where}: reads {missing[0]!r}, which no earlier node gives")
    if any(name in lowering.values for name in node.output if name):
        raise ValueError(f"{where}: gives a value {list(node.output)} that is there already")
    if node.domain not in ("", "ai.onnx"):
        raise ValueError(f"{where}: found an operator of {node.domain!r}; there are rules for those of ai.onnx only")
    if node.op_type == "If":
        _branch(lowering, number, node, readers, where)
        return
    attributes = {one.name: _attribute(file, one, where) for one in node.attribute}
    if node.op_type == "Constant":
        _keep(lowering, node.output[0], _of_constant(attributes, where), number=True)
        return
    inputs = tuple(lowering.values[name] if name else None for name in node.input)
    if node.op_type in ("Shape", "Size"):
        found: Sequence[Value] = [folding.shape_of(inputs[0], node.op_type, attributes, where)]
    elif node.op_type in folding.FOLDED and (folding.foldable(inputs) or _is_state(file, node, inputs)):
        arrays = [None if one is None else lowering.fixed(one) for one in inputs]
        found = folding.folded(file.opset, node, arrays, where)
    else:
        rule = rules.RULES.get(node.op_type)
        if rule is None:
            raise ValueError(f"{where}: there is no rule for this operator")
        read = max((place + 1 for place, name in enumerate(node.output) if name in readers), default=1)
        call = Call(lowering, where, node.op_type, file.opset, inputs, attributes, read)
        try:
            result = rule(call)
        except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError) as error:
            if where in str(error):
                raise
            raise call.refuse(f"not as its operator expects ({type(error).__name__}: {error})") from error
        found = [result] if isinstance(result, Active | Fixed) else result
        if len(found) < read:
            raise ValueError(f"{where}: there is no rule for its output {len(found)}")
    lowering.values.update({name: one for name, one in zip(node.output, found, strict=False) if name})


def _branch(lowering: Lowering, number: int, node: NodeProto, readers: set[str], where: str) -> None:
    """The nodes of the branch of an If that is always taken, as those that ask for the number of axes."""
    condition = lowering.fixed(lowering.values[node.input[0]]) if len(node.input) == 1 else None
    if condition is None or any(one.size != 1 for one in condition) or bool(condition[0]) != bool(condition[1]):
        raise ValueError(f"{where}: its condition depends on the input, or on the number of samples")
    name = "then_branch" if condition[0] else "else_branch"
    graph = next((one.g for one in node.attribute if one.name == name), onnx.GraphProto())
    if graph.input or graph.sparse_initializer or len(graph.output) != len(node.output):
        raise ValueError(f"{where}: found no {name} with {len(node.output)} outputs")
    for tensor in graph.initializer:
        if tensor.name in lowering.values:
            raise ValueError(f"{where}: gives a value {tensor.name!r} that is there already")
        _keep(lowering, tensor.name, reading.array(lowering.file, tensor, "initialiser"), number=False)
    for one in graph.node:
        _node(lowering, number, one, readers)
    for output, outside in zip(graph.output, node.output, strict=True):
        if output.name not in lowering.values or outside in lowering.values:
            raise ValueError(f"{where}: its output {output.name!r} is not computed, or {outside!r} is there already")
        lowering.values[outside] = lowering.values[output.name]


def _is_state(file: File, node: NodeProto, inputs: Sequence[Value | None]) -> bool:
    """Whether it repeats zeros as the first state of a recurrent layer; such zeros are no weights."""
    states = {name for one in file.graph.node if one.op_type in STATEFUL for name in one.input[5:7]}
    zeros = inputs[0]
    return (
        node.op_type == "Expand" and node.output[0] in states and isinstance(zeros, Fixed) and not zeros.arrays[0].any()
    )


def _attribute(file: File, one: AttributeProto, where: str) -> Any:
    if one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return "a graph"
    if one.type == AttributeProto.TENSOR:
        return reading.array(file, one.t, f"{where} attribute")
    if one.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.TENSORS, AttributeProto.SPARSE_TENSORS):
        raise ValueError(f"{where}: found the attribute {one.name!r} of a kind that is not read")
    return helper.get_attribute_value(one)


def _of_constant(attributes: dict[str, Any], where: str) -> np.ndarray:
    ((name, value),) = attributes.items() if len(attributes) == 1 else ((None, None),)
    if name == "value" and isinstance(value, np.ndarray):
        return value
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name not in kinds:
        raise ValueError(f"{where}: found {name!r}, expected one value of numbers")
    return np.array(value, kinds[name])
