import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metanet.blocks.pool import STATISTICS, pool


def plain(x: torch.Tensor, dims: tuple[int, ...], statistics: tuple[str, ...]) -> torch.Tensor:
    """torch's own reductions, one by one."""
    return torch.cat(
        [
            {
                "mean": lambda: x.mean(dims),
                "std": lambda: (x.var(dims, correction=0) + 1e-6).sqrt(),
                "max": lambda: x.amax(dims),
                "min": lambda: x.amin(dims),
            }[statistic]()
            for statistic in statistics
        ],
        -1,
    )


@given(
    dims=st.sampled_from([(1,), (2,), (1, 2), (-2,)]),
    statistics=st.lists(st.sampled_from(STATISTICS), min_size=1, max_size=4, unique=True).map(tuple),
    ties=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_pooling_and_its_gradient_equal_torchs_reductions(dims, statistics, ties, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    x = (x.round() if ties else x).requires_grad_()
    weight = torch.randn(plain(x, dims, statistics).shape, generator=generator, dtype=torch.float64)
    ours, oracle = pool(x, dims, statistics), plain(x, dims, statistics)
    torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad((ours * weight).sum(), x)
    (expected,) = torch.autograd.grad((oracle * weight).sum(), x)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-6)


def test_pooling_ignores_the_order_of_a_set_and_notices_its_values():
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(pool(x, (1,)), pool(x[:, torch.randperm(6)], (1,)))
    assert not torch.allclose(pool(x, (1,)), pool(x + 0.1, (1,)))


def test_an_unknown_statistic_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\['median'\]: expected some of mean, std, max, min"):
        pool(torch.zeros(1, 2, 3), (1,), ("median",))
