"""Augmentation: the same for a net alone and in a stack, and equal to scipy and colorsys for known changes."""

import colorsys

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet import seeding
from metanet.zoo import augment as augmentation
from metanet.zoo.augment import augment, recolour, relight, warp


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def keys_of(nets: int, step: int = 0) -> torch.Tensor:
    return seeding.keys(3, torch.arange(nets), "augmentation", step)


@settings(deadline=None, max_examples=40)
@given(
    nets=st.integers(1, 4),
    batch=st.integers(1, 9),
    channels=st.sampled_from([1, 2, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_a_net_is_augmented_alone_as_in_a_stack_bit_for_bit(nets, batch, channels, height, width):
    images, keys = pictures(nets, batch, channels, height, width), keys_of(nets)
    stacked = augment(images, keys)
    for net in range(nets):
        assert torch.equal(augment(images[net : net + 1], keys[net : net + 1])[0], stacked[net])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_a_net_is_augmented_alone_as_in_a_stack_at_full_size(shape):
    images, keys = pictures(3, 33, *shape), keys_of(3)
    assert torch.equal(augment(images[1:2], keys[1:2])[0], augment(images, keys)[1])


def test_nets_samples_and_steps_are_augmented_differently():
    images = pictures(1, 1, 1, 8, 8).expand(2, 2, 1, 8, 8)
    changed = torch.cat([augment(images, keys_of(2, step)).flatten(0, 1) for step in (0, 1)])
    assert len(changed.unique(dim=0)) == 8


def test_no_global_generator_is_read_and_the_images_are_not_changed():
    images = pictures(2, 3, 3, 6, 6)
    before, state = images.clone(), torch.get_rng_state()
    first, second = augment(images, keys_of(2)), augment(images, keys_of(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_stay_between_0_and_1_in_the_dtype_of_the_images(dtype):
    changed = augment(pictures(2, 50, 3, 8, 8).to(dtype).round(), keys_of(2))
    assert changed.dtype == dtype
    assert 0 <= changed.min() < changed.max() <= 1


def test_the_draws_fill_the_published_ranges():
    draws = seeding.uniform(keys_of(1), 6, 20000)[0].double()
    matrix, shift = augmentation._geometry(draws, 32, 64)
    assert shift.abs().amax(1).tolist() == pytest.approx([6, 3], abs=0.01)  # 3/32 of 64 and of 32 pixels
    turn = torch.atan2(matrix[1, 0], matrix[1, 1]).rad2deg().abs().max()  # rotation + shear
    zoom = matrix[0].norm(dim=0)
    assert 17 < turn <= 18
    assert zoom.min() == pytest.approx(0.9, abs=0.003)
    assert zoom.max() == pytest.approx(1.1, abs=0.003)


def test_the_unchanging_draw_gives_the_identity():
    images = pictures(5, 2, 7, 4).double()
    moved = warp(images, *augmentation._geometry(torch.full((6, 5), 0.5, dtype=torch.float64), 7, 4))
    torch.testing.assert_close(relight(moved, torch.zeros(5), torch.ones(5)), images)


@settings(deadline=None, max_examples=25)
@given(
    entries=st.lists(st.floats(-1.3, 1.3), min_size=4, max_size=4),
    shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
)
def test_a_warp_equals_scipys_affine_transform(entries, shift, height, width):
    image = pictures(height, width).double()
    matrix = np.array(entries).reshape(2, 2)
    flipped, centre = matrix[::-1, ::-1], (np.array([height, width]) - 1) / 2  # scipy counts (row, column)
    offset = centre + flipped @ (np.array(shift[::-1]) - centre)
    padded = np.pad(image.numpy(), 1)  # scipy is 0 from the grid's last point on; bilinear zeros fade over a pixel
    homogeneous = np.column_stack([flipped, offset + 1 - flipped @ np.ones(2)])
    expected = scipy.ndimage.affine_transform(padded, homogeneous, order=1, mode="constant", cval=0.0)[1:-1, 1:-1]
    got = warp(image[None, None], torch.tensor(matrix)[..., None], torch.tensor(shift, dtype=torch.float64)[:, None])
    np.testing.assert_allclose(got[0, 0].numpy(), expected, atol=1e-9)


def test_a_quarter_turn_equals_rot90():
    images = pictures(1, 1, 6, 6).double()
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)[..., None]
    turned = warp(images, quarter, torch.zeros(2, 1, dtype=torch.float64))
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)))


def test_brightness_moves_the_mean_and_contrast_scales_the_deviation():
    images = pictures(2, 3, 6, 5).double()
    changed = relight(images, torch.tensor([0.1, -0.2]).double(), torch.tensor([0.5, 1.5]).double())
    torch.testing.assert_close(changed.mean((2, 3)), images.mean((2, 3)) + torch.tensor([[0.1], [-0.2]]).double())
    torch.testing.assert_close(changed.std((2, 3)), images.std((2, 3)) * torch.tensor([[0.5], [1.5]]).double())


@settings(deadline=None, max_examples=50)
@given(
    rgb=st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]) | st.floats(0, 1)] * 3),
    hue=st.floats(-0.5, 0.5),
    saturation=st.floats(0, 2),
)
def test_recolouring_equals_colorsys(rgb, hue, saturation):
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    expected = colorsys.hsv_to_rgb((h + hue) % 1, min(s * saturation, 1), v)
    pixel = torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)
    got = recolour(pixel, torch.tensor([hue], dtype=torch.float64), torch.tensor([saturation], dtype=torch.float64))
    assert got.flatten().tolist() == pytest.approx(expected, abs=1e-9)


def test_grey_outside_the_unit_range_keeps_its_value_when_recoloured():
    grey = torch.tensor([-0.3, 0.0, 0.4, 1.6]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert torch.equal(recolour(grey, torch.tensor([0.3]), torch.tensor([1.5])), grey)


def test_the_noise_has_up_to_its_published_deviation():
    flat = torch.full((1, 400, 1, 16, 16), 0.5)  # in the middle of a grey image only brightness and noise are left
    inner = augment(flat, keys_of(1))[0, :, 0, 6:10, 6:10]
    deviations = inner.std((1, 2))
    assert deviations.max() < 2 * augmentation.NOISE
    assert deviations.mean() == pytest.approx(augmentation.NOISE / 2, rel=0.1)
