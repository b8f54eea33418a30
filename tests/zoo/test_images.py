"""Image sets: what is read, what is refused, and resizing against torch's own."""

import gzip
import hashlib
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from metanet.zoo import images
from metanet.zoo.images import ImageSet, Layout, load, resize
from metanet.zoo.images.idx import read_idx

FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> dict[str, bytes]:
    """A set "tiny" of 5 + 3 images of 4 x 6 below the working directory's `data`; the bytes of its files."""
    draw = np.random.default_rng(0)
    arrays = [
        draw.integers(0, high, shape, dtype=np.uint8)
        for high, shape in ((256, (5, 4, 6)), (10, 5), (256, (3, 4, 6)), (10, 3))
    ]
    contents = dict(zip(FILES, map(idx, arrays), strict=True))
    digests = {file: f"sha256:{hashlib.sha256(content).hexdigest()}" for file, content in contents.items()}
    layout = Layout("Tiny/raw", digests, images.SETS["mnist"].layouts[0].decode)
    monkeypatch.setitem(images.SETS, "tiny", ImageSet(10, 5, 3, (layout,)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METANET_DATA", raising=False)
    write(Path("data"), contents)
    return contents


def write(root: Path, contents: dict[str, bytes]) -> None:
    (root / "Tiny/raw").mkdir(parents=True)
    for file, content in contents.items():
        (root / "Tiny/raw" / file).write_bytes(content)


def test_idx_files_are_read_as_they_were_written(tiny):
    tiny_images = load("tiny")
    assert idx(tiny_images.train[:, 0].numpy()) == tiny[FILES[0]]
    assert idx(tiny_images.train_labels.to(torch.uint8).numpy()) == tiny[FILES[1]]
    assert idx(tiny_images.test[:, 0].numpy()) == tiny[FILES[2]]
    assert idx(tiny_images.test_labels.to(torch.uint8).numpy()) == tiny[FILES[3]]
    assert tiny_images.num_classes == 10


def test_a_gzipped_file_gives_the_same_images(tiny):
    before = load("tiny").train
    for file, content in tiny.items():
        Path("data/Tiny/raw", file).unlink()
        Path("data/Tiny/raw", f"{file}.gz").write_bytes(gzip.compress(content))
    assert torch.equal(load("tiny").train, before)


def test_the_root_is_the_argument_then_the_environment_then_data(tiny, monkeypatch):
    assert len(load("tiny").train) == 5
    monkeypatch.setenv("METANET_DATA", "elsewhere")
    with pytest.raises(FileNotFoundError, match="elsewhere/Tiny/raw"):
        load("tiny")
    assert len(load("tiny", Path("data")).train) == 5
    write(Path("elsewhere"), tiny)
    assert len(load("tiny").train) == 5


def test_a_missing_file_is_named_with_the_command_that_gets_it(tiny):
    Path("data/Tiny/raw", FILES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"data/Tiny/raw/{FILES[1]}.*get_images.py sets=\[tiny\].*make data"):
        load("tiny")


def test_one_changed_byte_is_found_and_the_command_that_mends_it_named(tiny):
    damaged = bytearray(tiny[FILES[0]])
    damaged[-1] ^= 1
    Path("data/Tiny/raw", FILES[0]).write_bytes(damaged)
    expected = images.SETS["tiny"].layouts[0].digests[FILES[0]].removeprefix("sha256:")
    with pytest.raises(ValueError, match=rf"{FILES[0]}: damaged.*expected {expected}.*sets=\[tiny\] root=data`"):
        load("tiny", Path("data"))


@pytest.mark.parametrize("length", [0, 5, 40, -1])
def test_a_truncated_archive_is_damaged(tiny, length):
    Path("data/Tiny/raw", FILES[0]).unlink()
    Path("data/Tiny/raw", f"{FILES[0]}.gz").write_bytes(gzip.compress(tiny[FILES[0]])[:length])
    with pytest.raises(ValueError, match=rf"{FILES[0]}.gz: damaged image file"):
        load("tiny")


def test_an_unknown_set_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'fashion_mnst': expected one of digits, mnist, fashion_mnist, kmnist, .*; did you mean f"
    ):
        load("fashion_mnst")


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_read_idx_reverses_the_format(sizes):
    array = np.arange(math.prod(sizes), dtype=np.uint8).reshape(sizes)
    np.testing.assert_array_equal(read_idx(idx(array)), array)


def test_read_idx_refuses_what_is_no_idx_file():
    whole = idx(np.zeros((2, 3), np.uint8))
    for content in (b"", whole[:3], whole[:7], whole[:-1], whole + b"\0", b"\0\0\x0d" + whole[3:], b"\x1f" + whole[1:]):
        with pytest.raises(ValueError, match=rf"no IDX file of unsigned bytes: {len(content)} bytes that start with b"):
            read_idx(content)


def test_digits_are_scikit_learns_each_once():
    digits = load("digits")
    assert digits.train.shape == (1297, 1, 8, 8)
    assert digits.test.shape == (500, 1, 8, 8)
    pixels, labels = load_digits(return_X_y=True)
    ours = torch.cat([digits.train, digits.test]).flatten(1).double() * 16 / 255
    ours = np.column_stack([ours.round().numpy(), torch.cat([digits.train_labels, digits.test_labels]).numpy()])
    theirs = np.column_stack([pixels, labels])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_are_always_split_the_same_way_with_every_class_in_both_parts():
    digits = load("digits")
    assert hashlib.sha256(digits.test.numpy().tobytes()).hexdigest().startswith("8deb6e4310417fc7")
    assert digits.train_labels.bincount().min() > 110
    assert digits.test_labels.bincount().min() >= 40


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_full_sets_have_their_published_sizes(name):
    try:
        full = load(name, shape=(3, 14, 14))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert full.train.shape == (60000, 3, 14, 14)
    assert full.test.shape == (10000, 3, 14, 14)
    zeros = {"mnist": (5923, 980), "fashion_mnist": (6000, 1000)}[name]  # LeCun et al. (1998); Xiao et al. (2017)
    assert ((full.train_labels == 0).sum(), (full.test_labels == 0).sum()) == zeros


def test_images_move_to_a_device_as_a_whole():
    moved = load("digits").to("meta")
    assert {moved.train.device, moved.train_labels.device, moved.test.device, moved.test_labels.device} == {
        torch.device("meta")
    }


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(deadline=None)
@given(old=shapes, new=shapes, seed=st.integers(0, 99))
def test_resizing_equals_torchs_to_a_grey_level(old, new, seed):
    pictures = torch.randint(0, 256, (3, 1, *old), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    expected = pictures.double()
    for axis in (2, 3):
        expected = torchs(expected.transpose(axis, 3), new[axis - 2]).transpose(axis, 3)
    got = resize(pictures, (1, *new))
    assert got.dtype == torch.uint8
    assert (got.double() - expected).abs().max() <= 0.5 + 0.1  # rounding, and weights in units of 2^-14


def torchs(pictures: torch.Tensor, width: int) -> torch.Tensor:
    """Area means where the width shrinks by a whole factor, antialiased bilinear elsewhere."""
    if pictures.shape[3] % width == 0:
        return pictures.unflatten(3, (width, -1)).mean(4)
    height = pictures.shape[2]
    pictures = pictures.repeat(1, 1, 2, 1)  # torch 2.13 errs on images that are one pixel high or wide
    return F.interpolate(pictures, (2 * height, width), mode="bilinear", antialias=True)[:, :, :height]


@settings(deadline=None)
@given(old=shapes, new=shapes, value=st.integers(0, 255))
def test_an_even_image_stays_even(old, new, value):
    even = torch.full((2, 1, *old), value, dtype=torch.uint8)
    assert torch.equal(resize(even, (3, *new)), torch.full((2, 3, *new), value, dtype=torch.uint8))


def test_halving_gives_exact_means_rounded_half_up():
    pictures = torch.tensor([[0, 1, 7, 7], [1, 0, 7, 8], [255, 255, 0, 0], [255, 255, 0, 1]], dtype=torch.uint8)
    assert resize(pictures[None, None], (1, 2, 2)).flatten().tolist() == [1, 7, 255, 0]  # of 0.5, 7.25, 255, 0.25


def test_an_image_is_resized_alone_as_among_many():
    pictures = torch.randint(0, 256, (700, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(resize(pictures[600:601], (1, 11, 5)), resize(pictures, (1, 11, 5))[600:601])


def test_grey_is_repeated_and_colour_averaged():
    colour = torch.tensor([[10, 20, 31], [0, 0, 1]], dtype=torch.uint8)[..., None, None]
    assert resize(colour, (1, 1, 1)).flatten().tolist() == [20, 0]
    assert resize(colour[:, :1], (3, 1, 1)).flatten(1).tolist() == [[10, 10, 10], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(1, 0, 4), (2, 4, 4), (1, 4, -4)])
def test_a_shape_that_cannot_be_made_is_refused(shape):
    with pytest.raises(ValueError, match=r"image_shape \(.*\) cannot be made from images of shape \(3, 4, 4\)"):
        resize(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), shape)
