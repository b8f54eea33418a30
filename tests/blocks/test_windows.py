import torch
from hypothesis import given
from hypothesis import strategies as st

from metanet.blocks.windows import Dice, every_start, random_starts, windows


@given(length=st.integers(1, 40), size=st.integers(1, 12))
def test_the_windows_of_a_prediction_cover_every_place_and_none_beyond(length, size):
    row = torch.arange(length).expand(2, -1)
    cut = windows(row, every_start(length, size, 2), size)
    assert cut.shape[2] == min(size, length)
    assert torch.equal(cut[0].unique(), torch.arange(length))
    assert cut.shape[1] == -(-length // min(size, length))  # no more than it takes


@given(length=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_random_windows_are_consecutive_places_of_their_own_net(length, size, seed):
    rows = torch.arange(3 * length * 2).view(3, length, 2)
    starts = random_starts(length, size, 3, 4, torch.Generator().manual_seed(seed))
    cut = windows(rows, starts, size)
    assert cut.shape == (3, 4, min(size, length), 2)
    for net in range(3):
        for window, start in enumerate(starts[net].tolist()):
            assert torch.equal(cut[net, window], rows[net, start : start + size])


def test_every_place_is_drawn():
    starts = random_starts(10, 4, 50, 20, torch.Generator().manual_seed(0))
    assert torch.equal(starts.unique(), torch.arange(7))


def test_a_resumed_training_draws_what_an_uninterrupted_one_draws():
    torch.manual_seed(0)
    whole, resumed = Dice(), Dice()
    [whole() for _ in range(3)]
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(torch.rand(4, generator=resumed()), torch.rand(4, generator=whole()))
    assert not torch.equal(torch.rand(4, generator=resumed()), torch.rand(4, generator=Dice()()))
