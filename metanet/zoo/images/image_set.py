"""What is known of an image set before it is read: where it lies, what its files hold, where it can be had."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

Arrays = tuple[
    UInt8[np.ndarray, "train channels height width"],
    UInt8[np.ndarray, " train"],
    UInt8[np.ndarray, "test channels height width"],
    UInt8[np.ndarray, " test"],
]


@dataclass(frozen=True)
class Layout:
    """One way in which an image set lies on disk, and how it is read.

    A file is kept under its name or with .gz behind it. Its digest, "sha256:..." or "md5:...", is of its bytes after
    decompression; "" where none is published, and then the classes of the set must be equally frequent.
    """

    folder: str  # below the root, as torchvision lays it out
    digests: Mapping[str, str]  # by file name
    decode: Callable[[Mapping[str, bytes]], Arrays]  # from the bytes of each file; ValueError if they make no images


@dataclass(frozen=True)
class ImageSet:
    """An image set. The first layout that is complete on disk is read; downloads make the first."""

    num_classes: int
    num_train: int
    num_test: int
    layouts: tuple[Layout, ...]
    packages: Mapping[str, str] | None = None  # package manager ("apt", "npm") -> package
    mirrors: tuple[str, ...] = ()  # addresses to which "<file name><suffix>" is appended
    suffix: str = ""
    archive: str = ""  # where mirrors have all files in one tar archive: its name
    megabytes: float = 0  # of a download, for the progress bar
