"""DMC, the deep meta-classifier: a 1-D CNN on slices of consecutive raw weights."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from metanet.blocks.heads import Heads
from metanet.blocks.windows import Dice, every_start, random_starts, windows
from metanet.dataset import Batch, Nets, Schema
from metanet.normalise import StandardiseParts
from metanet.views.sequence import sequence

INVARIANT = False  # it reads the order of the hidden units
_SLICES_AT_ONCE = 512  # bounds the memory of a prediction; the prediction does not depend on it


class DMC(nn.Module):
    """`depth` convolutions, each with batch norm, ReLU and max pooling by 2, then dense layers and one head per target.

    In training every net shows up to `num_slices` random slices, no more than cover it; otherwise the slices that cover
    the whole net vote (their outputs are averaged), so a prediction depends on nothing but the net. A net shorter than
    a slice is padded with zeros, the training mean.

    Source: Eilertsen et al. (2020), "Classifying the classifier", section 4 and appendix: 12 convolutions of kernel 5,
    8 to 256 channels. Departures: weights are compressed and standardised by kind of tensor, all targets
    share one model, several slices of a net are averaged in training too, and the dense layers are smaller, so that it
    trains on a CPU.
    """

    def __init__(
        self,
        schema: Schema,
        slice_length: int,
        num_slices: int,
        depth: int,
        width: int,
        max_width: int,
        kernel: int,
        dense: Sequence[int],
        dropout: float,
    ):
        super().__init__()
        if _pooled(slice_length, depth - 1) < 2:  # batch norm could not train on one slice
            raise ValueError(
                f"slice_length={slice_length}: expected more than 2^{depth - 1}, which depth={depth} needs"
            )
        self.slice_length, self.num_slices = slice_length, num_slices
        self.standardise = StandardiseParts(schema.templates.values())
        self.dice = Dice()
        channels = [1, *(min(width * 2 ** (layer // 2), max_width) for layer in range(depth))]
        self.convolutions = nn.Sequential(*(_convolution(i, o, kernel) for i, o in pairwise(channels)))
        widths = [channels[-1] * _pooled(slice_length, depth), *dense]
        self.dense = nn.Sequential(*(_dense(i, o, dropout) for i, o in pairwise(widths)))
        self.heads = Heads(widths[-1], schema.targets)

    @torch.no_grad()
    def prepare(self, train: Iterable[Batch]) -> None:
        """Fits the standardisation on the training nets."""
        for batch in train:
            for nets in batch:
                self.standardise.update(nets)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{target: logits [nets, classes] or standardised values [nets]}, nets in the order of the batch."""
        generator = self.dice() if self.training else None
        slices = [self.slices(nets, generator) for nets in batch]
        flat = torch.cat([s.flatten(0, 1) for s in slices])
        parts = (flat,) if self.training else flat.split(_SLICES_AT_ONCE)
        read = torch.cat([self.dense(self.convolutions(part.unsqueeze(1)).flatten(1)) for part in parts])
        by_group = read.split([s.shape[0] * s.shape[1] for s in slices])
        # the heads are linear: the mean of the slices' outputs is the output of their mean
        return self.heads(torch.cat([r.view(*s.shape[:2], -1).mean(1) for r, s in zip(by_group, slices, strict=True)]))

    def slices(self, nets: Nets, generator: torch.Generator | None) -> Float[Tensor, "nets slices length"]:
        """Random slices drawn from `generator`, or without one the slices that cover the nets."""
        weights = sequence(nets.template, self.standardise(nets))
        weights = F.pad(weights, (0, max(self.slice_length - weights.shape[1], 0)))
        length, size = weights.shape[1], self.slice_length
        if generator is None:
            starts = every_start(length, size, len(nets))
        else:
            count = min(self.num_slices, -(-length // size))
            starts = random_starts(length, size, len(nets), count, generator)
        return windows(weights, starts, size)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, padding="same", bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
        nn.MaxPool1d(2, ceil_mode=True),
    )


def _dense(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout))


def _pooled(length: int, times: int) -> int:
    for _ in range(times):
        length = -(-length // 2)
    return length
