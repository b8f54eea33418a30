"""Weight matrices: y = x W^T + b over one axis. A flattened grid in front of it becomes the taps of its edges."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from metanet.arch.call import Call
from metanet.arch.combine import combine
from metanet.arch.homes import lain
from metanet.arch.layout import REPEAT, Dim, Misaligned, expand, extent, refine, row_major
from metanet.arch.rules.arithmetic import join
from metanet.arch.template import Block
from metanet.arch.value import Entry, Value, draft_of, grid


def linear(call: Call) -> Value | Tensor:
    """aten.linear(input [*, in], weight [out, in], bias [out] | None) -> [*, out]."""
    if _is_zero(call["input"]) or _is_zero(call["weight"]):
        return torch.zeros(call.shape) if call["bias"] is None else _expanded(call["bias"], call.shape)
    y = product(call, call.activation("input"), call["weight"], call.shape)
    return y if call["bias"] is None else biased(call, y, call["bias"])


def _is_zero(value: Value | Tensor) -> bool:
    return isinstance(value, Tensor) and not bool(value.any())


def _expanded(bias: Value | Tensor, shape: Sequence[int]) -> Value | Tensor:
    if isinstance(bias, Tensor):
        return bias.expand(*shape)
    return replace(bias, axes=expand(bias.axes, shape), storage=None)


def addmm(call: Call) -> Value | Tensor:
    """aten.addmm(self, mat1 [n, in], mat2 [in, out], beta, alpha), as the Conv1D of GPT-2 uses it."""
    if call["beta"] != 1 or call["alpha"] != 1:
        raise call.unsupported("there is a rule for beta = alpha = 1 only")
    if _is_zero(call["mat1"]):
        return _expanded(call["self"], call.shape)
    return biased(call, matrices(call, call["mat1"], call["mat2"]), call["self"])


def matmul(call: Call) -> Value:
    """aten.matmul(self, other), aten.mm, aten.bmm."""
    return matrices(call, call["self"], call["other"] if "other" in call.arguments else call["mat2"])


def mv(call: Call) -> Value:
    """aten.mv(self [n, in], vec [in])."""
    return matrices(call, call["vec"], _swapped(call["self"]))


def dot(call: Call) -> Value:
    """aten.dot(self [in], other [in]), aten.vdot of real numbers."""
    return matrices(call, call["self"], call["other" if "other" in call.arguments else "tensor"])


def _swapped(matrix: Value | Tensor) -> Value | Tensor:
    return matrix.mT if isinstance(matrix, Tensor) else replace(matrix, axes=matrix.axes[::-1])


def matrices(call: Call, left: Value | Tensor, right: Value | Tensor) -> Value:
    """left @ right; a matrix of parameters on the right is a layer."""
    if isinstance(right, Value) and isinstance(right.home, Entry) and len(right.axes) == 2 and not _is_weight(left):
        return product(call, call.active(left), replace(right, axes=right.axes[::-1]), call.shape)
    ranks = [len(one.shape) for one in (left, right)]
    batch = "abcdefgh"[: max(*ranks, 2) - 2]
    first = batch[len(batch) - ranks[0] + 2 :] + "ik" if ranks[0] > 1 else "k"
    second = batch[len(batch) - ranks[1] + 2 :] + "kj" if ranks[1] > 1 else "k"
    out = batch + "i" * (ranks[0] > 1) + "j" * (ranks[1] > 1)
    return combine(call, ["matmul", "matmul_right"], [left, right], [first, second], out)


def _is_weight(value: Value | Tensor) -> bool:
    """Whether it is a matrix of parameters, or a function of them: the product of two makes a weight, of low rank."""
    if not isinstance(value, Value) or len(value.axes) != 2:
        return False
    return isinstance(value.home, Entry) or (value.home.entry is not None and value.home.undecided is not None)


def biased(call: Call, y: Value, bias: Value | Tensor) -> Value:
    """y plus a bias along its last axis: the bias of a layer where that axis holds its channels."""
    axis = len(y.axes) - 1
    plain = all(y.is_node(dim) for dim in y.axes[axis]) and not any(y.carries(k) for k in range(axis))
    if not plain or not isinstance(bias, Value) or bias.entry is None or len(bias.axes) != 1:
        return join(call, "add", y, bias)
    call.equate(call.axis(bias, 0), call.channels(y, axis))
    return call.operate(call.vector(y, axis, {"bias": bias}), "bias")


def product(call: Call, x: Value, weight: Value | Tensor, shape: Sequence[int]) -> Value:
    """x [*, in] times weight [out, in]: a block where the channels of x are summed over, else a product of values."""
    axis = len(x.axes) - 1
    if x.carries(axis):
        x = lain(call, x, range(axis))
    carried = any(x.carries(k) for k in range(axis))
    if isinstance(weight, Value) and isinstance(weight.home, Entry) and not carried:
        return weigh(call, x, axis, weight, shape)
    batch = "abcdefgh"[:axis]
    return combine(call, ["matmul", "matmul_right"], [x, weight], [batch + "k", "jk"], batch + "j")


def weigh(call: Call, x: Value, axis: int, weight: Value, shape: Sequence[int]) -> Value:
    """The output in a new space, its channels on the last axis; `weight` is a view [out, in] of an entry."""
    if any(dim.axis == REPEAT for dim in x.axes[axis]):
        x = call.copied(x)
    into, inner, out = call.channels(x, axis), call.axis(weight, 1), call.axis(weight, 0)
    call.equate(into, inner)
    call.scope(out, inner)
    try:
        reads, columns = refine([x.axes[axis], weight.axes[1]])
    except Misaligned as error:
        raise call.unsupported(f"the weight lies otherwise than what it reads: {error}") from error
    nodes = sorted((k for k, dim in enumerate(reads) if x.is_node(dim)), key=lambda k: -_weight(x, reads[k]))
    order = x.node_numbers([reads[k] for k in nodes], [reads[k].size for k in nodes]).reshape(-1)
    if len(order) != draft_of(x).type.size or (order != np.arange(len(order))).any():
        return weigh(call, call.copied(x), axis, weight, shape)
    y = call.write(out, -1, shape)
    taps = [k for k, dim in enumerate(reads) if not x.is_node(dim)]
    letters = [row for k, row in enumerate(x.axes) if k != axis] + [[reads[k]] for k in taps]
    pattern, sizes, slices = _pattern(call, weight, columns, nodes, taps)
    positions = math.prod(reads[k].size for k in taps)
    text = x.layout(letters)
    block = Block(
        *(weight.home.name, 0, 0, "flatten" if taps else "linear"),
        shape=(out.size, len(order), positions),
        taps=grid([reads[k].size for k in taps]),
        pattern=pattern,
        axes=sizes,
        attributes={"layout": text} if text else {},
        slices=slices,
    )
    call.block(block, x, y)
    return y


def _weight(x: Value, dim: Dim) -> int:
    return row_major(x.sizes, x.nodes)[dim.axis] * dim.stride


def _pattern(
    call: Call, weight: Value, columns: Sequence[Dim], nodes: Sequence[int], taps: Sequence[int]
) -> tuple[str, dict[str, int], tuple[tuple[int, int], ...]]:
    """The einops pattern from the entry's own axes to "out in taps", the sizes that it needs, and the entry's part."""
    rows = list(weight.axes[0])
    runs: list[list[Dim]] = []  # taps that lie behind each other in the entry are one letter
    for number, k in enumerate(taps):
        dim = columns[k]
        last = runs[-1][-1] if runs else None
        joined = last and taps[number - 1] == k - 1 and last.axis == dim.axis and last.stride == dim.stride * dim.size
        if joined:
            runs[-1].append(dim)
        else:
            runs.append([dim])
    joint = [Dim(run[-1].axis, run[-1].stride, extent(run)) for run in runs]
    named = {
        **_named("o", rows),
        **_named("i", [columns[k] for k in nodes]),
        **_named("t", joint),
    }
    own, slices = [], []
    for axis in range(len(weight.sizes)):
        mine = sorted(((dim, name) for name, dim in named.items() if dim.axis == axis), key=lambda one: -one[0].stride)
        inner = 1
        for dim, _ in reversed(mine):
            if dim.stride != inner:
                raise call.unsupported("it reads a part of a parameter that is no range of each of its axes")
            inner *= dim.size
        own.append(f"({' '.join(name for _, name in mine)})" if len(mine) != 1 else mine[0][1])
        slices.append((weight.starts[axis], weight.starts[axis] + inner))
    whole = all(part == (0, size) for part, size in zip(slices, weight.sizes, strict=True))
    groups = ["o", "i", "t"]
    right = [_group([name for name in named if name[0] == group]) for group in groups]
    needed = {name: dim.size for name, dim in named.items() if name not in ("o", "i")}
    return f"{' '.join(own)} -> {' '.join(right)}", needed, () if whole else tuple(slices)


def _named(letter: str, dims: Sequence[Dim]) -> dict[str, Dim]:
    return {letter if len(dims) == 1 else f"{letter}{k}": dim for k, dim in enumerate(dims)}


def _group(names: Sequence[str]) -> str:
    return "1" if not names else names[0] if len(names) == 1 else f"({' '.join(names)})"


class _Conv1D(nn.Module):
    """The linear layer of GPT-2."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class _Attend(nn.Module):
    """x^T x as attention without softmax, of the channels or of the places."""

    def __init__(self, product: str):
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        function = getattr(torch, self.product)
        return function(x, function(x.mT, x.tanh()))


class _Matrix(nn.Module):
    """The function of an input and a square matrix."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


RULES = {
    "aten.linear": linear,
    "aten.addmm": addmm,
    **dict.fromkeys(("aten.matmul", "aten.mm", "aten.bmm"), matmul),
    **dict.fromkeys(("aten.dot", "aten.vdot"), dot),
    "aten.mv": mv,
}
OPERATIONS: dict[str, tuple[str, ...]] = {}
LINKS = ("matmul", "matmul_right")
EXAMPLES = {
    "aten.linear": ((4,), lambda: nn.Linear(4, 5)),
    "aten.addmm": ((4,), _Conv1D),
    "aten.matmul": ((4, 5), lambda: _Attend("matmul")),
    "aten.mm": ((3,), lambda: _Matrix(torch.mm)),
    "aten.mv": ((3,), lambda: _Matrix(lambda x, w: x * torch.mv(w, x.mean(0)))),
    "aten.dot": ((3,), lambda: lambda x: x * torch.dot(x[0], x[1].tanh())),
    "aten.vdot": ((3,), lambda: lambda x: x * torch.vdot(x[0], x[1].tanh())),
    "aten.bmm": ((4, 5), lambda: _Attend("bmm")),
}
