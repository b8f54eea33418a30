"""scikit-learn's digits, which need no files."""

from collections.abc import Mapping

import numpy as np

from metanet.zoo.images.image_set import Arrays, ImageSet, Layout


def decode(files: Mapping[str, bytes]) -> Arrays:
    """1,797 digits of 8 x 8 pixels: 1,297 to train, 500 to test, the latter evenly spaced in the file.

    The file runs through the writers one after the other, so both parts hold all of them.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    data, target = load_digits(return_X_y=True)
    pixels = ((data.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 1, 8, 8)  # 0..16 -> 0..255
    labels = target.astype(np.uint8)
    test = np.arange(len(labels)) * 500 % len(labels) < 500  # 500 and 1,797 share no factor: exactly 500 are
    return pixels[~test], labels[~test], pixels[test], labels[test]


SETS = {"digits": ImageSet(num_classes=10, num_train=1297, num_test=500, layouts=(Layout("", {}, decode),))}
