"""What a step of a stack may overwrite, and activations that do: they have half the memory traffic of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metanet.zoo.nets import ACTIVATIONS

_aten = torch.ops.aten


@dataclass(frozen=True)
class Memory:
    """Of one step."""

    spare: bool  # its first input is read by nothing else
    own_gradient: bool  # the gradient of what it gives is read by nothing else
    then: str | None = None  # the activation of the next step, which this one does too
    done: bool = False  # its work is done already, by the step before


# name -> (x -> y in the memory of x, (gradient, y, memory to write to) -> gradient)
# not elu, whose slope is lost where it is nearly -1
_OVERWRITING: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu_, lambda g, y, out: _aten.threshold_backward.grad_input(g, y, 0, grad_input=out)),
    "leaky_relu": (
        F.leaky_relu_,
        lambda g, y, out: _aten.leaky_relu_backward.grad_input(g, y, 0.01, True, grad_input=out),
    ),
    "sigmoid": (torch.sigmoid_, lambda g, y, out: _aten.sigmoid_backward.grad_input(g, y, grad_input=out)),
    "tanh": (torch.tanh_, lambda g, y, out: _aten.tanh_backward.grad_input(g, y, grad_input=out)),
}
FUSED = ("relu",)  # what oneDNN does to the values of a convolution before they leave the registers


def activated(name: str, x: Tensor, memory: Memory) -> Tensor:
    """The activation `name` of x."""
    if memory.spare and name in _OVERWRITING and not x._is_view():  # autograd copies what a view of is overwritten
        return _Overwriting.apply(x, name, memory)  # type: ignore[return-value]
    return ACTIVATIONS[name]()(x)


class _Overwriting(torch.autograd.Function):
    """An activation in the memory of its input, and its gradient in that of the gradient it gets where it may."""

    @staticmethod
    def forward(ctx, x: Tensor, name: str, memory: Memory) -> Tensor:
        ctx.mark_dirty(x)
        ctx.backward_to, ctx.own_gradient = _OVERWRITING[name][1], memory.own_gradient
        y = x if memory.done else _OVERWRITING[name][0](x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (y,) = ctx.saved_tensors
        own = ctx.own_gradient and gradient.stride() == y.stride()
        return ctx.backward_to(gradient, y, gradient if own else torch.empty_like(y)), None, None
