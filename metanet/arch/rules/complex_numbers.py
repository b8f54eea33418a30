"""Complex numbers: a pair of values, and its parts. What is done to them in between is done as to real numbers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from metanet.arch.call import Call, Rule
from metanet.arch.combine import combine
from metanet.arch.rules.parts import cat_of, taken
from metanet.arch.value import Value

PAIR = ("real", "imaginary")


def complex_(call: Call) -> Value:
    """aten.complex(real, imag)."""
    return combine(call, PAIR, [call["real"], call["imag"]])


def view_as_complex(call: Call) -> Value:
    """aten.view_as_complex(self [..., 2])."""
    x = call.activation("self")
    halves = (taken(call, x, len(x.axes) - 1, number, 1, 1) for number in (0, 1))
    return combine(call, PAIR, [replace(half, axes=half.axes[:-1], shared=True) for half in halves])


def view_as_real(call: Call) -> Value:
    """aten.view_as_real(self) -> [..., 2]."""
    x = replace(call.activation("self"), shared=True)
    halves = [call.operate(x, f"{part}_part") for part in PAIR]
    return cat_of(call, [replace(half, axes=(*half.axes, ())) for half in halves], len(x.axes))


def conjugate(call: Call) -> Value:
    """aten._conj(self), aten._conj_physical: the imaginary part with its other sign."""
    return call.operate(call.activation("self"), "conjugate")


def _part(part: str) -> Rule:
    def one(call: Call) -> Value:
        """aten.real(self), aten.imag(self)."""
        return call.operate(call.activation("self"), f"{part}_part")

    return one


def _rotated(x: Tensor) -> Tensor:
    """Places turned by an angle of their own, as rotary codes turn them."""
    turn = torch.polar(torch.ones(x.shape[2] // 2, dtype=x.dtype), torch.arange(x.shape[2] // 2, dtype=x.dtype))
    pairs = torch.view_as_complex(x.unflatten(2, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(2)


def _sum(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    one = torch.complex(x, x.tanh())
    return torch.view_as_real(one * function(one)).sum(-1)


RULES: dict[str, Rule] = {
    "aten.complex": complex_,
    "aten.view_as_complex": view_as_complex,
    "aten.view_as_real": view_as_real,
    **dict.fromkeys(("aten._conj", "aten._conj_physical", "aten.conj_physical"), conjugate),
    "aten.real": _part("real"),
    "aten.imag": _part("imaginary"),
}
OPERATIONS: dict[str, tuple[str, ...]] = {"real_part": (), "imaginary_part": (), "conjugate": ()}
LINEAR = tuple(OPERATIONS)
LINKS = PAIR
EXAMPLES = {
    "aten.complex": ((4, 6), lambda: lambda x: torch.complex(x, x.tanh()).abs()),
    "aten.view_as_complex": ((4, 6), lambda: _rotated),
    **{
        f"aten.{name}": ((4, 6), partial(lambda name: lambda x: _sum(getattr(torch.ops.aten, name), x), name))
        for name in ("_conj", "_conj_physical", "conj_physical", "real", "imag")
    },
    "aten.view_as_real": ((4, 6), lambda: lambda x: torch.view_as_real(torch.complex(x, x.tanh())).flatten(2)),
}
