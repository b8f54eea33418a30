"""Rows of a table by words of the input, places of an axis by the code."""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from metanet.arch import layout
from metanet.arch.axes import fixed, select
from metanet.arch.call import Call
from metanet.arch.layout import REPEAT, Dim
from metanet.arch.rules.ranking import laid
from metanet.arch.rules.reduction import reduced
from metanet.arch.template import Block
from metanet.arch.value import Value


def embedding(call: Call) -> Value | Tensor:
    """aten.embedding(weight [rows, channels], indices [*]) -> [*, channels]."""
    weight, indices = call.entry("weight"), call["indices"]
    if isinstance(indices, Tensor):
        return _rows(call, weight, indices)
    return rows(call, weight, call.activation("indices"))


def embedding_bag(call: Call) -> list[Value]:
    """aten.embedding_bag(weight [rows, channels], indices [words of all bags], offsets [bags], ..., mode)."""
    weight, indices, offsets = call.entry("weight"), call["indices"], call["offsets"]
    count, bags = indices.shape[0], len(offsets)
    regular = isinstance(offsets, Tensor) and bags and torch.equal(offsets, torch.arange(0, count, -(-count // bags)))
    if not regular or count % bags or call["per_sample_weights"] is not None or call["padding_idx"] not in (None, -1):
        raise call.unsupported("there is a rule for bags of one size only, without weights of their words or padding")
    y = _rows(call, weight, indices) if isinstance(indices, Tensor) else rows(call, weight, call.activation("indices"))
    y = call.active(y)
    words = replace(y, axes=layout.reshape(y.axes, (bags, count // bags, weight.shape[1])))
    return [reduced(call, words, [1], ("sum", "mean", "amax")[call["mode"]], keep=False)]


def rows(call: Call, weight: Value, ids: Value) -> Value:
    """Rows of a table [rows, channels] that numbers of the input choose."""
    ids = laid(call, ids, range(len(ids.axes)))
    if weight.shape != weight.sizes:
        raise call.unsupported("there is a rule for a whole table only")
    count, channels = weight.shape
    call.pin(call.axis(weight, 0))
    words = call.write(fixed(count), -1, (*ids.shape, count))
    call.link("one_hot", ids, words, sources=(0,) * count, attributes={"layout": ids.layout(ids.axes)})
    y = call.write(call.axis(weight, 1), -1, (*ids.shape, channels))
    block = Block(weight.home.name, 0, 0, "linear", (channels, count, 1), (), "i o -> o i 1")
    call.block(block, words, y)
    return y


def _rows(call: Call, weight: Value, indices: Tensor) -> Value | Tensor:
    """Rows that the code fixes: a view of the table, if they are a strided walk through it."""
    axes = []
    for dim, size in enumerate(indices.shape):
        steps = indices.diff(dim=dim).reshape(-1)
        step = int(steps[0]) if size > 1 else 0
        if step < 0 or bool((steps != step).any()):
            return chosen(call, weight, 0, indices)
        axes.append(() if size == 1 else (Dim(0, step, size) if step else Dim(REPEAT, 1, size),))
    first = int(indices.reshape(-1)[0])
    return replace(weight, axes=(*axes, weight.axes[1]), starts=(first, *weight.starts[1:]))


def chosen(call: Call, x: Value, dim: int, indices: Tensor) -> Value | Tensor:
    """The positions or channels on an axis that the code chooses, [*indices] in their place; nothing of a size of 0."""
    if not indices.numel():
        return torch.zeros([*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :]])
    x = call.active(x)
    if x.shape[dim] == 1:  # there is nothing to choose
        again = tuple((Dim(REPEAT, 1, size),) if size > 1 else () for size in indices.shape)
        return replace(x, axes=(*x.axes[:dim], *again, *x.axes[dim + 1 :]))
    call.decide(x, [axis for axis in range(len(x.sizes)) if axis not in {one.axis for one in x.axes[dim]}])
    if x.carries(dim):
        return _channels(call, x, dim, indices)
    x = call.settled(x)
    home, count = x.axes[dim][0].axis, indices.numel()
    table = hashlib.sha256(indices.to(torch.int64).contiguous().numpy().tobytes()).hexdigest()
    y = call.operate(x, "gather", axes=(x.positions.index(home),), table=table)
    split = split_axis((Dim(home, 1, count),) if count > 1 else (), indices)
    sizes = (*y.sizes[:home], count, *y.sizes[home + 1 :])
    return replace(y, sizes=sizes, axes=(*y.axes[:dim], *split, *y.axes[dim + 1 :]))


def _channels(call: Call, x: Value, dim: int, indices: Tensor) -> Value:
    """Channels that the code chooses; if it takes one of them twice, none of them moves."""
    x = call.flattened(call.alone(x, dim), dim)
    taken = indices.reshape(-1).numpy() % x.shape[dim]
    type_ = call.axis(x, dim)
    if len(set(taken.tolist())) < len(taken):
        call.pin(type_)
        type_ = fixed(len(taken))
    else:
        type_ = select(type_, taken)
    y = call.written(type_, (*x.shape[:dim], len(taken), *x.shape[dim + 1 :]), (dim,))
    nodes = x.node_numbers(x.axes[dim], [one.size for one in x.axes[dim]]).reshape(-1)[taken]
    text = x.layout([row for axis, row in enumerate(x.axes) if axis != dim])
    call.link("identity", x, y, nodes=nodes, attributes={"layout": text})
    split = split_axis(y.axes[dim], indices)
    return replace(y, axes=(*y.axes[:dim], *split, *y.axes[dim + 1 :]))


def split_axis(row: tuple[Dim, ...], indices: Tensor) -> layout.Axes:
    """The axis of the chosen places in the shape of their numbers."""
    return layout.reshape((row,), indices.shape)


class _Words(nn.Module):
    """Places as words, whose vectors are added."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[2]) + 2
        return x + self.head(self.table(places)).mT


class _Bags(nn.Module):
    """A bag of words for every place."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        words = torch.arange(3 * x.shape[2]).view(-1, 3) % 9
        return x + self.head(self.table(words)).mT


RULES = {
    "aten.embedding": embedding,
    "aten.embedding_bag": embedding_bag,
}
OPERATIONS = {"gather": ("axes", "table")}
LINEAR = ("gather",)
LINKS = ("one_hot",)
EXAMPLES = {
    "aten.embedding": ((4, 5), _Words),
    "aten.embedding_bag": ((4, 5), _Bags),
}
