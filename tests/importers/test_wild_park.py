"""The CNN Wild Park: checkpoints that hold a config of omegaconf and a class of their authors' code."""

import contextlib
import json
import pickle
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from metanet.errors import RefusedError
from metanet.importers.intake.writing import import_zoo
from tests.importers import foreign, hostile
from tests.zoo.making import tree

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "none": lambda x: x,
}
NETS: dict[str, dict[str, list[Any]]] = {  # run: what its config says layer by layer
    "run_a": {"channels": [3, 4, 8], "kernel_size": [3, 5], "residual": [-1, -1], "activation": ["relu", "gelu"]},
    "run_b": {
        "channels": [3, 4, 8, 6, 8],
        "kernel_size": [3, 5, 7, 3],
        "residual": [-1, -1, 0, 1],
        "activation": ["tanh", "none", "sigmoid", "leaky_relu"],
    },
    "run_c": {"channels": [3, 4, 4, 4], "kernel_size": [3, 3, 3], "residual": [-1, -1, 0], "activation": ["relu"] * 3},
    "run_d": {"channels": [3, 6], "kernel_size": [3], "residual": [-1], "activation": ["tanh"]},
}
EPOCHS = (10, 20)


def config(net: dict[str, list[Any]]) -> dict[str, Any]:
    depth = len(net["kernel_size"])
    rest = {"stride": [1] * depth, "padding": [kernel // 2 for kernel in net["kernel_size"]]}
    return {"n_layers": depth, "n_classes": 10, **net, **rest}


def weights(net: dict[str, list[Any]], seed: int) -> dict[str, Tensor]:
    channels, kernels = net["channels"], net["kernel_size"]
    shapes = {}
    for layer, kernel in enumerate(kernels):
        shapes[f"layers.{layer}.weight"] = (channels[layer + 1], channels[layer], kernel, kernel)
        shapes[f"layers.{layer}.bias"] = (channels[layer + 1],)
    shapes |= {"fc.weight": (10, channels[-1]), "fc.bias": (10,)}
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    numbers = torch.from_numpy(foreign.integers(sum(sizes), seed)).float().split(sizes)
    return {name: part.view(shape).clone() for (name, shape), part in zip(shapes.items(), numbers, strict=True)}


def forward(state_dict: dict[str, Tensor], net: dict[str, list[Any]], x: Tensor) -> Tensor:
    """Their CNN: a layer keeps its output for those that add it later."""
    tensors, kept = {name: tensor.double() for name, tensor in state_dict.items()}, {}
    for layer, (kernel, source, activation) in enumerate(
        zip(net["kernel_size"], net["residual"], net["activation"], strict=True)
    ):
        x = F.conv2d(x, tensors[f"layers.{layer}.weight"], tensors[f"layers.{layer}.bias"], padding=kernel // 2)
        if source >= 0:
            shared = min(x.shape[1], kept[source].shape[1])
            x = torch.cat((x[:, :shared] + kept[source][:, :shared], x[:, shared:]), 1)
        kept[layer] = x = ACTIVATIONS[activation](x)
    return x.mean((2, 3)) @ tensors["fc.weight"].T + tensors["fc.bias"]


@contextlib.contextmanager
def their_code() -> Iterator[Any]:
    """Their class, which is there only while checkpoints are written."""

    @dataclass(frozen=True)
    class CNNConfig:
        n_layers: int
        n_classes: int
        channels: list[int]
        kernel_size: list[int]
        stride: list[int]
        padding: list[int]
        residual: list[int]
        activation: list[str]

    module: Any = types.ModuleType("create_random_cnns")
    CNNConfig.__module__, CNNConfig.__qualname__, module.CNNConfig = module.__name__, "CNNConfig", CNNConfig
    sys.modules[module.__name__] = module
    yield CNNConfig
    del sys.modules[module.__name__]


def checkpoint(
    their_config: Any, net: dict[str, list[Any]], seed: int, epoch: int, name: str = "AdamW"
) -> dict[str, Any]:
    """As their Trainable writes it: the config is a node of omegaconf, inside that of the whole run."""
    optimizer = {"_target_": f"torch.optim.{name}", "lr": 0.001, "weight_decay": 0.0}
    run = {"name": "cifar10_zooV2", "model": their_config(**config(net)), "optimizer": optimizer}
    run |= {"batch_size": 512, "seed": 1, "data": {"root": Path("/somebody/cifar10")}}
    result = {"test/acc": 0.5 + epoch / 1000, "test/loss": 1.5, "training_iteration": epoch, "config": run}
    model = weights(net, seed)
    moments = {number: {"exp_avg": torch.zeros(3), "step": torch.tensor(3.0)} for number in range(2)}
    rest = {"iteration": epoch, "timesteps_total": None, "last_result": result, "ray_version": "2.5.0"}
    return {"model": model, "optimizer": {"state": moments}, "config": OmegaConf.create(run).model, **rest}


def put(folder: Path, runs: dict[str, dict[str, list[Any]]], optimizers: Sequence[str] = ("AdamW",)) -> Path:
    with their_code() as config_class:
        for seed, (run, net) in enumerate(runs.items()):
            for epoch in EPOCHS:
                path = folder / "cifar10_zooV2" / run / f"checkpoint_{epoch:06d}" / "checkpoint.pt"
                path.parent.mkdir(parents=True)
                name = optimizers[seed % len(optimizers)]
                torch.save(checkpoint(config_class, net, 100 * seed + epoch, epoch, name), path)
    return folder


@pytest.fixture
def park(tmp_path: Path) -> Path:
    return put(tmp_path / "park", NETS)


def test_imported_nets_compute_what_their_torch_nets_compute(park: Path, tmp_path: Path):
    zoo = import_zoo("wild_park", park, tmp_path / "zoo")
    assert len(zoo) == 8
    assert zoo.verify() == []
    images = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    for row in zoo.manifest.to_pylist():
        run = row["source.where"].split("/")[1]
        expected = forward(weights(NETS[run], 100 * list(NETS).index(run) + row["step"]), NETS[run], images)
        found = zoo.module(row["net"], row["step"]).double()(images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_config_of_plain_values_and_two_imports_give_the_same_bytes(park: Path, tmp_path: Path):
    path = park / "cifar10_zooV2/run_a/checkpoint_000010/checkpoint.pt"
    torch.save({"model": weights(NETS["run_a"], 10), "config": config(NETS["run_a"]), "iteration": 10}, path)
    zoo = import_zoo("wild_park", park, tmp_path / "zoo")
    assert zoo.record["source"]["left_out"] == 0
    import_zoo("wild_park", park, tmp_path / "again" / "zoo")
    assert tree(tmp_path / "zoo") == tree(tmp_path / "again" / "zoo")


def test_labels_accuracies_and_lineage_become_columns(park: Path, tmp_path: Path):
    paths = [f"cifar10_zooV2/{run}/checkpoint_{epoch:06d}/checkpoint.pt" for run in NETS for epoch in EPOCHS]
    parts = {"train": {"path": paths[:6], "score": [0.1] * 6, "step": [10] * 6}}
    parts["test"] = {"path": [f"/data/{path}" for path in paths[6:]], "score": [0.2] * 2, "step": [10] * 2}
    (park / "cnn_park_splits.json").write_text(json.dumps(parts))
    plain = {"model": weights(NETS["run_d"], 1), "config": config(NETS["run_d"])}
    torch.save(plain, park / "cifar10_zooV2/run_d/checkpoint_000020/checkpoint.pt")
    zoo = import_zoo("wild_park", park, tmp_path / "zoo", labels="cnn_park_splits.json")
    rows = {row["source.where"]: row for row in zoo.manifest.to_pylist()}
    row = rows["cifar10_zooV2/run_b/checkpoint_000010/checkpoint.pt"]
    assert (row["optimizer"], row["learning_rate"], row["weight_decay"]) == ("adamw", 0.001, 0.0)
    assert (row["batch_size"], row["image_set"]) == (512, "cifar10")
    assert (row["step"], row["epoch"], row["snapshot_fraction"]) == (10, 10.0, 0.5)
    assert (row["test_accuracy"], row["test_loss"]) == (pytest.approx(0.51), 1.5)
    assert (row["source.split"], row["source.score"]) == ("train", "0.1")
    assert (row["skips"], row["activations"]) == ("0-0-2-2", "tanh-none-sigmoid-leaky_relu")
    assert json.loads(row["source.config"])["residual"] == [-1, -1, 0, 1]
    assert json.loads(row["source.run"])["data"] == {"root": "/somebody/cifar10"}
    assert rows[paths[7]]["test_accuracy"] == pytest.approx(0.2)
    assert rows[paths[7]]["source.split"] == "test"
    lineages = [{rows[path]["lineage"] for path in paths[at : at + 2]} for at in range(0, 8, 2)]
    assert [len(found) for found in lineages] == [1] * 4
    assert len(set.union(*lineages)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"stride": [2, 1]}}, r"config says stride \[2, 1\], expected \[1, 1\] with these weights"),
        ({"config": {"padding": [0, 0]}}, r"config says padding \[0, 0\], expected \[1, 2\]"),
        ({"config": {"channels": [3, 8, 4]}}, r"config says channels .* expected \[3, 4, 8\]"),
        ({"config": {"residual": [-1]}}, "expected lists of 2: the number of an earlier layer or -1"),
        ({"config": {"residual": [-1, 0]}}, "each 0, or an integer of at least 2"),
        ({"config": {"activation": ["relu", "relo"]}}, "expected 2 names joined by -, each one of relu, gelu"),
        ({"model": {"layers.1.bias": torch.ones(3)}}, r"found the shape \(3,\), expected \(8,\)"),
        ({"model": {"norm.weight": torch.ones(3)}}, "found a tensor norm.weight, expected layers.N and fc"),
        ({"model": {"layers.0.weight": torch.ones(4, 3)}}, "expected layers.0.weight to fc.weight"),
        ({"model": {"fc.bias": torch.full((10,), torch.nan)}}, "head.bias is not finite"),
        ({"iteration": -1}, "expected a folder checkpoint_N or a whole number"),
    ],
)
def test_what_does_not_fit_is_left_out_by_name(tmp_path: Path, change: dict[str, Any], message: str):
    net = NETS["run_a"]
    whole: dict[str, Any] = {"model": weights(net, 0), "config": config(net), "iteration": 1}
    for name in ("good", "bad"):
        (tmp_path / "park" / name).mkdir(parents=True)
        torch.save(whole, tmp_path / "park" / name / "checkpoint.pt")
        whole |= {key: whole[key] | value if isinstance(value, dict) else value for key, value in change.items()}
    zoo = import_zoo("wild_park", tmp_path / "park", tmp_path / "zoo")
    (told,) = json.loads((zoo.path / "left_out.json").read_text())["left_out"]
    with pytest.raises(ValueError, match=message):
        raise ValueError(told["detail"])


def test_objects_that_are_no_config_are_refused_and_run_nothing(tmp_path: Path):
    folder = tmp_path / "park" / "run"
    folder.mkdir(parents=True)
    markers = tmp_path / "markers"
    markers.mkdir()
    for name, data in hostile.corpus(markers).items():
        (folder / name).mkdir()
        (folder / name / "checkpoint.pt").write_bytes(data)
    before = set(markers.iterdir())
    with pytest.raises(RefusedError, match=r"no net could be imported: {'not safe to read'"):
        import_zoo("wild_park", tmp_path / "park", tmp_path / "zoo")
    assert set(markers.iterdir()) == before


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (
            pickle.dumps({"model": Path("x")}, 4),
            "no checkpoint of the Wild Park: expected a mapping with model and config",
        ),
        (b"\x80\x02ctyping\nAny\n)R}b.", "expected a mapping with model and config"),
        (b"\x80\x02comegaconf.nodes\nsystem\n.", "import and may run omegaconf.nodes.system"),
        (b"\x80\x02cos\nCNNConfig.system\n.", "import and may run os.CNNConfig.system"),
        (b"\x80\x02}(U\x05modelctyping\nAny\n)RU\x06configh\x07u.", "no whole pickle"),
        (b"\x80\x02}(U\x05model}U\x06configcomegaconf.dictconfig\nDictConfig\n)Ru.", "without attributes"),
    ],
)
def test_streams_by_hand_are_damaged_or_refused(tmp_path: Path, stream: bytes, message: str):
    (tmp_path / "checkpoint.pt").write_bytes(hostile.zipped(stream))
    with pytest.raises(ValueError, match=message):
        import_zoo("wild_park", tmp_path, tmp_path / "zoo")


def test_values_that_refer_to_each_other_do_not_multiply(tmp_path: Path):
    """Thirty lists, each twice in the next: a billion values in a few hundred bytes."""
    nested: list[Any] = []
    for _ in range(30):
        nested = [nested, nested]
    (tmp_path / "checkpoint.pt").write_bytes(hostile.zipped(pickle.dumps({"model": {}, "config": nested}, 2)))
    with pytest.raises(ValueError, match="refers to its own values more often than 4 times its size"):
        import_zoo("wild_park", tmp_path, tmp_path / "zoo")


def test_a_tensor_that_claims_more_than_its_storage_is_refused(tmp_path: Path):
    net = NETS["run_d"]
    model = weights(net, 0) | {"fc.bias": torch.zeros(1).expand(2**40)}
    torch.save({"model": model, "config": config(net), "iteration": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(RefusedError, match=r"a tensor of \(1099511627776,\) with strides \(0,\)"):
        import_zoo("wild_park", tmp_path, tmp_path / "zoo")
