"""Each optimizer of a population is its namesake in torch.optim, row by row."""

import pytest
import torch

from metanet.zoo import optimisers
from metanet.zoo.optimisers import OPTIMIZERS, StackOptimizer

TORCH = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "momentum": lambda weights, **options: torch.optim.SGD(weights, momentum=0.95, **options),
    "sgd": torch.optim.SGD,
}
NAMES = ["adam", "adam", "adamw", "adamw", "momentum", "momentum", "rmsprop", "rmsprop", "sgd", "sgd"]
DECAY = torch.tensor([0.0, 0.1] * 5, dtype=torch.float64)


def descend(names: list[str], decay: torch.Tensor, rates: torch.Tensor, steps: int, columns: int) -> torch.Tensor:
    """Weights [nets, columns] after some steps down the slope of cos, from the same place in every row."""
    weights = torch.linspace(-3, 3, columns, dtype=torch.float64).repeat(len(names), 1)
    proposed, optimizer = torch.empty_like(weights), StackOptimizer(names, decay, weights)
    for step in range(1, steps + 1):
        before, gradients = weights.clone(), -weights.sin()
        optimizer.propose(weights, gradients, rates[:, None] * 0.9**step, step, out=proposed)
        assert torch.equal(weights.nan_to_num(), before.nan_to_num())
        weights.copy_(proposed)
    return weights


def test_every_optimizer_equals_torchs():
    assert set(NAMES) == set(OPTIMIZERS)
    rates = torch.linspace(0.01, 0.1, len(NAMES), dtype=torch.float64)
    found = descend(NAMES, DECAY, rates, steps=30, columns=50)
    for row, name in enumerate(NAMES):
        weights = torch.linspace(-3, 3, 50, dtype=torch.float64).requires_grad_()
        optimizer = TORCH[name]([weights], lr=0.0, weight_decay=DECAY[row].item())
        for step in range(1, 31):
            optimizer.param_groups[0]["lr"] = rates[row].item() * 0.9**step
            weights.grad = -weights.detach().sin()
            optimizer.step()
        torch.testing.assert_close(found[row], weights.detach(), rtol=1e-12, atol=1e-14)


def test_the_blocks_of_columns_do_not_show(monkeypatch):
    rates = torch.full((10,), 0.01, dtype=torch.float64)
    whole = descend(NAMES, DECAY, rates, steps=3, columns=97)
    monkeypatch.setattr(optimisers, "_BLOCK", 16)
    assert torch.equal(descend(NAMES, DECAY, rates, steps=3, columns=97), whole)


@pytest.mark.parametrize("row", range(10))
def test_a_row_does_not_feel_the_others(row):
    """Bit for bit, even where the others are not finite."""
    rates = torch.full((10,), 0.01, dtype=torch.float64)
    wild = torch.where(torch.arange(10) == row, rates, torch.nan)
    calm = descend(NAMES, DECAY, rates, steps=3, columns=20)
    disturbed = descend(NAMES, DECAY, wild, steps=3, columns=20)
    assert torch.equal(disturbed[row], calm[row])
    assert disturbed.isnan().any(1).sum() == 9


def test_moments_are_kept_in_the_state():
    weights = torch.zeros(10, 4)
    state = StackOptimizer(NAMES, DECAY, weights).state()
    assert set(state) == {"0.0", "0.1", "1.0", "1.1", "2.0", "3.0"}  # run of rows . moment
    assert {tuple(value.shape) for value in state.values()} == {(2, 4)}
