"""CIFAR-10: the binary version or the Python one, as the archive or extracted.

A binary batch is records of 3,073 bytes: the label, then 32 x 32 red, green and blue values. A Python batch is a pickle
of {"data": uint8 [n, 3072], "labels": a list}. Both hold the same images in the same order.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from metanet.zoo.images.image_set import Arrays, ImageSet, Layout

_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_BINARY = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
_PYTHON = {
    "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
    "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "md5:40351d587109b95175f43aff81a1287e",
}
_NUMPY = {("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
_Batch = tuple[np.ndarray, np.ndarray]  # uint8 [n, 3, 32, 32], uint8 [n]


def decode_binary(files: Mapping[str, bytes]) -> Arrays:
    return _joined([_binary_batch(files[name], name) for name in _BINARY])


def decode_python(files: Mapping[str, bytes]) -> Arrays:
    return _joined([_python_batch(files[name], name) for name in _PYTHON])


def decode_archive(archive: str, members: list[str], decode: Callable[[Mapping[str, bytes]], Arrays]):
    """A decoder of one tar archive that holds `members`, in whatever folder."""

    def decoded(files: Mapping[str, bytes]) -> Arrays:
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(fileobj=io.BytesIO(files[archive])) as tar:
                for member in tar:
                    name = member.name.rsplit("/", 1)[-1]
                    if name in members and (file := tar.extractfile(member)) is not None:
                        found[name] = file.read()
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{archive}: no whole tar archive: {error}") from error
        if missing := [name for name in members if name not in found]:
            raise ValueError(f"{archive}: the archive lacks {', '.join(missing)}")
        return decode(found)

    return decoded


def _joined(batches: list[_Batch]) -> Arrays:
    *train, (test, test_labels) = batches
    pixels, labels = zip(*train, strict=True)
    return np.concatenate(pixels), np.concatenate(labels), test, test_labels


def _binary_batch(content: bytes, name: str) -> _Batch:
    if not content or len(content) % _RECORD:
        raise ValueError(f"{name}: found {len(content)} bytes, expected records of {_RECORD}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, *_SHAPE).copy(), records[:, 0].copy()


def _python_batch(content: bytes, name: str) -> _Batch:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = batch["data"], batch["labels"]
        pixels, labels = pixels.reshape(-1, *_SHAPE).copy(), np.array(labels)
    except _REFUSED as error:
        raise ValueError(f"{name}: no pickled batch of CIFAR-10: {type(error).__name__}: {error}") from error
    if pixels.dtype != np.uint8 or labels.dtype.kind != "i" or labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"{name}: found data of {pixels.dtype} {pixels.shape} and labels of {labels.dtype} {labels.shape}, "
            f"expected bytes [n, 3072] and n integers"
        )
    return pixels, np.where((labels >= 0) & (labels < 256), labels, 255).astype(np.uint8)


_REFUSED = (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, IndexError, ValueError, ImportError)


class _Unpickler(pickle.Unpickler):
    """Makes plain values and numpy arrays, and refuses every other name that a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # its name before numpy 2
        if (module, name) not in _NUMPY:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return super().find_class(module, name)


SETS = {
    "cifar10": ImageSet(
        num_classes=10,
        num_train=50_000,
        num_test=10_000,
        layouts=(
            Layout(
                "",
                {"cifar-10-binary.tar.gz": "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
                decode_archive("cifar-10-binary.tar.gz", _BINARY, decode_binary),
            ),
            Layout("cifar-10-batches-bin", dict.fromkeys(_BINARY, ""), decode_binary),
            Layout("cifar-10-batches-py", _PYTHON, decode_python),
            Layout(
                "",
                {"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"},
                decode_archive("cifar-10-python.tar.gz", list(_PYTHON), decode_python),
            ),
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        megabytes=170.1,
    )
}
