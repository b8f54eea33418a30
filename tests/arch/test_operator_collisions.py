"""The collision suite for operators: pairs that differ in a number, an order, a side or an axis of one operator."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanet.views.isomorphism import canonical_hash
from tests.arch.test_collisions import Forward, Net, conv, drawn, graph_of, outputs, through, ways


class Placed(Net):
    """Reads every place of what the function gives in a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.stem(x))).square().flatten(2).cumsum(2).mean(2)


def using(*made: Callable[[], nn.Module]) -> Callable[[Forward], Net]:
    return lambda forward: Placed(forward, made)


ONE, TWO = using(conv(padding=1)), using(conv(padding=1), conv(padding=1))
SQUARE = using(partial(nn.Linear, 6, 6))
HIDDEN = using(partial(nn.Linear, 6, 5), partial(nn.Linear, 5, 6))
ROW = using(partial(nn.LSTM, 4, 4, batch_first=True))
TABLE = torch.arange(6.0)


def of_tokens(x: Tensor) -> Tensor:
    """Images as sequences of their pixels, a few of them."""
    return x.flatten(2).transpose(1, 2)[:, :5]


def image(y: Tensor) -> Tensor:
    return y.transpose(1, 2).unsqueeze(-1)


def attended(x: Tensor) -> Tensor:
    """Places of the last axis but one look at each other; channels are the last."""
    return (x @ x.mT).softmax(-1) @ x


GROUPS = {
    "operands": ways(
        TWO,
        lambda net, x: net.layers[0](x) - net.layers[1](x),
        lambda net, x: net.layers[1](x) - net.layers[0](x),
        lambda net, x: net.layers[0](x) / (net.layers[1](x).square() + 1),
        lambda net, x: net.layers[1](x) / (net.layers[0](x).square() + 1),
        lambda net, x: torch.atan(net.layers[0](x)) * net.layers[1](x),
        lambda net, x: (net.layers[0](x).square() + 1) ** torch.tanh(net.layers[1](x)),
        lambda net, x: (net.layers[1](x).square() + 1) ** torch.tanh(net.layers[0](x)),
        lambda net, x: torch.complex(net.layers[0](x), net.layers[1](x)).exp().abs(),
        lambda net, x: torch.complex(net.layers[1](x), net.layers[0](x)).exp().abs(),
    ),
    "numbers": ways(
        ONE,
        lambda net, x: net.layers[0](x) ** 2,
        lambda net, x: net.layers[0](x) ** 3,
        lambda net, x: net.layers[0](x) / 3,
        lambda net, x: net.layers[0](x) * 3,
        lambda net, x: 3 - net.layers[0](x),
        lambda net, x: net.layers[0](x) - 3,
        lambda net, x: net.layers[0](x).clamp(-1, 1),
        lambda net, x: net.layers[0](x).clamp(-1, 2),
        lambda net, x: net.layers[0](x).clamp(min=-1),
        lambda net, x: net.layers[0](x).clamp(max=-1),
        lambda net, x: F.softplus(net.layers[0](x), beta=2),
        lambda net, x: F.softplus(net.layers[0](x), beta=1),
        lambda net, x: torch.add(x, net.layers[0](x), alpha=2),
        lambda net, x: torch.add(net.layers[0](x), x, alpha=2),
        lambda net, x: torch.where(x > 0, net.layers[0](x), 0.5),
        lambda net, x: torch.where(x > 0, net.layers[0](x), 1.5),
    ),
    "softmax": ways(
        ONE,
        lambda net, x: net.layers[0](x).softmax(1),
        lambda net, x: net.layers[0](x).softmax(2),
        lambda net, x: net.layers[0](x).softmax(3),
        lambda net, x: net.layers[0](x).flatten(2).softmax(2).view(x.shape),
        lambda net, x: net.layers[0](x).log_softmax(1),
        lambda net, x: (2 * net.layers[0](x)).softmax(1),
    ),
    "slices": ways(
        ONE,
        lambda net, x: net.layers[0](x)[:, :, 1:],
        lambda net, x: net.layers[0](x)[:, :, :-1],
        lambda net, x: net.layers[0](x)[..., ::2],
        lambda net, x: net.layers[0](x)[..., 1::2],
        lambda net, x: net.layers[0](x[:, [0, 1, 0, 1]]) * net.layers[0](x)[:, :1],
        lambda net, x: net.layers[0](x[:, [0, 1, 0, 1]]) * net.layers[0](x)[:, 1:2],
        lambda net, x: net.layers[0](x[:, [0, 1, 0, 1]]) * net.layers[0](x)[:, 2:3],
        lambda net, x: net.layers[0](x)[:, :, 2:3].expand_as(x) * x,
        lambda net, x: net.layers[0](x)[:, :, 3:4].expand_as(x) * x,
    ),
    "places moved": ways(
        ONE,
        lambda net, x: net.layers[0](x) * x,
        lambda net, x: net.layers[0](x) * x.flip(2),
        lambda net, x: net.layers[0](x) * x.flip(3),
        lambda net, x: net.layers[0](x) * x.flip(1),
        lambda net, x: net.layers[0](x) * x.roll(1, 2),
        lambda net, x: net.layers[0](x) * x.roll(-1, 2),
        lambda net, x: net.layers[0](x) * x.roll(1, 3),
        lambda net, x: net.layers[0](x) * F.pad(x, (1, 0))[..., :-1],
        lambda net, x: net.layers[0](x) * F.pad(x, (0, 1))[..., 1:],
        lambda net, x: net.layers[0](x)[:, :, :6] * x[:, :, :6].mT,
    ),
    "reductions": ways(
        ONE,
        lambda net, x: net.layers[0](x) * x.mean(2, keepdim=True),
        lambda net, x: net.layers[0](x) * x.mean(3, keepdim=True),
        lambda net, x: net.layers[0](x) * x.mean(1, keepdim=True),
        lambda net, x: net.layers[0](x) * x.sum(1, keepdim=True),
        lambda net, x: net.layers[0](x) * x.mean((1, 2), keepdim=True),
        lambda net, x: net.layers[0](x) * x.var(3, keepdim=True),
        lambda net, x: net.layers[0](x) * x.var(3, correction=0, keepdim=True),
        lambda net, x: net.layers[0](x) * x.std(3, keepdim=True),
        lambda net, x: net.layers[0](x) * x.norm(dim=3, keepdim=True),
        lambda net, x: net.layers[0](x) * x.flip(3).cumsum(3),
        lambda net, x: net.layers[0](x) * x.cumsum(3),
    ),
    "norms": ways(
        ONE,
        lambda net, x: F.instance_norm(net.layers[0](x)),
        lambda net, x: F.instance_norm(net.layers[0](x), eps=0.1),
        lambda net, x: F.group_norm(net.layers[0](x), 1),
        lambda net, x: F.group_norm(net.layers[0](x), 2),
        lambda net, x: F.normalize(net.layers[0](x), dim=1),
        lambda net, x: F.normalize(net.layers[0](x), dim=2),
        lambda net, x: F.normalize(net.layers[0](x), dim=1, eps=50),
        lambda net, x: F.rms_norm(net.layers[0](x), (6,)),
        lambda net, x: F.rms_norm(net.layers[0](x), (6,), eps=0.1),
        lambda net, x: F.layer_norm(net.layers[0](x), (6,)),
        lambda net, x: F.rms_norm(net.layers[0](x).movedim(1, -1), (4,)).movedim(-1, 1),
    ),
    "sizes": ways(
        ONE,
        lambda net, x: F.interpolate(net.layers[0](x), scale_factor=1.5),
        lambda net, x: F.interpolate(net.layers[0](x), scale_factor=1.5, mode="nearest-exact"),
        lambda net, x: F.interpolate(net.layers[0](x), scale_factor=1.5, mode="bilinear"),
        lambda net, x: F.interpolate(net.layers[0](x), scale_factor=1.5, mode="bicubic"),
        lambda net, x: F.adaptive_max_pool2d(net.layers[0](x), (3, 2)),
        lambda net, x: F.adaptive_avg_pool2d(net.layers[0](x), (3, 2)),
        lambda net, x: F.avg_pool2d(net.layers[0](x), 2, ceil_mode=True),
        lambda net, x: F.avg_pool2d(net.layers[0](x), 2),
        lambda net, x: F.lp_pool2d(net.layers[0](x).abs() + 0.1, 2.0, 2),
        lambda net, x: F.lp_pool2d(net.layers[0](x).abs() + 0.1, 3.0, 2),
    ),
    "channels shuffled": ways(
        TWO,
        lambda net, x: net.layers[1](net.layers[0](x)),
        lambda net, x: net.layers[1](net.layers[0](x)) + x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
        lambda net, x: net.layers[1](net.layers[0](x)) + x,
        lambda net, x: net.layers[1](net.layers[0](x)) + x[:, :2].repeat(1, 2, 1, 1),
        lambda net, x: net.layers[1](net.layers[0](x)) + x[:, :2].repeat_interleave(2, 1),
        lambda net, x: net.layers[1](net.layers[0](x)) + x[:, 2:].repeat(1, 2, 1, 1),
        lambda net, x: F.pixel_shuffle(net.layers[1](net.layers[0](x)), 2).repeat(1, 4, 1, 1),
    ),
    "places put together": ways(
        ONE,
        lambda net, x: torch.cat([net.layers[0](x), x], 2),
        lambda net, x: torch.cat([x, net.layers[0](x)], 2),
        lambda net, x: torch.cat([net.layers[0](x), x], 3),
        lambda net, x: torch.cat([x, net.layers[0](x)], 3),
        lambda net, x: torch.stack([x, net.layers[0](x)], 4).flatten(3),
        lambda net, x: torch.cat([net.layers[0](x), torch.ones_like(x)], 3),
        lambda net, x: torch.cat([net.layers[0](x), 2 * torch.ones_like(x)], 3),
    ),
    "constants": ways(
        ONE,
        lambda net, x: net.layers[0](x) + TABLE,
        lambda net, x: net.layers[0](x) + TABLE.flip(0),
        lambda net, x: net.layers[0](x) - TABLE,
        lambda net, x: net.layers[0](x) * TABLE,
        lambda net, x: net.layers[0](x) + TABLE[:4, None, None],
        lambda net, x: net.layers[0](x)[:, :, :6] + TABLE[:, None],
        lambda net, x: net.layers[0](x).masked_fill(TABLE > 2, 0.5),
        lambda net, x: net.layers[0](x).masked_fill(TABLE > 2, 1.5),
        lambda net, x: net.layers[0](x).masked_fill(TABLE < 2, 0.5),
    ),
    "axis of a layer over places": ways(
        SQUARE,
        lambda net, x: net.layers[0](x[:, :, :6]),
        lambda net, x: net.layers[0](x[:, :, :6].mT),
        lambda net, x: net.layers[0](x[:, :, :6].mT).mT,
        lambda net, x: net.layers[0](x[:, :, 1:]),
        lambda net, x: net.layers[0](x[:, :, :6].flip(3)),
    ),
    "hidden places": ways(
        HIDDEN,
        lambda net, x: net.layers[1](torch.relu(net.layers[0](x[:, :, :6]))),
        lambda net, x: net.layers[1](torch.tanh(net.layers[0](x[:, :, :6]))),
        lambda net, x: net.layers[1](torch.relu(net.layers[0](x[:, :, :6].mT))),
        lambda net, x: net.layers[1](torch.relu(net.layers[0](x[:, :, :6].mT))).mT,
        lambda net, x: net.layers[1](torch.relu(net.layers[0](torch.relu(x[:, :, :6])))),
        lambda net, x: net.layers[1](net.layers[0](x[:, :, :6]).softmax(-1)),
        lambda net, x: net.layers[1](net.layers[0](x[:, :, :6]).softmax(1)),
    ),
    "steps": ways(
        ROW,
        lambda net, x: image(net.layers[0](of_tokens(x))[0]),
        lambda net, x: image(net.layers[0](of_tokens(x).flip(1))[0]),
        lambda net, x: image(net.layers[0](of_tokens(x))[0][:, -1:]),
        lambda net, x: image(net.layers[0](of_tokens(x))[0][:, :1]),
        lambda net, x: net.layers[0](of_tokens(x))[1][1].movedim(0, 2)[..., None],
        lambda net, x: image(net.layers[0](of_tokens(x).flatten(0, 1)[None])[0]).flatten(2).unflatten(2, (1, -1)),
    ),
    "who attends to whom": ways(
        ONE,
        lambda net, x: attended(net.layers[0](x)),
        lambda net, x: attended(net.layers[0](x).mT).mT,
        lambda net, x: attended(net.layers[0](x).movedim(1, 3)).movedim(3, 1),
        lambda net, x: attended(net.layers[0](x).permute(0, 3, 2, 1)).permute(0, 3, 2, 1),
        lambda net, x: torch.einsum("ncij,ncik,nckl->ncjl", net.layers[0](x), x, x.mT[..., :6]),
        lambda net, x: torch.einsum("ncij,nkij->nkij", net.layers[0](x), x),
        lambda net, x: torch.einsum("ncij,nkij->ncij", net.layers[0](x), x),
    ),
}


QUICK = ("operands", "slices", "places moved", "axis of a layer over places", "hidden places", "steps")


@pytest.mark.parametrize(
    "difference", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GROUPS]
)
def test_operators_that_compute_different_functions_leave_different_graphs(difference):
    makers = list(dict.fromkeys(make for pair in GROUPS[difference] for make in pair))
    hashes, results = [], []
    for make in makers:
        net = make()
        hashes.append(canonical_hash(graph_of(net, drawn(net))))
        results.append(outputs(net, drawn(net)))
    for one in range(len(makers)):
        for other in range(one):
            a, b = results[one], results[other]
            assert a.shape != b.shape or (a - b).abs().max() > 1e-9 * b.abs().max(), (other, one)
            assert hashes[one] != hashes[other], (other, one)


ALIKE = {
    "momentum": (
        lambda: using(conv(), partial(nn.BatchNorm2d, 4))(through),
        lambda: using(conv(), partial(nn.BatchNorm2d, 4, momentum=0.5))(through),
    ),
    "dropout": (
        lambda: using(conv(), partial(nn.Dropout2d, 0.1))(through),
        lambda: using(conv(), partial(nn.Dropout2d, 0.6))(through),
    ),
    "views": (lambda: ONE(through), lambda: ONE(lambda net, x: net.layers[0](x.flatten(2).view(x.shape).mT.mT))),
    "order of a sum": (
        lambda: ONE(lambda net, x: net.layers[0](x) + x),
        lambda: ONE(lambda net, x: x + net.layers[0](x)),
    ),
    "order of a product": (
        lambda: TWO(lambda net, x: net.layers[0](x) * net.layers[1](x)),
        lambda: TWO(lambda net, x: net.layers[1](x) * net.layers[0](x)),
    ),
    "operator or method": (
        lambda: ONE(lambda net, x: torch.mul(net.layers[0](x), 2.5).sigmoid()),
        lambda: ONE(lambda net, x: torch.sigmoid(2.5 * net.layers[0](x))),
    ),
}


@pytest.mark.parametrize("difference", ALIKE)
def test_what_computes_the_same_leaves_the_same_graph(difference):
    one, other = (make() for make in ALIKE[difference])
    state = drawn(one)
    torch.testing.assert_close(outputs(one, state), outputs(other, state), rtol=1e-12, atol=1e-12)
    assert canonical_hash(graph_of(one, state)) == canonical_hash(graph_of(other, state))
