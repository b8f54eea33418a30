"""The line between two nets, against plain loops over plain nets."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metanet.interpolation import Line, interpolate, line, reset_statistics


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).double()


def some_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    return [(part, (part[:, 0] > 0).long()) for part in images.split(8)]


def test_loss_and_accuracy_on_the_line_are_those_of_the_interpolated_nets():
    torch.manual_seed(0)
    a, b, batches = net(), net(), some_batches()
    found = line(a, a.state_dict(), b.state_dict(), batches, points=5)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    for place, loss, accuracy in zip(found.places, found.loss, found.accuracy, strict=True):
        middle = net().eval()
        middle.load_state_dict(interpolate(a.state_dict(), b.state_dict(), place))
        logits = middle(images)
        assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-12)
        assert accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert found.places == (0, 0.25, 0.5, 0.75, 1)


def test_the_barrier_is_the_largest_excess_over_the_straight_line():
    assert Line((0.0, 0.5, 1.0), (1.0, 4.0, 2.0), (0.0, 0.0, 0.0)).barrier == 2.5
    assert Line((0.0, 0.5, 1.0), (1.0, 0.5, 2.0), (0.0, 0.0, 0.0)).barrier == 0


def test_reset_statistics_are_the_means_over_batches_as_torch_measures_them():
    torch.manual_seed(1)
    module, inputs = net(), [images for images, _ in some_batches()]
    before = copy.deepcopy(module.state_dict())
    found = reset_statistics(module, module.state_dict(), inputs)
    hidden = [module[0](images) for images in inputs]
    mean = torch.stack([values.mean(0) for values in hidden]).mean(0)
    variance = torch.stack([values.var(0) for values in hidden]).mean(0)
    torch.testing.assert_close(found["1.running_mean"], mean)
    torch.testing.assert_close(found["1.running_var"], variance)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training
    reset = line(module, before, before, some_batches(), points=2, reset=inputs)
    assert reset.loss[0] != line(module, before, before, some_batches(), points=2).loss[0]


def test_a_line_without_points_or_batches_is_refused():
    state = net().state_dict()
    with pytest.raises(ValueError, match="two points and a batch at least, found 1 and 3"):
        line(net(), state, state, some_batches(), points=1)
    with pytest.raises(ValueError, match="found 11 and 0"):
        line(net(), state, state, [])


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_net_that_holds_a_computed_weight_has_a_line():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2)).double() for _ in range(2))
    a(some_batches()[0][0])  # the old weight norm holds what it computed, which torch cannot copy
    found = line(a, a.state_dict(), b.state_dict(), some_batches(), points=2)
    loss = sum(F.cross_entropy(b(x), y, reduction="sum").item() for x, y in some_batches()) / 24
    assert found.loss[1] == pytest.approx(loss, rel=1e-12)
