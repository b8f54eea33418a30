"""The image sets that nets are trained on: uint8 tensors, checked by hash, resized in exact arithmetic.

A format has one file here, which decodes it and lists its sets in `SETS`; a new file is added to `SETS` below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from metanet.zoo.images import cifar10, digits, idx, stl10, svhn, usps
from metanet.zoo.images.files import checked_bytes, place, root_folder
from metanet.zoo.images.image_set import Arrays, ImageSet, Layout
from metanet.zoo.images.resize import resize

__all__ = [
    "SETS",
    "ImageSet",
    "Images",
    "Layout",
    "checked_bytes",
    "complete_layout",
    "find",
    "load",
    "place",
    "read",
    "resize",
    "root_folder",
]

SETS: dict[str, ImageSet] = digits.SETS | idx.SETS | cifar10.SETS | svhn.SETS | stl10.SETS | usps.SETS


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


def load(name: str, root: Path | None = None, shape: tuple[int, int, int] | None = None) -> Images:
    """The image set `name` in full, resized to `shape` = (channels, height, width), on the CPU; channels lie innermost.

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
    layout = complete_layout(name, root)
    try:
        arrays = layout.decode(read(layout, root))
        _check(arrays, image_set, layout)
    except ValueError as error:
        where = "" if str(root_folder(root)) in str(error) else f"{root_folder(root) / layout.folder}: "
        raise ValueError(f"{where}{error}. Get it again with `{_remedy(name, root)}`") from error
    train, train_labels, test, test_labels = (torch.from_numpy(array) for array in arrays)
    if shape is not None:
        train, test = resize(train, shape), resize(test, shape)
    train, test = (pixels.contiguous(memory_format=torch.channels_last) for pixels in (train, test))
    return Images(name, train, train_labels.long(), test, test_labels.long(), image_set.num_classes)


def find(name: str) -> ImageSet:
    """The registry's entry; ValueError with the known names and a close match if there is none."""
    if name not in SETS:
        close = get_close_matches(name, SETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown image set {name!r}: expected one of {', '.join(SETS)}{hint}")
    return SETS[name]


def complete_layout(name: str, root: Path | None = None) -> Layout:
    """The first layout of a set whose files are all there.

    Raises:
        FileNotFoundError: there is none.
    """
    missing: list[str] = []
    for layout in find(name).layouts:
        absent = [file for file in layout.digests if place(layout, file, root) is None]
        if not absent:
            return layout
        missing.append(", ".join(str(root_folder(root) / layout.folder / file) for file in absent))
    raise FileNotFoundError(
        f"image files of {name!r} not found, with or without .gz: {'; or instead '.join(missing)}. "
        f"Get them with `{_remedy(name, root)}` (`make data` for the sets of the demo), "
        f"or point METANET_DATA at a folder that has them"
    )


def read(layout: Layout, root: Path | None = None) -> dict[str, bytes]:
    """The checked, decompressed bytes of each file of a layout that is complete; ValueError where one is damaged."""
    contents: dict[str, bytes] = {}
    for file, digest in layout.digests.items():
        path = place(layout, file, root)
        assert path is not None, "the layout is complete"
        contents[file] = checked_bytes(path, file, digest)
    return contents


def _remedy(name: str, root: Path | None) -> str:
    return f"python scripts/get_images.py sets=[{name}]" + (f" root={root}" if root else "")


def _check(arrays: Arrays, image_set: ImageSet, layout: Layout) -> None:
    """What a digest does not say: as many images and labels as there should be, and no label beyond the classes."""
    train, train_labels, test, test_labels = arrays
    for part, pixels, labels, count in (
        ("training", train, train_labels, image_set.num_train),
        ("test", test, test_labels, image_set.num_test),
    ):
        if len(pixels) != count or len(labels) != count:
            raise ValueError(
                f"damaged image files: found {len(pixels)} {part} images and {len(labels)} labels, expected {count}"
            )
        frequency = np.bincount(labels, minlength=image_set.num_classes)
        if len(frequency) > image_set.num_classes:
            raise ValueError(
                f"damaged image files: found the {part} label {labels.max()}, expected 0..{image_set.num_classes - 1}"
            )
        if "" in layout.digests.values() and len(set(frequency)) > 1:
            raise ValueError(
                f"damaged image files: found {min(frequency)} to {max(frequency)} {part} images in a class, "
                f"expected as many in each"
            )
