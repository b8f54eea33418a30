"""Tables of vectors: a number that is read from the input, or fixed by the code, chooses the row."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from metanet.arch.axes import fixed
from metanet.arch.layout import REPEAT, Dim
from metanet.arch.record import Call, Value
from metanet.arch.template import Block


def embedding(call: Call) -> Value:
    """aten.embedding(weight [rows, channels], indices [*]) -> [*, channels]."""
    weight, indices = call.entry("weight"), call["indices"]
    if isinstance(indices, Tensor):
        return _rows(call, weight, indices)
    ids = call.activation("indices")
    call.decide(ids, [])
    if any(ids.carries(axis) for axis in range(len(ids.axes))) or weight.shape != weight.sizes:
        raise call.unsupported("there is a rule for numbers of the input and a whole table only")
    rows, channels = weight.shape
    call.pin(call.axis(weight, 0))
    chosen = call.write(fixed(rows), -1, (*ids.shape, rows))
    call.link("one_hot", ids, chosen, sources=(0,) * rows, attributes={"layout": ids.layout(ids.axes)})
    y = call.write(call.axis(weight, 1), -1)
    block = Block(weight.home.name, 0, 0, "linear", (channels, rows, 1), (), "i o -> o i 1")
    call.block(block, chosen, y)
    return y


def _rows(call: Call, weight: Value, indices: Tensor) -> Value:
    """Rows that the code fixes: a view of the table, if they are a strided walk through it."""
    axes = []
    for dim, size in enumerate(indices.shape):
        steps = indices.diff(dim=dim).reshape(-1)
        step = int(steps[0]) if size > 1 else 0
        if step < 0 or bool((steps != step).any()):
            raise call.unsupported("there is a rule for evenly spaced rows of a table only")
        axes.append(() if size == 1 else (Dim(0, step, size) if step else Dim(REPEAT, 1, size),))
    first = int(indices.reshape(-1)[0])
    return replace(weight, axes=(*axes, weight.axes[1]), starts=(first, *weight.starts[1:]))


class _Words(nn.Module):
    """Places as words, whose vectors are added."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[2]) + 2
        return x + self.head(self.table(places)).mT


RULES = {"aten.embedding": embedding}
OPERATIONS: dict[str, tuple[str, ...]] = {}
LINKS = ("one_hot",)
EXAMPLES = {"aten.embedding": ((4, 5), _Words)}
