"""Nets whose architecture is data: a list of steps, as files of other frameworks (ONNX, Keras) hold them.

A program is a JSON object, which the architecture holds as text:

    {"input": {"name": "x", "shape": [3, 32, 32], "dtype": "float32"},
     "parameters": {"conv1.weight": [8, 3, 3, 3], "conv1.bias": [8]},
     "buffers": {},
     "constants": {"places": {"shape": [2], "dtype": "int64", "values": [0, 2]}},
     "steps": [{"name": "a", "op": "conv", "inputs": ["x", "conv1.weight", "conv1.bias"],
                "attributes": {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}},
               {"name": "b", "op": "index_select", "inputs": ["a", "places"], "attributes": {"axis": 2}}],
     "outputs": ["b"]}

`shape` is without the samples, and "int64" is for nets that read whole numbers: fractions are cut off. Parameters and
buffers make up the state_dict, under these names after "net."; constants belong to the architecture. A step reads the
input, tensors and earlier steps by name, or null where its operator does without; operators and their attributes are
the functions of metanet/zoo/operators and their keyword-only arguments. What does not fit is an error that says
where (metanet/zoo/programs.py).

`architecture(program)` gives what a zoo keeps. Only imported nets are of this family: a spec cannot draw programs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metanet.zoo import programs
from metanet.zoo.distributions import Check
from metanet.zoo.fields import Arch, Field, Layers

FIELDS = {"program": Field("-", Check(str, "a program as text", lambda text: isinstance(text, str)), digest=True)}
OWN_ACTIVATION = True
LAYER = "net"


class Program(nn.Module):
    """The module of a program; parameters and buffers are zero.

    Raises:
        ValueError: no program; the message says where.
    """

    def __init__(self, program: Mapping[str, Any]):
        super().__init__()
        self.steps = programs.steps(program)
        self.input, self.outputs = program["input"]["name"], tuple(program["outputs"])
        self.whole_numbers = program["input"]["dtype"] == "int64"
        for name, shape in program["parameters"].items():
            owner, last = self._owner(name)
            owner.register_parameter(last, nn.Parameter(torch.zeros(shape)))
        for name, shape in program["buffers"].items():
            owner, last = self._owner(name)
            owner.register_buffer(last, torch.zeros(shape))
        for name, one in program["constants"].items():
            owner, last = self._owner(name)
            tensor = torch.tensor(one["values"], dtype=programs.DTYPES[one["dtype"]]).reshape(one["shape"])
            owner.register_buffer(last, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        values: dict[str, Any] = dict(self.named_parameters()) | dict(self.named_buffers())
        values[self.input] = x.to(torch.int64) if self.whole_numbers else x
        for step in self.steps:
            values[step.name] = step(values)
        outputs = tuple(values[name] for name in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds a tensor, and the tensor's name in it."""
        owner: nn.Module = self
        *path, last = name.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner, last


def architecture(program: Mapping[str, Any]) -> dict[str, Any]:
    """What a zoo keeps of a program: its text, and the sizes of input and output.

    Raises:
        ValueError: no program, or its steps do not fit together.
    """
    try:
        text = json.dumps(program, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"program: no plain JSON: {error}") from error
    image_shape, num_classes = _sizes(text)
    return {"family": "program", "program": text, "image_shape": list(image_shape), "num_classes": num_classes}


def usable(program: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A program whose tensors a module can hold, and for each of their names the one that it has there.

    Raises:
        ValueError: no program.
    """
    try:
        tables = {table: dict(program[table]) for table in programs.TABLES}
        names = programs.usable([name for table in tables.values() for name in table])
        steps = [{**step, "inputs": [names.get(name, name) for name in step["inputs"]]} for step in program["steps"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"program: {type(error).__name__}: {error}") from error
    renamed = {table: {names[name]: one for name, one in own.items()} for table, own in tables.items()}
    return {**program, **renamed, "steps": steps}, names


def expects(arch: Arch) -> str | None:
    image_shape, num_classes = _sizes(arch["program"])
    if (tuple(arch["image_shape"]), arch["num_classes"]) == (image_shape, num_classes):
        return None
    return f"image_shape {list(image_shape)} and {num_classes} classes, as its program says"


def input_shape(arch: Arch) -> list[int]:
    return list(programs.parse(arch["program"])["input"]["shape"])


def vocabulary(arch: Arch) -> int:
    """How many words a net of whole numbers knows, by the embeddings that read its input; 0 where it reads others."""
    program = programs.parse(arch["program"])
    if program["input"]["dtype"] != "int64":
        return 0
    shapes = {**program["parameters"], **program["buffers"]}
    readers = [step for step in program["steps"] if step["op"] == "embedding"]
    read = [words for x, words in (step["inputs"] for step in readers) if x == program["input"]["name"]]
    return min((shapes[words][0] for words in read if words in shapes), default=1)


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    """The module as the only layer, called net."""
    yield LAYER, Program(programs.parse(arch["program"]))


@functools.lru_cache(maxsize=256)
def _sizes(text: str) -> tuple[tuple[int, int, int], int]:
    """An input as a shape of three axes, and the numbers that the last axis of the first output has.

    Raises:
        ValueError: the steps do not fit together.
    """
    program = programs.parse(text)
    with torch.device("meta"), torch.no_grad():  # claimed sizes allocate nothing
        module = Program(program).eval()
        shape = program["input"]["shape"]
        outputs = module(torch.zeros(2, *shape))
    first = outputs if isinstance(outputs, Tensor) else outputs[0]
    if first.dim() < 2 or first.shape[0] != 2:
        raise ValueError(f"program: of two samples it makes {list(first.shape)}, expected [2, ..., numbers]")
    channels, *grid = [1] * (3 - len(shape)) + list(shape)
    height, *rest = grid
    width = 1
    for size in rest:
        width *= size
    return (channels, height, width), first.shape[-1]
