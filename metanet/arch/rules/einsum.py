"""Sums of products with letters for axes: einsum and bilinear layers."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from metanet.arch import layout
from metanet.arch.call import Call
from metanet.arch.combine import combine
from metanet.arch.rules.linear import biased, weigh
from metanet.arch.rules.picking import diagonal_of
from metanet.arch.value import Entry, Value


def einsum(call: Call) -> Value:
    """aten.einsum(equation, tensors): two operands at a time, from the left."""
    operands = list(call["tensors"])
    letters, out = _letters(call["equation"], [len(one.shape) for one in operands])
    for number, names in enumerate(letters):
        operands[number], letters[number] = _without_repeats(call, operands[number], names)
    if len(operands) == 1:
        return combine(call, ["sum"], operands, letters, out)
    if len(operands) > 2:  # those that the code fixes are no pair of their own
        order = sorted(range(len(operands)), key=lambda k: isinstance(operands[k], Tensor))
        operands, letters = [operands[k] for k in order], [letters[k] for k in order]
    while len(operands) > 2:
        needed = set(out).union(*letters[2:])
        both = "".join(name for name in dict.fromkeys(letters[0] + letters[1]) if name in needed)
        operands[:2] = [_pair(call, operands[:2], letters[:2], both)]
        letters[:2] = [both]
    return _pair(call, operands, letters, out)


def _without_repeats(call: Call, operand: Value | Tensor, names: str) -> tuple[Value | Tensor, str]:
    """The diagonals along axes of one letter."""
    for name in dict.fromkeys(names):
        while names.count(name) > 1:
            one, other = names.index(name), names.rindex(name)
            if isinstance(operand, Tensor):
                operand = operand.diagonal(0, one, other)
            else:
                operand = diagonal_of(call, operand, one, other)
            names = "".join(letter for k, letter in enumerate(names) if k not in (one, other)) + name
    return operand, names


def _pair(call: Call, operands: list[Value | Tensor], letters: list[str], out: str) -> Value:
    """The product of two operands, summed over the letters that are not in `out`."""
    if isinstance(operands[0], Value) and isinstance(operands[0].home, Entry):
        operands, letters = operands[::-1], letters[::-1]
    x, weight = operands
    if isinstance(weight, Value) and isinstance(weight.home, Entry) and not isinstance(x, Tensor):
        x = call.active(x)
        summed = [name for name in letters[0] if name in letters[1] and name not in out]
        kept = [name for name in letters[0] if name not in summed]
        made = [name for name in letters[1] if name not in summed]
        carried = any(x.carries(letters[0].index(name)) for name in kept)
        if set(kept).isdisjoint(made) and set(kept + made) == set(out) and not carried and summed:
            return _layer(call, x, weight, letters, out, (kept, made, summed))
    return combine(call, ["matmul", "matmul_right"], [x, weight], letters, out)


def _layer(
    call: Call, x: Value, weight: Value, letters: list[str], out: str, names: tuple[list[str], list[str], list[str]]
) -> Value:
    """A parameter as a matrix [made, summed], read along the merged axes `summed`."""
    kept, made, summed = names
    sizes = dict(zip("".join(letters), x.shape + weight.shape, strict=True))
    own = [x.axes[letters[0].index(name)] for name in kept]
    merged = tuple(dim for name in summed for dim in x.axes[letters[0].index(name)])
    rows, columns = (
        tuple(dim for name in group for dim in weight.axes[letters[1].index(name)]) for group in (made, summed)
    )
    flat = [*(sizes[name] for name in kept), math.prod(sizes[name] for name in made)]
    y = weigh(call, replace(x, axes=(*own, merged)), len(own), replace(weight, axes=(rows, columns)), flat)
    order = kept + made
    axes = layout.reshape(y.axes, [sizes[name] for name in order])
    return replace(y, axes=tuple(axes[order.index(name)] for name in out))


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with letters of their own for what an ellipsis stands for."""
    given, _, out = equation.replace(" ", "").partition("->")
    parts = given.split(",")
    free = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    counts = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)]
    dots = free[: max(counts, default=0)]
    parts = [part.replace("...", "".join(dots[len(dots) - count :])) for part, count in zip(parts, counts, strict=True)]
    if "->" not in equation:
        once = sorted(letter for letter in set("".join(parts)) - set(dots) if "".join(parts).count(letter) == 1)
        return parts, "".join(dots) + "".join(once)
    return parts, out.replace("...", "".join(dots))


def bilinear(call: Call) -> Value:
    """aten.bilinear(input1 [*, i], input2 [*, j], weight [out, i, j], bias): a layer of a node per product."""
    left, right, weight = call.activation("input1"), call.activation("input2"), call.entry("weight")
    left, right = call.alone(left, -1), call.alone(right, -1)
    batch = "abcdefgh"[: len(left.axes) - 1]
    pairs = combine(call, ["bilinear", "bilinear_right"], [left, right], [batch + "i", batch + "j"], batch + "ij")
    merged = replace(pairs, axes=(*pairs.axes[:-2], pairs.axes[-2] + pairs.axes[-1]))
    y = weigh(
        call, merged, len(batch), replace(weight, axes=(weight.axes[0], weight.axes[1] + weight.axes[2])), call.shape
    )
    return y if call["bias"] is None else biased(call, y, call["bias"])


class _Projected(nn.Module):
    """x in heads, and back."""

    def __init__(self):
        super().__init__()
        self.into, self.back = nn.Parameter(torch.randn(2, 4, 3)), nn.Parameter(torch.randn(2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.einsum("bct,hcd->bhtd", x, self.into).tanh()
        scores = torch.einsum("...qd,...kd->...qk", heads, heads).softmax(-1)
        own = torch.einsum("bhqq->bq", scores)[..., None]
        return torch.einsum("bhqk,bhkd,hdc->bqc", scores, heads, self.back) * own


class _Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.pairs = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pairs(x, x.tanh())


RULES = {"aten.einsum": einsum, "aten.bilinear": bilinear}
OPERATIONS: dict[str, tuple[str, ...]] = {}
LINKS = ("bilinear", "bilinear_right")
EXAMPLES = {"aten.einsum": ((4, 5), _Projected), "aten.bilinear": ((4,), _Pairs)}
