"""Writing into parts of a tensor, as functions: `y[:, 1:] = x` returns y with other numbers in these places."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metanet.arch import layout
from metanet.arch.call import Call, Example, Rule
from metanet.arch.rules.comparison import choice, filled
from metanet.arch.rules.embedding import chosen
from metanet.arch.rules.parts import cat_of, taken
from metanet.arch.rules.picking import LETTERS, NEW, written
from metanet.arch.value import Value


def copy(call: Call) -> Value | Tensor:
    """aten.copy(self, src): src in the shape of self."""
    return _spread(call, "src", call.shape)


def fill(call: Call) -> Value | Tensor:
    """aten.fill(self, value): one number everywhere."""
    return _spread(call, "value", call.shape)


def _spread(call: Call, name: str, shape: tuple[int, ...]) -> Value | Tensor:
    """An argument, repeated up to a shape."""
    source, before, after = call[name], call.dtypes.get(name), call.dtypes.get("")
    if before is not None and after is not None and before.is_floating_point and not after.is_floating_point:
        raise call.unsupported(f"there is no rule for writing {before} into a tensor of {after}")
    if not isinstance(source, Value):
        return torch.as_tensor(source).expand(shape)
    return replace(source, axes=layout.expand(source.axes[max(len(source.axes) - len(shape), 0) :], shape))


def slice_scatter(call: Call) -> Value | Tensor:
    """aten.slice_scatter(self, src, dim, start, end, step)."""
    dim = call["dim"] % len(call.shape)
    start, end, step = slice(call["start"], call["end"], call["step"]).indices(call.shape[dim])
    return placed(call, call["self"], call["src"], dim, range(start, end, step))


def select_scatter(call: Call) -> Value | Tensor:
    """aten.select_scatter(self, src, dim, index)."""
    dim = call["dim"] % len(call.shape)
    place, src = call["index"] % call.shape[dim], call["src"]
    rows = src.unsqueeze(dim) if isinstance(src, Tensor) else replace(src, axes=(*src.axes[:dim], (), *src.axes[dim:]))
    return placed(call, call["self"], rows, dim, range(place, place + 1))


def placed(call: Call, base: Value | Tensor, src: Value | Tensor, dim: int, places: range) -> Value | Tensor:
    """The base, but the source at these places of an axis: parts behind each other, and sorted if they interleave."""
    size = call.shape[dim]
    if len(places) == size and places.step == 1:
        return call.active(src)
    if not places:
        return call.active(base)
    if places.step == 1 or len(places) == 1:
        ends = (range(places.start), range(places[-1] + 1, size))
        first, last = (_at(call, base, dim, np.array(end, dtype=np.int64)) for end in ends)
        return cat_of(call, [first, src, last], dim)
    others = np.setdiff1d(np.arange(size), places)
    joined = cat_of(call, [_at(call, base, dim, others), src], dim)
    order = np.argsort(np.concatenate([others, np.array(places)]))
    return chosen(call, replace(joined, shared=True), dim, torch.from_numpy(order))


def _at(call: Call, base: Value | Tensor, dim: int, places: np.ndarray) -> Value | Tensor:
    if isinstance(base, Tensor):
        return base.index_select(dim, torch.from_numpy(places))
    if not len(places):
        return torch.zeros([*base.shape[:dim], 0, *base.shape[dim + 1 :]])
    steps = np.unique(np.diff(places))
    if len(steps) <= 1:
        step = int(steps[0]) if len(steps) else 1
        return replace(taken(call, base, dim, int(places[0]), step, len(places)), shared=True)
    return chosen(call, replace(base, shared=True), dim, torch.from_numpy(places))


def index_put(call: Call) -> Value | Tensor:
    """aten.index_put(self, indices, values, accumulate): one number where a mask holds, or places of an axis."""
    if call["accumulate"]:
        raise call.unsupported("there is a rule for writing only, not for adding")
    given = [(dim, one) for dim, one in enumerate(call["indices"]) if one is not None]
    number = call["values"] if isinstance(call["values"], Tensor) and call["values"].numel() == 1 else None
    if number is not None and len(given) > 1 and all(isinstance(one, Tensor) for _, one in given):
        mask = torch.zeros(call.shape, dtype=torch.bool)
        mask[tuple(slice(None) if one is None else one for one in call["indices"])] = True
        return filled(call, call["self"], mask, number.item())
    if len(given) != 1:
        raise call.unsupported("there is a rule for writing into places of one axis only")
    (dim, where), values = given[0], call["values"]
    if call.dtypes.get("indices") == torch.bool:
        if math.prod(values.shape) != 1 or len(where.shape) != len(call.shape):
            raise call.unsupported("there is a rule for one number where a mask of the same shape holds only")
        if isinstance(where, Value) or isinstance(values, Value):
            return choice(call, where, values, call["self"])
        return filled(call, call["self"], where, values.item())
    if isinstance(where, Value) and len(where.shape) == 1:
        letters = LETTERS[:dim] + NEW[0] + LETTERS[dim + 1 : len(call.shape)]
        source = _spread(call, "values", (*call.shape[:dim], *where.shape, *call.shape[dim + 1 :]))
        return written(call, "scattered", call["self"], source, dim, where, letters, NEW[0])
    if not isinstance(where, Tensor) or where.ndim != 1:
        raise call.unsupported("there is a rule for one axis whose places the code chooses only")
    places = where.numpy() % call.shape[dim]
    if len(set(places.tolist())) < len(places):
        raise call.unsupported("it writes into one place twice")
    values = _spread(call, "values", (*call.shape[:dim], len(places), *call.shape[dim + 1 :]))
    others = np.setdiff1d(np.arange(call.shape[dim]), places)
    joined = cat_of(call, [_at(call, call["self"], dim, others), values], dim)
    order = np.argsort(np.concatenate([others, places]))
    return chosen(call, replace(joined, shared=True), dim, torch.from_numpy(order))


def _assigned(write: Callable[[Tensor, Tensor], object]) -> Callable[[], Callable[[Tensor], Tensor]]:
    def function(x: Tensor) -> Tensor:
        y = x.tanh()
        write(y, x)
        return y

    return lambda: function


def _interleave(y: Tensor, x: Tensor) -> None:
    y[:, ::2] = 2 * x[:, ::2]
    y[:, :, 1:3] = x[:, :, :2]


def _select(y: Tensor, x: Tensor) -> None:
    y[:, :, 2] = x.mean(2)


def _mask(y: Tensor, x: Tensor) -> None:
    y[:, :, x.mean((0, 1)).argsort()] = x.sin()
    y[x > 0.5] = -1.0
    y[:, :, torch.tensor([3, 0])] = x[:, :, 1:3]


RULES: dict[str, Rule] = {
    "aten.copy": copy,
    "aten.fill": fill,
    "aten.slice_scatter": slice_scatter,
    "aten.select_scatter": select_scatter,
    **dict.fromkeys(("aten.index_put", "aten._unsafe_index_put"), index_put),
}
OPERATIONS: dict[str, tuple[str, ...]] = {}
LINKS = ()
EXAMPLES: dict[str, Example] = {
    "aten.copy": ((4, 5), _assigned(_interleave)),
    "aten.fill": ((4, 5), _assigned(lambda y, x: y[:, :, 1:2].fill_(0.5))),
    "aten.slice_scatter": ((4, 5), _assigned(_interleave)),
    "aten.select_scatter": ((4, 5), _assigned(_select)),
    "aten.index_put": ((4, 5), _assigned(_mask)),
    "aten._unsafe_index_put": (
        (4, 5),
        lambda: lambda x: torch.ops.aten._unsafe_index_put(x, [None, None, torch.tensor([2, 0])], x[:, :, 3:]),
    ),
}
