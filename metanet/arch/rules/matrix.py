"""Functions of matrices (inverse, exponential, factors, solutions): one kind, whose table names the function.

The two axes of a matrix are positions, which stay where they are; channels there become fixed positions. What is
around the matrices (samples, heads) keeps its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metanet.arch.call import Call, Example, Rule
from metanet.arch.combine import combine
from metanet.arch.layout import whole
from metanet.arch.rules.ranking import laid
from metanet.arch.value import Entry, Value

# operator -> its arguments that shape the result, and how many results it has
OF_ONE: dict[str, tuple[tuple[str, ...], int]] = {
    **dict.fromkeys(("matrix_exp", "linalg_matrix_exp", "linalg_inv", "inverse", "linalg_det"), ((), 1)),
    **dict.fromkeys(("det", "logdet"), ((), 1)),
    **dict.fromkeys(("linalg_slogdet", "slogdet", "linalg_eigh"), ((), 2)),
    **dict.fromkeys(("linalg_eigvalsh", "linalg_cholesky"), ((), 1)),
    "linalg_qr": (("mode",), 2),
    "linalg_svd": (("full_matrices",), 3),
    "linalg_svdvals": ((), 1),
    "linalg_pinv": ((), 1),
}
OF_TWO = ("linalg_solve", "linalg_solve_triangular")
Some = Value | Tensor


def of_one(call: Call) -> Value | list[Callable[[], Value]]:
    """aten.linalg_inv(A [..., rows, columns]), ...: each of its results is a step of its own."""
    name = call.operator.removeprefix("aten.")
    given, count = OF_ONE[name]
    source = next(iter(call.arguments.values()))
    x = lying(call, call.active(source), 2)
    x = replace(x, shared=True) if count > 1 else x
    text = " ".join([name, *(str(call[one]) for one in given), *(_numbers(call))])
    shapes = _shapes(call, x.shape)
    results = [partial(_step, call, x, f"{text} {k}" if count > 1 else text, shapes[k]) for k in range(count)]
    return results if count > 1 else results[0]()


def _numbers(call: Call) -> list[str]:
    """Its other arguments, which are numbers or flags; what is a value there is refused."""
    _, *others = call.arguments
    if wrong := [name for name in others if isinstance(call[name], Value | Tensor)]:
        raise call.unsupported(f"there is no rule for its argument {wrong[0]!r}")
    return [f"{name}={call[name]}" for name in others if call[name] is not None]


def _shapes(call: Call, shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes of its results, as torch says them."""
    _, *others = call.arguments
    operator = getattr(torch.ops.aten, call.operator.removeprefix("aten."))
    results = operator(torch.eye(*shape[-2:]).expand(shape).clone(), **{name: call[name] for name in others})
    return [tuple(one.shape) for one in (results if isinstance(results, tuple | list) else [results])]


def _step(call: Call, x: Value, name: str, shape: Sequence[int]) -> Value:
    nodes = tuple(axis for axis in range(len(x.axes)) if x.carries(axis))
    ranks = tuple(x.positions.index(axis) for axis in range(len(x.axes) - 2, len(x.axes)))
    y = call.operate(x, "matrix", axes=ranks, table=name)
    return replace(y, sizes=tuple(shape), axes=whole(shape), starts=(0,) * len(shape), written=nodes)


def lying(call: Call, x: Value, rank: int) -> Value:
    """The value, settled, whose last axes are positions; the others of a parameter may be nodes."""
    first = len(x.axes) - rank
    if isinstance(x.home, Entry) or x.home.entry is not None:
        call.decide(x, [dim.axis for row in x.axes[:first] for dim in row])
    x = call.settled(laid(call, x, range(first, len(x.axes))))
    nodes = tuple(axis for axis in range(first) if x.carries(axis))
    return replace(x, sizes=x.shape, axes=whole(x.shape), starts=(0,) * len(x.shape), written=nodes)


def solve(call: Call) -> Value:
    """aten.linalg_solve(A, B, left), aten.linalg_solve_triangular(self, B, upper, left, unitriangular)."""
    left, right = (call[name] for name in list(call.arguments)[:2])
    others = [name for name in list(call.arguments)[2:] if not isinstance(call[name], Value | Tensor)]
    text = " ".join([call.operator, *(f"{name}={call[name]}" for name in others)])
    if not call["left"]:
        raise call.unsupported("there is a rule for left=True only")
    vector = len(right.shape) == 1 or tuple(right.shape) == tuple(left.shape[:-1])
    return _together(call, left, right, "" if vector else "k", text)


def householder(call: Call) -> Value:
    """aten.linalg_householder_product(input [..., rows, columns], tau [..., columns])."""
    x, tau = (_lying(call, call[name], rank) for name, rank in (("input", 2), ("tau", 1)))
    batch = "abcdefgh"[: len(x.shape) - 2]
    y = combine(call, ["first", "second"], [x, tau], [batch + "ij", batch + "j"], batch + "ij")
    return call.operate(y, "matrix", axes=(), table="householder_product")


def _lying(call: Call, x: Some, rank: int) -> Some:
    return x if isinstance(x, Tensor) else lying(call, call.active(x), rank)


def _together(call: Call, left: Some, right: Some, columns: str, name: str) -> Value:
    left, right = _lying(call, left, 2), _lying(call, right, 1 + len(columns))
    rank = max(len(left.shape) - 2, len(right.shape) - 1 - len(columns))
    batch = "abcdefgh"[:rank]
    first = batch[rank - len(left.shape) + 2 :] + "ij"
    second = batch[rank - len(right.shape) + 1 + len(columns) :] + "j" + columns
    y = combine(call, ["first", "second"], [left, right], [first, second], f"{batch}i{columns}")
    return call.operate(y, "matrix", axes=(), table=name)


class _Square(nn.Module):
    """x beside a function of square matrices, which a layer makes of it."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function, self.make = function, nn.Linear(4, 9)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.make(x.mean(2)).unflatten(1, (3, 3))
        made = self.function(matrix @ matrix.mT + torch.eye(3))
        return x + made.reshape(len(x), -1).sum(1)[:, None, None]


def _householder(matrix: Tensor) -> Tensor:
    return torch.linalg.householder_product(matrix.tril(), matrix[:, 0].tanh())


_EXAMPLES: dict[str, Callable[[Tensor], Any]] = {
    **{name: partial(getattr(torch.ops.aten, name)) for name in OF_ONE},
    "linalg_svd": lambda x: torch.linalg.svd(x)[1],
    "linalg_solve": lambda x: torch.linalg.solve(x, x.tanh()),
    "linalg_solve_triangular": lambda x: torch.linalg.solve_triangular(x, x.tanh(), upper=True),
    "linalg_householder_product": _householder,
}


def _first(name: str) -> Callable[[Tensor], Tensor]:
    def first(x: Tensor) -> Tensor:
        result = _EXAMPLES[name](x)
        return result if isinstance(result, Tensor) else result[-1] if name != "linalg_eigh" else result[0]

    return first


RULES: dict[str, Rule] = {
    **{f"aten.{name}": of_one for name in OF_ONE},
    **{f"aten.{name}": solve for name in OF_TWO},
    "aten.linalg_householder_product": householder,
}
OPERATIONS = {"matrix": ("axes", "table")}
LINKS = ("first", "second")
EXAMPLES: dict[str, Example] = {f"aten.{name}": ((4, 5), lambda name=name: _Square(_first(name))) for name in _EXAMPLES}
