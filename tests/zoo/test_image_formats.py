"""Each format on small files written here byte by byte, and on what is none: truncated, mislabelled, hostile."""

import bz2
import gzip
import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from metanet.zoo import images
from metanet.zoo.images import ImageSet, Layout, cifar10, load, stl10, svhn, usps

DRAW = np.random.default_rng(0)


def pictures(count: int, *shape: int) -> np.ndarray:
    return DRAW.integers(0, 256, (count, *shape), dtype=np.uint8)


def binary_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True))


def python_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps({"batch_label": "one", "labels": labels, "data": pixels.reshape(len(pixels), -1)}, protocol=2)


def tar(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


CIFAR = [(pictures(4, 3, 32, 32), [3, 0, 9, 1]) for _ in range(6)]
BINARY = {
    name: binary_batch(*batch)
    for name, batch in zip([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"], CIFAR, strict=True)
}
PYTHON = {
    name: python_batch(*batch)
    for name, batch in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], CIFAR, strict=True)
}


@pytest.mark.parametrize(
    ("decode", "files"),
    [
        (cifar10.decode_binary, BINARY),
        (cifar10.decode_python, PYTHON),
        (cifar10.decode_archive("a.tar.gz", list(BINARY), cifar10.decode_binary), {"a.tar.gz": tar(BINARY)}),
        (cifar10.decode_archive("a.tar.gz", list(PYTHON), cifar10.decode_python), {"a.tar.gz": tar(PYTHON)}),
    ],
    ids=["binary", "python", "binary archive", "python archive"],
)
def test_cifar10_is_read_from_every_version_of_it(decode, files):
    train, train_labels, test, test_labels = decode(files)
    assert np.array_equal(train, np.concatenate([pixels for pixels, _ in CIFAR[:5]]))
    assert train_labels.tolist() == [3, 0, 9, 1] * 5
    assert np.array_equal(test, CIFAR[5][0])
    assert test_labels.tolist() == [3, 0, 9, 1]
    torch.from_numpy(train).add_(1)  # writable


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused_by_name(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    batch = pickle.dumps({"labels": [1, 2, 3, 4], "more": Hostile()}, protocol=protocol)
    with pytest.raises(ValueError, match=r"data_batch_1: no pickled batch .* asks for posix\.mkdir, which is refused"):
        cifar10.decode_python(PYTHON | {"data_batch_1": batch})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOFError"),
        (PYTHON["data_batch_1"][:-100], "no pickled batch of CIFAR-10"),
        (pickle.dumps([1, 2]), "TypeError"),
        (pickle.dumps({"data": CIFAR[0][0]}), "KeyError: 'labels'"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}), "found data of float32"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), r"labels of int64 \(1,\)"),
        (pickle.dumps({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}), "cannot reshape"),
    ],
)
def test_a_damaged_pickle_is_named(content, message):
    with pytest.raises(ValueError, match=f"data_batch_3: .*{message}"):
        cifar10.decode_python(PYTHON | {"data_batch_3": content})


def test_a_truncated_binary_batch_or_archive_is_named():
    with pytest.raises(ValueError, match=r"data_batch_2\.bin: found 12291 bytes, expected records of 3073"):
        cifar10.decode_binary(BINARY | {"data_batch_2.bin": BINARY["data_batch_2.bin"][:-1]})
    decode = cifar10.decode_archive("a.tar.gz", list(BINARY), cifar10.decode_binary)
    for content in (b"", tar(BINARY)[:2000], b"no archive" * 100):
        with pytest.raises(ValueError, match=r"a\.tar\.gz: (no whole tar archive|the archive lacks data_batch_1\.bin)"):
            decode({"a.tar.gz": content})
    with pytest.raises(ValueError, match=r"a\.tar\.gz: the archive lacks test_batch\.bin"):
        decode({"a.tar.gz": tar({name: BINARY[name] for name in list(BINARY)[:5]})})


def mat(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, {"X": pixels, "y": labels[:, None]}, do_compression=True)
    return out.getvalue()


def test_svhn_is_read_with_ten_for_the_digit_zero():
    train, test = pictures(6, 3, 32, 32), pictures(3, 3, 32, 32)
    files = {
        "train_32x32.mat": mat(train.transpose(2, 3, 1, 0), np.array([1, 10, 9, 2, 10, 5], np.uint8)),
        "test_32x32.mat": mat(test.transpose(2, 3, 1, 0), np.array([10, 1, 2], np.uint8)),
    }
    found = svhn.decode(files)
    assert np.array_equal(found[0], train)
    assert found[1].tolist() == [1, 0, 9, 2, 0, 5]
    assert np.array_equal(found[2], test)
    assert found[3].tolist() == [0, 1, 2]
    wrong = {
        "found labels 0..2, expected 1..10": mat(test.transpose(2, 3, 1, 0), np.array([0, 1, 2])),
        r"found X of uint8 \(32, 32, 3, 3\) and 2 labels": mat(test.transpose(2, 3, 1, 0), np.array([1, 2])),
        "found X of float64": mat(test.transpose(2, 3, 1, 0).astype(float), np.array([1, 1, 2])),
        "no MATLAB file with X and y": files["test_32x32.mat"][:-50],
        "no MATLAB file": b"",
    }
    for message, content in wrong.items():
        with pytest.raises(ValueError, match=rf"test_32x32\.mat: {message}"):
            svhn.decode(files | {"test_32x32.mat": content})


def test_stl10_is_read_with_columns_before_rows():
    train, test = pictures(4, 3, 96, 96), pictures(2, 3, 96, 96)
    files = {
        "train_X.bin": train.swapaxes(2, 3).tobytes(),
        "train_y.bin": bytes([1, 10, 2, 3]),
        "test_X.bin": test.swapaxes(2, 3).tobytes(),
        "test_y.bin": bytes([4, 5]),
    }
    found = stl10.decode(files)
    assert np.array_equal(found[0], train)
    assert found[1].tolist() == [0, 9, 1, 2]
    assert np.array_equal(found[2], test)
    assert found[3].tolist() == [3, 4]
    with pytest.raises(ValueError, match=r"test_X\.bin: found 55295 bytes for the 2 labels of test_y\.bin"):
        stl10.decode(files | {"test_X.bin": files["test_X.bin"][:-1]})
    with pytest.raises(ValueError, match=r"train_y\.bin: found labels 0\.\.3, expected 1\.\.10"):
        stl10.decode(files | {"train_y.bin": bytes([0, 1, 2, 3])})


def libsvm(pixels: np.ndarray, labels: list[int]) -> bytes:
    values = pixels.reshape(len(pixels), -1) / 127.5 - 1
    rows = [
        " ".join([f"{label}", *(f"{place}:{value:.6f}" for place, value in enumerate(row, 1) if value)])
        for label, row in zip(labels, values, strict=True)
    ]
    return bz2.compress("\n".join([*rows, ""]).encode())


def test_usps_is_read_from_its_lines():
    train, test = pictures(5, 1, 16, 16), pictures(2, 1, 16, 16)
    files = {"usps.bz2": libsvm(train, [1, 10, 3, 4, 5]), "usps.t.bz2": libsvm(test, [7, 1])}
    found = usps.decode(files)
    assert np.array_equal(found[0], train)
    assert found[1].tolist() == [0, 9, 2, 3, 4]
    assert np.array_equal(found[2], test)
    assert found[3].tolist() == [6, 0]
    for content, message in (
        (files["usps.t.bz2"][:-9], "no bzip2 of LIBSVM lines"),
        (bz2.compress(b"1 257:0.5\n"), "no bzip2 of LIBSVM lines with 256 places"),
        (bz2.compress(b"1 1:1.5\n"), "out of range"),
        (bz2.compress(b"11 1:0.5\n"), "out of range"),
    ):
        with pytest.raises(ValueError, match=rf"usps\.t\.bz2: .*{message}"):
            usps.decode(files | {"usps.t.bz2": content})


@pytest.fixture
def install(tmp_path, monkeypatch) -> Callable[[str, int, Mapping[str, bytes]], None]:
    """Puts small files in the place of a set's, with their own digests where the set has some."""

    def installed(name: str, layout: int, files: Mapping[str, bytes]) -> None:
        real = images.SETS[name]
        chosen = real.layouts[layout]
        assert set(chosen.digests) == set(files)
        digests = {file: chosen.digests[file] and f"md5:{hashlib.md5(files[file]).hexdigest()}" for file in files}
        layouts = [*real.layouts]
        layouts[layout] = Layout(chosen.folder, digests, chosen.decode)
        monkeypatch.setitem(images.SETS, name, replace(real, num_train=20, num_test=4, layouts=tuple(layouts)))
        monkeypatch.setenv("METANET_DATA", str(tmp_path))
        for file, content in files.items():
            (tmp_path / chosen.folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / chosen.folder / file).write_bytes(content)

    return installed


def test_a_set_is_found_in_whichever_layout_is_complete(install, tmp_path):
    install("cifar10", 3, {"cifar-10-python.tar.gz": tar(PYTHON)})
    first = load("cifar10", shape=(3, 16, 16))
    install("cifar10", 2, PYTHON)
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    second = load("cifar10", shape=(3, 16, 16))
    assert torch.equal(first.train, second.train)
    assert first.train.shape == (20, 3, 16, 16)
    (tmp_path / "cifar-10-batches-py/data_batch_4").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"'cifar10' not found.*cifar-10-binary\.tar\.gz; or instead .*batch_4;"
    ):
        load("cifar10")


def test_files_without_a_digest_must_hold_every_class_equally_often(install):
    even = [(pictures(2, 3, 32, 32), [2 * i, 2 * i + 1]) for i in range(5)]
    batches = [(np.concatenate([a, b]), x + y) for (a, x), (b, y) in zip(even, [*even[1:], even[0]], strict=True)]
    balanced = {name: binary_batch(*batch) for name, batch in zip(BINARY, [*batches, CIFAR[5]], strict=True)}
    install("cifar10", 1, balanced)
    with pytest.raises(ValueError, match="cifar-10-batches-bin: damaged image files: found 0 to 1 test images in a cl"):
        load("cifar10")
    install("cifar10", 1, BINARY)
    with pytest.raises(ValueError, match=r"found 0 to 5 training images in a class.*get_images\.py sets=\[cifar10\]"):
        load("cifar10")


def test_wrong_counts_and_labels_are_found_whatever_the_digests_say(install):
    install("cifar10", 2, PYTHON | {"test_batch": python_batch(CIFAR[5][0][:3], [1, 2, 3])})
    with pytest.raises(ValueError, match="found 3 test images and 3 labels, expected 4"):
        load("cifar10")
    install("cifar10", 2, PYTHON | {"test_batch": python_batch(CIFAR[5][0], [1, 2, 3, 10])})
    with pytest.raises(ValueError, match=r"found the test label 10, expected 0\.\.9"):
        load("cifar10")
    install("cifar10", 2, PYTHON | {"test_batch": python_batch(CIFAR[5][0], [1, 2, 3, -1])})
    with pytest.raises(ValueError, match="found the test label 255"):
        load("cifar10")


@pytest.mark.parametrize("packed", [True, False])
def test_kmnist_is_read_from_archives_and_from_plain_files(install, packed):
    def idx(array: np.ndarray) -> bytes:
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()

    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    train, test = pictures(20, 28, 28), pictures(4, 28, 28)
    arrays = train, np.arange(20, dtype=np.uint8) % 10, test, np.arange(4, dtype=np.uint8)
    files = dict(zip(names, map(idx, arrays), strict=True))
    if packed:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    install("kmnist", 0 if packed else 1, files)
    if not packed:
        with pytest.raises(ValueError, match="found 0 to 1 test images in a class"):
            load("kmnist")
        return
    found = load("kmnist")
    assert np.array_equal(found.train[:, 0].numpy(), train)
    assert found.test_labels.tolist() == [0, 1, 2, 3]


def test_every_set_says_where_it_can_be_had_and_how_large_it_is():
    for name, image_set in images.SETS.items():
        assert isinstance(image_set, ImageSet)
        assert image_set.num_classes == 10
        assert name == "digits" or (image_set.mirrors and image_set.megabytes > 1)
        for digest in (digest for layout in image_set.layouts for digest in layout.digests.values() if digest):
            kind, _, value = digest.partition(":")
            assert len(value) == {"md5": 32, "sha256": 64}[kind]


def test_the_command_that_gets_a_set_is_named(tmp_path):
    for name in (name for name in images.SETS if name != "digits"):
        with pytest.raises(FileNotFoundError, match=rf"'{name}' not found.*sets=\[{name}\] root={tmp_path}`"):
            load(name, Path(tmp_path))
