"""A zoo of implicit representations: what they read, what is known of them, and that they learn."""

import pyarrow.compute as pc
import pytest
import torch

from metanet import targets
from metanet.zoo import images
from metanet.zoo.make import make_zoo
from metanet.zoo.pixel_feed import places
from metanet.zoo.spec import check_spec
from metanet.zoo.store import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    spec = {
        "name": "tiny_inr", "seed": 0, "num_nets": 6, "images": ["digits"], "image_shape": [1, 8, 8], "num_classes": 10,
        "train_images": None, "eval_images": None, "epochs": 60, "learning_rate_decay": 1.0, "num_architectures": 1,
        "architectures": [{"family": "siren", "depth": 2, "width": 24, "omega": 30}], "snapshots": [0.0, 1.0],
        "hyperparameters": {
            "optimizer": "adam", "learning_rate": 0.003, "batch_size": 64, "activation": "sin",
            "initialisation": "siren", "augmentation": False, "dropout": 0.0, "weight_decay": 0.0,
        },
    }  # fmt: skip
    return make_zoo(check_spec(spec, "here"), tmp_path_factory.mktemp("zoos") / "inr", processes=1)


def test_each_net_paints_its_image(zoo):
    digits = images.load("digits")
    rows = zoo.manifest.filter(pc.field("step") == 60).to_pylist()
    assert len({row["image"] for row in rows}) > 1
    for row in rows:
        assert row["label"] == str(int(digits.train_labels[row["image"]]))
        painted = zoo.module(row["net"], 60)(places(8, 8).T).view(8, 8)
        wanted = digits.train[row["image"], 0] / 127.5 - 1
        loss = (painted - wanted).square().mean().item()
        assert row["train_loss"] == pytest.approx(loss, rel=1e-3)
        assert row["psnr"] > 20
    assert max(row["psnr"] for row in zoo.manifest.to_pylist() if row["step"] == 0) < 15


def test_what_the_image_shows_is_a_target_and_its_number_is_none(zoo):
    found = targets.candidates(zoo.manifest, zoo.columns["hyperparameters"])
    assert {"label", "psnr"} <= set(found)
    assert "image" not in found
    assert "test_accuracy" not in found


def test_the_graph_of_an_implicit_representation_reads_places(zoo):
    (arch,) = zoo.archs
    assert zoo.example_input(arch).shape == (2, 2)
    assert zoo.template(arch, "sin").num_params == 24 * 3 + 24 * 25 + 25


def test_places_reach_from_edge_to_edge_in_reading_order():
    assert places(2, 3).T.tolist() == [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    assert torch.equal(places(1, 1), torch.zeros(2, 1))
