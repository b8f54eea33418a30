"""A function of tensors recorded once as a CUDA graph: hundreds of kernels then start with one launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_WARM_UP = 3  # calls before the recording, in which libraries choose algorithms and allocate


class Replay:
    """Calls of `run`, which gives one tensor: recorded at the first and replayed from then on.

    Every call must have inputs of the same shapes and the same `run`, which must launch the same kernels whatever the
    inputs' values. Each result lies in the same memory as the one before. `run` is not kept, so that an object can hold
    the replay of its own method and still be freed, with its memory, as soon as nobody needs it.

    Args:
        state: what `run` changes in place beside its result; the calls before the recording leave it as it was.
    """

    def __init__(self, state: Iterable[Tensor]):
        self.state = list(state)
        self.inputs: list[Tensor] | None = None

    def __call__(self, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.inputs is None:
            self.inputs = [value.clone() for value in inputs]
            before = [value.clone() for value in self.state]
            self.replay, self.result = self._record(run, self.inputs)
            for value, old in zip(self.state, before, strict=True):
                value.copy_(old)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.replay()
        return self.result

    @staticmethod
    def _record(run: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Callable[[], None], Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                run(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run(*inputs)
        return graph.replay, result
