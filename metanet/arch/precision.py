"""A net's function in float64, whatever precision its code asks for inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_LOWER = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = {getattr(Tensor, name): Tensor.double for name in ("float", "half", "bfloat16")}


_GROUPED = ("grouped_mm", "_grouped_mm")


def _grouped(rows: Tensor, weight: Tensor, *, offs: Tensor, **unused: None) -> Tensor:
    """What torch computes in lower precision only: the rows of each group times its matrix."""
    assert not any(unused.values()), unused
    starts = [0, *offs.tolist()]
    return torch.cat([rows[start:end] @ one for start, end, one in zip(starts, starts[1:], weight, strict=False)])


class Double(TorchFunctionMode):
    """Within it calls that ask for a lower precision get float64: norms, rotations and time steps often do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        writes = getattr(func, "__name__", "").endswith("_")

        def doubled(one: Any) -> Any:
            if isinstance(one, torch.dtype):
                return torch.float64 if one in _LOWER else one
            low = isinstance(one, Tensor) and one.dtype in _LOWER and not writes
            return one.double() if low else one  # a tensor that the module holds outside of its buffers

        args, kwargs = tree_map(doubled, (args, kwargs or {}))
        call: Any = _grouped if getattr(func, "__name__", "") in _GROUPED else _CASTS.get(func, func)
        return call(*args, **kwargs)

    def __enter__(self) -> Double:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(self.before)
        super().__exit__(*error)
