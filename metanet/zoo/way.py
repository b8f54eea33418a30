"""How a device computes the groups: what changes how long they take and, at most, the rounding of their nets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from metanet.zoo.convolutions import VARIANTS


@dataclass(frozen=True)
class Way:
    """As it stands, that of a CPU."""

    convolution: str = "grouped"  # how convolutions are run, a name of convolutions.VARIANTS
    graphs: bool = False  # whether a group's forward and backward pass are recorded as a CUDA graph at its first step
    tf32: bool = False  # whether products and convolutions of float32 round their factors to tf32, which has 10 bits

    @contextlib.contextmanager
    def on(self, device: str) -> Iterator[None]:
        """Makes a GPU the current one, with what torch keeps for the whole process; puts it back afterwards.

        cuDNN tries its algorithms for every new shape and keeps the fastest.
        """
        if not device.startswith("cuda"):
            yield
            return
        cudnn = torch.backends.cudnn
        before = cudnn.allow_tf32, torch.get_float32_matmul_precision(), cudnn.benchmark
        try:
            cudnn.allow_tf32, cudnn.benchmark = self.tf32, True
            torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
            with torch.cuda.device(device):
                yield
        finally:
            cudnn.allow_tf32, cudnn.benchmark = before[0], before[2]
            torch.set_float32_matmul_precision(before[1])


def choose(device: str, convolution: str | None = None, graphs: bool | None = None, tf32: bool = False) -> Way:
    """The way of a device, with what is given; None is the best that is known: on a GPU the fastest convolution of
    every shape, and graphs.

    Raises:
        ValueError: an unknown convolution, or a choice that a CPU does not have: its bits follow from the plan alone.
    """
    if convolution is not None and convolution not in VARIANTS:
        raise ValueError(f"convolution={convolution}: expected one of {', '.join(VARIANTS)}")
    if device.startswith("cuda"):
        return Way(convolution or "fastest", graphs is not False, tf32)
    given = {"convolution": convolution, "graphs": graphs, "tf32": tf32 or None}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}={value}: a choice for GPUs, found device={device}. Leave it out.")
    return Way()
