"""SVHN, cropped digits: two MATLAB files, X [32, 32, 3, n] and y [n, 1] with 10 for the digit 0."""

import io
import zlib
from collections.abc import Mapping

import numpy as np

from metanet.zoo.images.image_set import Arrays, ImageSet, Layout


def decode(files: Mapping[str, bytes]) -> Arrays:
    train, test = (_part(files[name], name) for name in ("train_32x32.mat", "test_32x32.mat"))
    return *train, *test


def _part(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat  # takes a moment to import
    from scipy.io.matlab import MatReadError

    try:
        arrays = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        pixels, labels = arrays["X"], arrays["y"]
    except (MatReadError, ValueError, TypeError, KeyError, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name}: no MATLAB file with X and y: {type(error).__name__}: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape[:-1] != (32, 32, 3) or labels.size != pixels.shape[-1]:
        raise ValueError(
            f"{name}: found X of {pixels.dtype} {pixels.shape} and {labels.size} labels, "
            f"expected bytes [32, 32, 3, n] and n labels"
        )
    labels = labels.ravel().astype(np.int64)
    if labels.min(initial=1) < 1 or labels.max(initial=1) > 10:
        raise ValueError(f"{name}: found labels {labels.min()}..{labels.max()}, expected 1..10")
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), (labels % 10).astype(np.uint8)


SETS = {
    "svhn": ImageSet(
        num_classes=10,
        num_train=73_257,
        num_test=26_032,
        layouts=(
            Layout(
                "",
                {
                    "train_32x32.mat": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
                    "test_32x32.mat": "md5:eb5a983be6a315427106f1b164d9cef3",
                },
                decode,
            ),
        ),
        mirrors=("http://ufldl.stanford.edu/housenumbers/",),
        megabytes=246.3,
    )
}
