"""Convolutions along a sequence, the rows of the image: each -> norm -> activation -> pool of 2; dense; head.

A row is one step of the sequence, its pixels are the channels. The convolutions keep the length, the pools halve it and
round up, and all that is left is read by a dense layer of `dense_width` units -> activation -> dropout.
Source: the convolutions over time of Waibel et al. (1989), "Phoneme recognition using time-delay neural networks".
"""

from torch import nn

from metanet.zoo.fields import BATCH_NORM, Arch, Field, Layers
from metanet.zoo.layers import Rows

FIELDS = {
    "filter_size": Field("-f"),
    "conv_depth": Field("-c"),
    "conv_width": Field("x"),
    "dense_width": Field("-d"),
    "batch_norm": BATCH_NORM,
}


def expects(arch: Arch) -> str | None:
    return None if arch["filter_size"] % 2 else "an odd filter_size, which keeps the length"


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    channels, length, width = arch["image_shape"]
    channels, out = channels * width, arch["conv_width"]
    yield "rows", Rows()
    for number in range(1, arch["conv_depth"] + 1):
        yield f"conv{number}", nn.Conv1d(channels, out, arch["filter_size"], padding=arch["filter_size"] // 2)
        if arch["batch_norm"]:
            yield f"norm{number}", nn.BatchNorm1d(out)
        yield f"activation{number}", activation()
        yield f"pool{number}", nn.MaxPool1d(2, ceil_mode=True)
        channels, length = out, -(-length // 2)
    yield "flatten", nn.Flatten()
    yield "dense", nn.Linear(channels * length, arch["dense_width"])
    yield "dense_activation", activation()
    yield "dropout", nn.Dropout(dropout)
    yield "head", nn.Linear(arch["dense_width"], arch["num_classes"])
