"""What the channels of a net's layers say to data: heard at the operators that compute them from a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from metanet.arch.symmetry import StateDict


def responses(net: nn.Module, state: StateDict, batch: Tensor) -> dict[tuple[str, int], Float[Tensor, "channels _"]]:
    """What each layer writes for a batch, before norm and activation: (weight, its axis of channels) -> responses."""
    copies = {name: value.detach().clone() for name, value in state.items()}  # so that each has memory of its own
    listener = _Listener({value.untyped_storage().data_ptr(): (name, value) for name, value in copies.items()})
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it computes a whole transformer layer in one operator
    try:
        with torch.no_grad(), listener:
            functional_call(net, copies, (batch,))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return listener.heard


class _Listener(TorchDispatchMode):
    """Keeps the outputs of the operators that compute channels from a whole weight."""

    def __init__(self, weights: Mapping[int, tuple[str, Tensor]]):
        super().__init__()
        self.weights = weights  # address of its memory -> name, values
        self.heard: dict[tuple[str, int], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        place = _WEIGHTS.get(func.overloadpacket)
        if place is not None and (known := self.weights.get(args[place].untyped_storage().data_ptr())) is not None:
            axes = _channels(func.overloadpacket, args, known[1])
            if axes is not None:
                self.heard[known[0], axes[0]] = out.movedim(axes[1], 0).flatten(1).double().cpu()
        return out


# operator -> place of the weight among its arguments
_WEIGHTS = {
    torch.ops.aten.addmm: 2,
    torch.ops.aten.mm: 1,
    torch.ops.aten.bmm: 1,
    torch.ops.aten.convolution: 1,
    torch.ops.aten.embedding: 0,
}


def _channels(operator: Any, args: Sequence[Any], weight: Tensor) -> tuple[int, int] | None:
    """The axis of the weight that holds the channels, and the one of the output; None if it is not clear."""
    if operator is torch.ops.aten.embedding:
        return 1, -1
    if operator is torch.ops.aten.convolution:
        transposed, groups = args[6], args[8]
        return None if transposed and groups > 1 else (int(transposed), 1)
    used = args[_WEIGHTS[operator]]
    if operator is torch.ops.aten.bmm:  # one weight for the whole batch
        if used.stride(0) != 0:
            return None
        used = used[0]
    for axis, whole in ((0, weight.mT), (1, weight)) if weight.ndim == 2 else ():
        if used.shape == whole.shape and used.stride() == whole.stride():
            return axis, -1
    return None
