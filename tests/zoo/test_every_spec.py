"""Every spec that ships trains, in a small version on the digits, and what it trains can be read and built."""

from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch

from metanet.zoo.make import make_zoo
from metanet.zoo.spec import load_spec

SHIPPED = sorted(Path("zoo_specs").glob("*.yaml"))
PUBLISHED = {"nws_fixed": (3_000, 1), "nws_main": (13_000, 243), "wild_park": (2_800, 700), "inr": (60_000, 1)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_small_version_of_every_spec_trains(path, tmp_path):
    spec = load_spec(path)
    families = len(spec.architectures)
    small = {
        "num_nets": 2 * families,
        "num_architectures": families,
        "images": ["digits"],
        "train_images": 32,
        "eval_images": 16,
        "epochs": 4 * spec.hyperparameters.get("early_stopping", 0) or 1,
        "snapshots": [0.0, 1.0],
        "hyperparameters": {"batch_size": 16},
    }
    zoo = make_zoo(load_spec(path, small), tmp_path / "zoo", processes=1)
    assert len(zoo) == 4 * families
    assert len(set(zoo.manifest["family"].to_pylist())) == families
    assert zoo.verify() == []
    last = zoo.manifest.filter(pc.field("step") > 0).to_pylist()[-1]
    state, first = (zoo.state_dict(last["net"], step) for step in (last["step"], 0))
    assert any(not torch.equal(state[name], first[name]) for name in state)
    assert torch.isfinite(zoo.module(last["net"], last["step"])(zoo.example_input(last["arch"]))).all()


@pytest.mark.parametrize(("name", "counts"), PUBLISHED.items())
def test_the_published_populations_have_their_published_size(name, counts):
    spec = load_spec(f"zoo_specs/{name}.yaml")
    assert (spec.num_nets, spec.num_architectures) == counts


def test_the_neural_weight_space_has_every_value_of_its_grid():
    """Eilertsen et al. (2020), table 1: 13 properties, of which batch norm is always on."""
    drawn = load_spec("zoo_specs/nws_main.yaml", {"num_nets": 1000}).nets()
    grid = {
        "filter_size": {3, 5, 7}, "conv_depth": {3, 4, 5}, "dense_depth": {2, 3, 4}, "conv_width": {4, 8, 12},
        "dense_width": {64, 128, 192}, "batch_norm": {True},
    }  # fmt: skip
    for name, values in grid.items():
        assert {net.arch[name] for net in drawn} == values
    choices = {
        "batch_size": {32, 64, 128, 256}, "augmentation": {False, True}, "optimizer": {"adam", "rmsprop", "momentum"},
        "activation": {"relu", "elu", "sigmoid", "tanh"}, "dropout": {0.5},
        "initialisation": {"constant", "normal", "glorot_uniform", "glorot_normal"},
    }  # fmt: skip
    for name, values in choices.items():
        assert {net.hyperparameters[name] for net in drawn} == values
    rates = [net.hyperparameters["learning_rate"] for net in drawn]
    assert 2e-4 <= min(rates) < 3e-4
    assert 4.8e-3 < max(rates) <= 5e-3
    assert {net.image_set for net in drawn} == {"mnist", "cifar10", "svhn", "stl10", "fashion_mnist"}
    assert all(len(net.snapshots) == 20 and net.snapshots[0] == 0 and net.snapshots[-1] == 1 for net in drawn)
    assert all(net.arch["num_classes"] == 20 for net in drawn)
    fixed = load_spec("zoo_specs/nws_fixed.yaml", {"num_nets": 1}).nets()[0].arch
    assert {name: fixed[name] for name in grid} == {
        "filter_size": 5, "conv_depth": 3, "dense_depth": 2, "conv_width": 8, "dense_width": 128, "batch_norm": True
    }  # fmt: skip
