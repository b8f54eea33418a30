"""Three blocks of convolution -> norm -> activation, each closed by a pool; dense -> activation -> norm -> dropout.

Extra convolutions go to the later blocks; the width doubles per block and halves per dense layer. Pools round up, so
that images down to 1 x 1 pass. Source: Eilertsen et al. (2020), "Classifying the classifier", arXiv:2002.05688, table 1
and code; filter 5, 3 + 2 layers, widths 8 and 128, 3x32x32 images, 20 outputs give their 92,868 numbers.
"""

from torch import nn

from metanet.zoo.fields import BATCH_NORM, Arch, Field, Layers

FIELDS = {
    "filter_size": Field("-f"),
    "conv_depth": Field("-c"),
    "conv_width": Field("x"),
    "dense_depth": Field("-d"),
    "dense_width": Field("x"),
    "batch_norm": BATCH_NORM,
}


def expects(arch: Arch) -> str | None:
    if arch["filter_size"] % 2 == 0:
        return "an odd filter_size, which keeps the image's size"
    if arch["conv_depth"] < 3 or arch["dense_width"] >> (arch["dense_depth"] - 1) == 0:
        halvings = arch["dense_depth"] - 1
        return f"conv_depth of at least 3 and a dense_width that can be halved {halvings} times"
    return None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    channels, height, width = arch["image_shape"]
    number = 0
    for block in range(3):
        out = arch["conv_width"] << block
        for _ in range((arch["conv_depth"] + block) // 3):
            number += 1
            yield f"conv{number}", nn.Conv2d(channels, out, arch["filter_size"], padding=arch["filter_size"] // 2)
            if arch["batch_norm"]:
                yield f"conv_norm{number}", nn.BatchNorm2d(out)
            yield f"conv_activation{number}", activation()
            channels = out
        yield f"pool{block + 1}", nn.MaxPool2d(2, ceil_mode=True)
        height, width = -(-height // 2), -(-width // 2)
    yield "flatten", nn.Flatten()
    features = channels * height * width
    for layer in range(arch["dense_depth"]):
        out = arch["dense_width"] >> layer
        yield f"dense{layer + 1}", nn.Linear(features, out)
        yield f"dense_activation{layer + 1}", activation()
        if arch["batch_norm"]:
            yield f"dense_norm{layer + 1}", nn.BatchNorm1d(out)
        yield f"dropout{layer + 1}", nn.Dropout(dropout)
        features = out
    yield "head", nn.Linear(features, arch["num_classes"])
