"""Places of taps on the fixed grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from metanet.views.taps import GRID, bins, slots

sizes = st.integers(1, 40)
MIDDLE = GRID // 2


@given(depth=st.integers(1, 3), height=sizes, width=sizes)
def test_no_two_taps_share_slot_and_place_within_the_bin(depth, height, width):
    places = torch.cat([slots(depth, height, width)[:, None], bins(depth, height, width)], dim=1)
    assert len(places.unique(dim=0)) == depth * height * width
    assert places[:, 0].min() >= 0
    assert places[:, 0].max() < GRID * GRID
    if max(height, width) <= GRID:
        assert not bins(depth, height, width)[:, 1:].any()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(height=st.integers(1, GRID), width=st.integers(1, GRID))
def test_a_kernel_on_the_grid_computes_the_same_convolution(height, width):
    kernel = torch.randn(1, 1, height, width, dtype=torch.float64)
    grid = torch.zeros(1, 1, GRID, GRID, dtype=torch.float64)
    grid.view(-1)[slots(1, height, width)] = kernel.flatten()
    image = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    same = F.conv2d(image, kernel, padding="same")
    torch.testing.assert_close(F.conv2d(image, grid, padding=MIDDLE), same)


@given(height=st.integers(GRID + 1, 60))
def test_bins_of_a_larger_grid_are_even_and_symmetric(height):
    counts = slots(1, height, 1).div(GRID, rounding_mode="floor").bincount(minlength=GRID)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(counts, counts.flip(0))


def test_a_row_and_a_column_differ():
    assert slots(1, 1, 3).tolist() == [MIDDLE * GRID + place for place in (2, 3, 4)]
    assert slots(1, 3, 1).tolist() == [place * GRID + MIDDLE for place in (2, 3, 4)]
