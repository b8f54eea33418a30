import torch
from torch import nn

import metanet
from metanet.baselines.architecture_only import ArchitectureOnly
from metanet.baselines.majority import Majority
from metanet.baselines.statistics import Statistics
from metanet.dataset import Nets, Schema
from metanet.targets import Target

TARGETS = (Target("optimizer", "classification", ("adam", "rmsprop", "sgd")), Target("learning_rate", "regression"))
NARROW = metanet.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))
WIDE = metanet.trace(nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2)), torch.randn(2, 3))
SCHEMA = Schema(TARGETS, {"narrow": NARROW, "wide": WIDE})
NUMBERS = {
    "iterations": 60,
    "patience": 20,
    "learning_rate": 0.1,
    "leaves": [6],
    "min_samples": 5,
    "l2": 1.0,
    "feature_share": 1.0,
    "bins": 64,
}


def nets(arch: str, count: int, seed: int, optimizer: int | None = None) -> Nets:
    """The optimizer shows in the spread of the last layer, the learning rate in the mean of its bias."""
    generator = torch.Generator().manual_seed(seed)
    template = SCHEMA.templates[arch]
    params = {name: torch.randn(count, *shape, generator=generator) for name, shape in template.shapes.items()}
    known = torch.randint(3, (count,), generator=generator) if optimizer is None else torch.full((count,), optimizer)
    rate = torch.randn(count, generator=generator)
    params["2.weight"] *= 5.0 ** known.view(-1, 1, 1)
    params["2.bias"] = params["2.bias"] * 0.1 + rate.unsqueeze(1)
    return Nets(arch, template, params, torch.arange(count), {"optimizer": known, "learning_rate": rate})


def accuracy(model, group: Nets) -> float:
    return float((model([group])["optimizer"].argmax(1) == group.targets["optimizer"]).float().mean())


def test_statistics_find_what_the_weights_say_in_every_architecture():
    model = Statistics(SCHEMA, **NUMBERS)
    model.fit([nets("narrow", 90, 0), nets("wide", 90, 1)], [nets("narrow", 30, 2), nets("wide", 30, 3)])
    for arch in ("narrow", "wide"):
        test = nets(arch, 50, 4)
        assert accuracy(model, test) > 0.8
        error = model([test])["learning_rate"] - test.targets["learning_rate"]
        assert error.square().mean() < 0.4


def test_architecture_only_knows_the_shape_and_no_weight():
    model = ArchitectureOnly(SCHEMA, **NUMBERS)
    train = [nets("narrow", 60, 0, optimizer=0), nets("wide", 60, 1, optimizer=2)]
    model.fit(train, [nets("narrow", 20, 2, optimizer=0), nets("wide", 20, 3, optimizer=2)])
    assert accuracy(model, nets("narrow", 9, 5, optimizer=0)) == 1.0
    assert accuracy(model, nets("narrow", 9, 6, optimizer=2)) == 0.0  # though its weights are those of a "wide" net


def test_majority_predicts_the_training_frequencies_and_the_mean():
    model, train = Majority(SCHEMA), [nets("narrow", 30, 0, optimizer=1), nets("wide", 10, 1, optimizer=0)]
    model.fit(train, [nets("wide", 500, 2, optimizer=2)])  # validation nets count for nothing
    outputs = model([nets("narrow", 4, 3)])
    expected = torch.tensor([11.0, 31.0, 1.0]) / 43
    torch.testing.assert_close(outputs["optimizer"].softmax(1), expected.expand(4, 3))
    mean = torch.cat([group.targets["learning_rate"] for group in train]).mean()
    torch.testing.assert_close(outputs["learning_rate"], mean.expand(4))
