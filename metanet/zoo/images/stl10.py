"""STL-10's labelled images: bytes [n, 3, 96, 96] with columns before rows, and labels from 1."""

from collections.abc import Mapping

import numpy as np

from metanet.zoo.images.image_set import Arrays, ImageSet, Layout

_SHAPE = (3, 96, 96)


def decode(files: Mapping[str, bytes]) -> Arrays:
    train, test = (_part(files, part) for part in ("train", "test"))
    return *train, *test


def _part(files: Mapping[str, bytes], part: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = (np.frombuffer(files[f"{part}_{kind}.bin"], np.uint8) for kind in "Xy")
    if pixels.size != labels.size * np.prod(_SHAPE):
        raise ValueError(
            f"{part}_X.bin: found {pixels.size} bytes for the {labels.size} labels of {part}_y.bin, "
            f"expected {np.prod(_SHAPE)} each"
        )
    if labels.min(initial=1) < 1 or labels.max(initial=1) > 10:
        raise ValueError(f"{part}_y.bin: found labels {labels.min()}..{labels.max()}, expected 1..10")
    return np.ascontiguousarray(pixels.reshape(-1, *_SHAPE).swapaxes(2, 3)), labels - np.uint8(1)


SETS = {
    "stl10": ImageSet(
        num_classes=10,
        num_train=5_000,
        num_test=8_000,
        layouts=(
            Layout(
                "stl10_binary",
                {
                    "train_X.bin": "md5:918c2871b30a85fa023e0c44e0bee87f",
                    "train_y.bin": "md5:5a34089d4802c674881badbb80307741",
                    "test_X.bin": "md5:7f263ba9f9e0b06b93213547f721ac82",
                    "test_y.bin": "md5:36f9794fa4beb8a2c72628de14fa638e",
                },
                decode,
            ),
        ),
        mirrors=("http://ai.stanford.edu/~acoates/stl10/",),
        archive="stl10_binary.tar.gz",
        megabytes=2640.4,
    )
}
