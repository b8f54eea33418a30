"""USPS: lines "label place:value ..." of LIBSVM, compressed by bzip2; labels 1..10 and 16 x 16 values in [-1, 1]."""

import bz2
import io
from collections.abc import Mapping

import numpy as np

from metanet.zoo.images.image_set import Arrays, ImageSet, Layout

_SIDE = 16


def decode(files: Mapping[str, bytes]) -> Arrays:
    train, test = (_part(files[name], name) for name in ("usps.bz2", "usps.t.bz2"))
    return *train, *test


def _part(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A place that a line leaves out is 0, as LIBSVM has it."""
    from sklearn.datasets import load_svmlight_file  # takes a second to import

    try:
        lines = io.BytesIO(bz2.decompress(content))
        values, labels = load_svmlight_file(lines, n_features=_SIDE**2, zero_based=False)  # type: ignore[arg-type]
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{name}: no bzip2 of LIBSVM lines with {_SIDE**2} places: {error}") from error
    values = values.toarray()
    if not (np.abs(values) <= 1).all() or not np.isin(labels, np.arange(1, 11)).all():
        raise ValueError(f"{name}: found values or labels out of range, expected [-1, 1] and 1..10")
    pixels = np.rint((values + 1) * 127.5).astype(np.uint8)
    return pixels.reshape(-1, 1, _SIDE, _SIDE), (labels - 1).astype(np.uint8)


SETS = {
    "usps": ImageSet(
        num_classes=10,
        num_train=7_291,
        num_test=2_007,
        layouts=(
            Layout(
                "",
                {
                    "usps.bz2": "md5:ec16c51db3855ca6c91edd34d0e9b197",
                    "usps.t.bz2": "md5:8ea070ee2aca1ac39742fdd1ef5ed118",
                },
                decode,
            ),
        ),
        mirrors=("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",),
        megabytes=8.4,
    )
}
