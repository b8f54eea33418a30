"""State_dicts are found inside what training scripts save, and where two could be meant the user says which."""

import argparse
import json
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metanet.errors import RefusedError
from metanet.importers.intake.parser import Parsed, Parser
from metanet.importers.intake.writing import import_zoo
from tests.importers.test_safety import one, put, saved

WEIGHTS = {"1.weight": torch.arange(8.0).view(2, 4), "1.bias": torch.tensor([8.0, 9])}
AVERAGE = {name: tensor / 2 for name, tensor in WEIGHTS.items()}
ADAM = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 4)}}, "param_groups": [{"lr": 0.1}]}
MODULE = "tests.importers.examples:line"

READ: dict[str, Any] = {
    **{
        name: {name: WEIGHTS, "optimizer": ADAM, "epoch": 3}
        for name in ("network", "params", "ema", "model_ema", "generator", "model_state", "student")
    },
    "deeper": {"checkpoint": {"model": WEIGHTS}, "version": 2},
    "average inside": {"ema": {"decay": 0.9, "shadow": WEIGHTS}},
    "beside a centre": {"model": WEIGHTS, "loss": {"centre": torch.ones(3)}, "optimizer": ADAM},
    "beside random states": {"weights_": WEIGHTS, "random": {"cpu": torch.zeros(5, dtype=torch.uint8)}},
    "averaged": {"n_averaged": torch.tensor(3), **{f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
}


@pytest.mark.parametrize("name", READ)
def test_weights_are_found_by_what_an_entry_holds(parser: Parser, tmp_path: Path, name: str):
    answer = one(parser, put(tmp_path, {"net.pt": saved(READ[name])})[0])
    assert isinstance(answer, Parsed), answer
    assert list(answer.tensors) == list(WEIGHTS)
    assert all(torch.equal(answer.tensors[key], tensor) for key, tensor in WEIGHTS.items())


TWO: dict[str, dict[str, Any]] = {
    "model ema": {"model": WEIGHTS, "ema": AVERAGE},
    "state_dict state_dict_ema": {"state_dict": WEIGHTS, "state_dict_ema": AVERAGE, "optimizer": ADAM},
    "student teacher": {"student": WEIGHTS, "teacher": AVERAGE, "epoch": 1},
    "model twin": {"model": WEIGHTS, "twin": AVERAGE},
}


@pytest.mark.parametrize("names", TWO)
def test_of_two_nets_in_a_file_none_is_guessed(parser: Parser, tmp_path: Path, names: str):
    path = put(tmp_path, {"net.pt": saved(TWO[names])})[0]
    answer, (first, second) = one(parser, path), names.split()
    assert isinstance(answer, ValueError)
    assert "net.pt: found the weights of 2 nets" in str(answer)
    assert f"Say which are meant: weights={first} or weights={second}" in str(answer)
    for name in (first, second):
        (chosen,) = parser.parse([path], weights=name)
        assert isinstance(chosen, Parsed), chosen
        assert torch.equal(chosen.tensors["1.bias"], TWO[names][name]["1.bias"])


def test_the_chosen_entry_must_be_there(parser: Parser, tmp_path: Path):
    paths = put(tmp_path, {"a.pt": saved({"model": WEIGHTS}), "b.pt": saved(WEIGHTS)})
    told = [str(answer) for answer in parser.parse(paths, weights="ema")]
    assert "a.pt: found no weights called 'ema', they lie under 'model'" in told[0]
    assert "b.pt: found no weights called 'ema', they lie bare" in told[1]


def test_the_attribute_of_a_lightning_module_is_no_part_of_the_names(tmp_path: Path):
    (tmp_path / "nets").mkdir()
    inside = OrderedDict((f"net.{name}", tensor) for name, tensor in WEIGHTS.items())
    lightning = {"state_dict": inside, "pytorch-lightning_version": "2.6", "callbacks": {}, "loops": {"a": {"b": 1}}}
    put(tmp_path / "nets", {"last.ckpt": saved(lightning), "best.pth.tar": saved({"state_dict": AVERAGE})})
    more = {"other.weight": torch.ones(1)}
    put(tmp_path / "nets", {"criterion.ckpt": saved({"state_dict": {**inside, **more}})})
    zoo = import_zoo("state_dicts", tmp_path / "nets", tmp_path / "zoo", module=MODULE, input=[1, 1, 2, 2])
    assert zoo.manifest["source.where"].to_pylist() == ["best.pth.tar", "last.ckpt"]
    assert torch.equal(zoo.state_dict(1, 0)["net.1.weight"], WEIGHTS["1.weight"])
    (left_out,) = json.loads((zoo.path / "left_out.json").read_text())["left_out"]
    assert "criterion.ckpt: missing are net.1.weight, net.1.bias; unexpected are net.net.1.weight" in left_out["detail"]


def test_plain_values_that_torch_reads_are_kept_as_such(parser: Parser, tmp_path: Path):
    beside: dict[str, Any] = {"on": torch.device("cuda:1"), "seen": {"b", "a"}, "counts": Counter("aab")}
    answer = one(parser, put(tmp_path, {"net.pt": saved({"model": WEIGHTS, **beside})})[0])
    assert isinstance(answer, Parsed), answer
    assert answer.metadata == {"on": "cuda:1", "seen": ["a", "b"], "counts": {"a": 2, "b": 1}}


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (Path("runs"), "pathlib"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_objects_beside_the_weights_are_refused_with_what_to_do(
    parser: Parser, tmp_path: Path, thing: object, named: str
):
    answer = one(parser, put(tmp_path, {"net.pt": saved({"model": WEIGHTS, "args": thing})})[0])
    assert isinstance(answer, RefusedError)
    assert named in str(answer)
    assert "load it where you trust it, with torch.load(file, weights_only=False), and save the" in str(answer)
