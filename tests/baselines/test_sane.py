from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

import metanet
from metanet.baselines.sane import SANE, nt_xent
from metanet.dataset import Nets, Schema
from metanet.targets import Target

SMALL = metanet.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))
LARGE = metanet.trace(nn.Sequential(nn.Linear(3, 30), nn.ReLU(), nn.Linear(30, 2)), torch.randn(2, 3))
SCHEMA = Schema((Target("value", "regression"),), {"small": SMALL})
NUMBERS = OmegaConf.load(Path(__file__).parents[2] / "configs/model/sane.yaml")


def model(**changed: Any) -> SANE:
    torch.manual_seed(0)
    numbers = {str(name): value for name, value in NUMBERS.items() if name not in ("_target_", "training")}
    small = {"token_size": 6, "window": 8, "width": 16, "depth": 1, "latent": 8, "dropout": 0.0}
    return SANE(SCHEMA, **(numbers | small | changed)).double()


def nets(template, count: int, seed: int = 0) -> Nets:
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        for name, shape in template.shapes.items()
    }
    return Nets("some", template, params, torch.arange(count), {"value": torch.zeros(count, dtype=torch.float64)})


def test_contrast_is_the_sum_over_pairs_of_simclr_s_equation_1():
    a, b = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    views, losses = torch.cat([a, b]), []
    for i in range(8):
        likeness = [float(torch.exp(F.cosine_similarity(views[i], views[k], dim=0) / 0.2)) for k in range(8)]
        losses.append(-torch.tensor(likeness[(i + 4) % 8] / (sum(likeness) - likeness[i])).log())
    torch.testing.assert_close(nt_xent(a, b, 0.2), torch.stack(losses).mean().double(), rtol=1e-5, atol=1e-6)


def test_contrast_is_lower_for_views_of_the_same_nets():
    a = torch.randn(6, 5)
    assert nt_xent(a, a + 0.01 * torch.randn(6, 5), 0.1) < nt_xent(a, torch.randn(6, 5), 0.1)


@given(seed=st.integers(0, 99))
def test_a_larger_net_in_the_batch_moves_no_prediction(seed):
    """Published fault: a softmax over padded tokens moved predictions by twice the spread between nets."""
    sane, group = model().eval(), nets(SMALL, 3, seed)
    alone, mixed = sane([group])["value"], sane([group, nets(LARGE, 2, seed)])["value"][:3]
    torch.testing.assert_close(mixed, alone, rtol=1e-10, atol=1e-12)


def test_a_net_of_many_windows_is_read_whole():
    sane, group = model().eval(), nets(LARGE, 1)
    params = {name: tensor.clone().requires_grad_() for name, tensor in group.params.items()}
    sane([replace(group, params=params)])["value"].sum().backward()
    assert all(tensor.grad is not None and tensor.grad.all() for tensor in params.values())


def test_pretraining_learns_to_reconstruct_and_draws_from_its_generator_alone():
    sane, batch = model(), [nets(SMALL, 16), nets(LARGE, 8)]
    first = sane.pretrain_loss(batch, torch.Generator().manual_seed(5))
    torch.manual_seed(123)
    assert torch.equal(sane.pretrain_loss(batch, torch.Generator().manual_seed(5)), first)
    optimizer = torch.optim.Adam(sane.parameters(), 3e-3)
    for step in range(30):
        loss = sane.pretrain_loss(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.8 * first


def test_a_probe_leaves_the_encoder_as_it_was_pretrained():
    for fine_tune in (False, True):
        sane = model(fine_tune=fine_tune)
        sane([nets(SMALL, 4)])["value"].square().sum().backward()
        learning = {name.split(".")[0] for name, p in sane.named_parameters() if p.grad is not None}
        assert "heads" in learning
        assert ("encoder" in learning) == fine_tune


def test_training_shows_another_order_of_the_hidden_units_each_time_and_prediction_none():
    sane, group = model(window=100), nets(SMALL, 3)  # one window holds the net, so only the order can differ
    assert not torch.allclose(sane([group])["value"], sane([group])["value"])
    sane.eval()
    assert torch.equal(sane([group])["value"], sane([group])["value"])


def test_a_width_that_the_heads_do_not_divide_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="width 18 is no multiple of heads 4"):
        model(width=18)
