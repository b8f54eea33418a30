"""Randomness is a function of its key alone, equal on every device, and looks random."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metanet import seeding

WORDS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=8))


def nets(count: int) -> torch.Tensor:
    return torch.arange(count)


def test_keys_are_these_forever():
    """Zoos on disk depend on these numbers; they may never change."""
    assert seeding.key(0) == 7070836379803831727
    assert seeding.key(7, 12, "initialisation") == 4840959170590584784
    assert seeding.uniform(torch.tensor([4840959170590584784]), 3)[0].mul(2**24).long().tolist() == [
        8389808,
        16678772,
        8309562,
    ]
    assert seeding.permutation(torch.tensor([4840959170590584784]), 8)[0].tolist() == [0, 7, 3, 1, 5, 4, 6, 2]


@given(
    seed=st.integers(0, 2**63 - 1), net=st.integers(0, 2**40), purpose=st.text(max_size=5), step=st.integers(0, 2**40)
)
def test_tensor_keys_equal_python_keys(seed, net, purpose, step):
    assert seeding.keys(seed, torch.tensor([net]), purpose, step).tolist() == [seeding.key(seed, net, purpose, step)]


@given(seed=st.integers(0, 2**63 - 1), words=st.lists(WORDS, max_size=4), more=WORDS)
def test_every_word_and_its_place_matter(seed, words, more):
    key = seeding.key(seed, *words)
    assert 0 <= key < 2**63
    assert seeding.key(seed, *words, more) != key
    assert seeding.key(seed + 1, *words) != key
    if words != words[::-1]:
        assert seeding.key(seed, *words[::-1]) != key


@given(group=st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True), count=st.integers(1, 50))
def test_a_net_draws_the_same_numbers_in_any_company(group, count):
    together = seeding.keys(3, torch.tensor(group), "dropout", 5)
    for draw in (seeding.uniform, seeding.normal, seeding.permutation):
        for row, one in zip(draw(together, count), together, strict=True):
            assert torch.equal(row, draw(one[None], count)[0])


def test_streams_of_different_purposes_steps_and_nets_differ():
    streams = [
        seeding.uniform(seeding.fold(seeding.keys(0, nets(4), purpose, step), part), 100)
        for purpose in ("a", "b")
        for step in (0, 1)
        for part in ("x", "y")
    ]
    together = torch.cat(streams)
    same = (together[:, None] == together[None]).all(-1)
    assert torch.equal(same, torch.eye(len(together), dtype=torch.bool))


def test_uniform_numbers_pass_kolmogorov_and_smirnov():
    drawn = seeding.uniform(seeding.keys(1, nets(16), "test"), 4096)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    assert min(stats.kstest(row.numpy(), "uniform").pvalue for row in drawn) > 1e-4


def test_normal_numbers_pass_kolmogorov_and_smirnov():
    drawn = seeding.normal(seeding.keys(2, nets(16), "test"), 41, 99)
    assert drawn.shape == (16, 41, 99)
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 64])
def test_neighbouring_numbers_nets_and_steps_are_uncorrelated(lag):
    drawn = torch.stack([seeding.uniform(seeding.keys(0, nets(128), "test", step), 512) for step in range(128)]) - 0.5
    scale = 12 * drawn.numel() ** 0.5  # a mean of products of variance 1/144 each
    for dim in range(3):
        left, right = drawn.narrow(dim, 0, drawn.shape[dim] - lag), drawn.narrow(dim, lag, drawn.shape[dim] - lag)
        assert abs(float((left * right).mean())) * scale < 5


def test_permutations_are_permutations_and_fair():
    orders = seeding.permutation(seeding.keys(0, nets(6000), "order"), 3)
    assert torch.equal(orders.sort(1).values, torch.arange(3).expand(6000, 3))
    counts = torch.bincount(orders @ torch.tensor([9, 3, 1]))
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3
    assert (counts > 0).sum() == 6


def test_bits_are_balanced_and_independent_of_each_other():
    bits = (seeding._bits(seeding.keys(5, nets(64), "bits"), 4096).flatten()[:, None] >> torch.arange(32)) & 1
    centred = bits.float() - 0.5
    correlation = centred.T @ centred / len(bits) * 4
    assert (correlation - torch.eye(32)).abs().max() < 5 / len(bits) ** 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_the_same_bits_as_the_cpu():
    here = seeding.keys(0, nets(5), "test", 3)
    there = seeding.keys(0, nets(5).cuda(), "test", 3)
    assert torch.equal(there.cpu(), here)
    assert torch.equal(seeding.uniform(there, 100).cpu(), seeding.uniform(here, 100))
    assert torch.equal(seeding.permutation(there, 1000).cpu(), seeding.permutation(here, 1000))
