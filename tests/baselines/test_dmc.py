import pytest
import torch
from torch import nn

import metanet
from metanet.baselines.dmc import DMC
from metanet.dataset import Nets, Schema
from metanet.targets import Target

SHORT = metanet.trace(nn.Linear(3, 2), torch.randn(2, 3))
LONG = metanet.trace(nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 2)), torch.randn(2, 9))
SCHEMA = Schema((Target("value", "regression"),), {"short": SHORT, "long": LONG})


def model(slice_length: int = 32, num_slices: int = 3) -> DMC:
    torch.manual_seed(0)
    return DMC(
        SCHEMA, slice_length, num_slices, depth=3, width=2, max_width=4, kernel=5, dense=[8, 6], dropout=0.0
    ).double()


def nets(template, count: int) -> Nets:
    params = {name: torch.randn(count, *shape, dtype=torch.float64) for name, shape in template.shapes.items()}
    return Nets("short" if template is SHORT else "long", template, params, torch.arange(count))


def test_a_prediction_is_the_mean_vote_of_the_slices_that_cover_the_net():
    dmc, group = model().eval(), nets(LONG, 2)
    slices = dmc.slices(group, None)
    assert slices.shape == (2, -(-242 // 32), 32)
    votes = [dmc.heads(dmc.dense(dmc.convolutions(s.unsqueeze(1)).flatten(1)))["value"] for s in slices.unbind(1)]
    torch.testing.assert_close(dmc([group])["value"], torch.stack(votes).mean(0))


def test_every_weight_has_a_vote():
    dmc, group = model().eval(), nets(LONG, 1)
    params = {name: tensor.clone().requires_grad_() for name, tensor in group.params.items()}
    dmc([Nets("long", LONG, params, group.rows)])["value"].sum().backward()
    assert all((tensor.grad != 0).float().mean() > 0.5 for tensor in params.values() if tensor.grad is not None)
    assert all(tensor.grad is not None for tensor in params.values())


def test_a_net_shorter_than_a_slice_is_padded_with_zeros():
    slices = model().slices(nets(SHORT, 2), None)
    assert slices.shape == (2, 1, 32)
    assert slices[..., :8].all()
    assert not slices[..., 8:].any()


def test_training_reads_random_slices_and_prediction_the_same_every_time():
    dmc, group = model(), nets(LONG, 2)
    assert dmc.slices(group, torch.Generator()).shape == (2, 3, 32)
    assert dmc.slices(nets(SHORT, 2), torch.Generator()).shape == (2, 1, 32)  # more would be copies
    assert not torch.equal(dmc([group])["value"], dmc([group])["value"])
    dmc.eval()
    assert torch.equal(dmc([group])["value"], dmc([group])["value"])


def test_a_slice_too_short_for_the_depth_is_refused_and_the_shortest_trains_on_one_net():
    with pytest.raises(ValueError, match=r"slice_length=4: expected more than 2\^2, which depth=3 needs"):
        model(slice_length=4)
    assert model(slice_length=9, num_slices=1)([nets(SHORT, 1)])["value"].isfinite().all()


def test_a_net_with_parameters_that_no_training_net_had_is_refused():
    group = Nets("cnn", metanet.trace(nn.Conv2d(1, 2, 3), torch.randn(2, 1, 5, 5)), {}, torch.arange(1))
    group = nets(group.template, 1)
    with pytest.raises(ValueError, match="parameters of kind 'conv', but the model was trained on bias, linear"):
        model().eval()([group])
