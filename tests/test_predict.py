import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from metanet import commandline, predict, runs
from metanet.predict import Options
from metanet.train import train
from metanet.zoo import shards


@pytest.fixture
def run(config_of) -> str:
    config = config_of("model=majority")
    train(config, "majority")
    return str(runs.folder_of(config, "majority"))


@pytest.fixture
def checkpoint(tiny_zoo, tmp_path) -> str:
    """One net of the zoo as scripts/export_nets.py writes it."""
    row = tiny_zoo.manifest.slice(2, 1).to_pylist()[0]
    about = {"arch": tiny_zoo.archs[row["arch"]], "activation": row["activation"], "optimizer": row["optimizer"]}
    path = tmp_path / "net.safetensors"
    path.write_bytes(shards.pack(tiny_zoo.state_dict(row["net"], row["step"]), about))
    return str(path)


def test_every_target_has_a_prediction_with_probabilities_or_an_error(run, checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    answers = predict.main(Options(run, checkpoint))
    assert set(answers["optimizer"]["probabilities"]) == {"adam", "momentum"}
    assert abs(sum(answers["optimizer"]["probabilities"].values()) - 1) < 1e-9
    assert 1e-4 < answers["learning_rate"]["predicted"] < 1
    assert "mean_absolute_error_in_decades" in answers["learning_rate"]
    shown = capsys.readouterr().out
    assert all(name in shown for name in answers)
    assert "within a factor of" in shown


def test_json_is_what_is_returned_and_nothing_else_is_printed(run, checkpoint, capsys):
    capsys.readouterr()  # of the training
    answers = predict.main(Options(run, checkpoint, json=True))
    assert json.loads(capsys.readouterr().out) == answers


FACTORY = """
from torch import nn
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10))
number = 3
"""


@pytest.fixture
def own_net(tmp_path, monkeypatch) -> str:
    """A safetensors file from elsewhere, and its factory in the folder where the command is given."""
    (tmp_path / "my_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10))
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    return "own.safetensors"


def test_any_state_dict_can_be_read_with_a_factory(run, own_net):
    answers = predict.main(Options(run, own_net, module="my_nets:net", input=[1, 1, 8, 8]))
    assert answers["activation"]["predicted"] in ("relu", "tanh")
    assert "" not in sys.path[:1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "own.safetensors: its metadata does not say what architecture it is. Give module="),
        ({"module": "my_nets:net"}, "the shape of its input is missing"),
        ({"module": "my_nets:nat", "input": [1, 1, 8, 8]}, "has no attribute 'nat'"),
        ({"module": "your_nets:net", "input": [1, 1, 8, 8]}, "No module named 'your_nets'"),
        ({"module": "my_nets:number", "input": [1, 1, 8, 8]}, "not callable"),
        ({"module": "torch:eye", "input": [1, 1, 8, 8]}, "expected package:factory without arguments"),
        ({"module": "builtins:dict", "input": [1, 1, 8, 8]}, "gave a dict, expected an nn.Module"),
        ({"module": "torch.nn:Identity", "input": [1, 1, 8, 8]}, "own.safetensors: Identity has no weight tensor"),
    ],
)
def test_a_checkpoint_without_a_fitting_architecture_is_refused(run, own_net, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        predict.main(Options(run, own_net, **options))


def test_weights_that_are_not_finite_or_do_not_fit_are_refused(run, checkpoint, tiny_zoo, tmp_path):
    tensors, about = predict.load_checkpoint(tmp_path / "net.safetensors")
    name = next(iter(tensors))
    bad = {key: tensor.clone() for key, tensor in tensors.items()}
    bad[name].view(-1)[0] = torch.nan
    (tmp_path / "nan.safetensors").write_bytes(shards.pack(bad, about))
    with pytest.raises(ValueError, match=f"nan.safetensors: {name}: has NaN or infinite values"):
        predict.main(Options(run, str(tmp_path / "nan.safetensors")))
    bad[name] = torch.zeros(1, 2)
    (tmp_path / "shape.safetensors").write_bytes(shards.pack(bad, about))
    with pytest.raises(ValueError, match=rf"shape.safetensors: {name}: found shape \[1, 2\], expected"):
        predict.main(Options(run, str(tmp_path / "shape.safetensors")))


def test_a_missing_truncated_or_foreign_file_is_one_error(run, checkpoint, tmp_path, capsys, monkeypatch):
    data = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-10])
    (tmp_path / "text.safetensors").write_text("no tensors here")
    for name, code, message in (
        ("none", 66, "missing"),
        ("cut", 65, "truncated"),
        ("text", 65, "truncated or damaged"),
    ):
        monkeypatch.setattr(sys, "argv", ["predict", f"run={run}", f"checkpoint={tmp_path / name}.safetensors"])
        with pytest.raises(SystemExit) as stopped:
            commandline.run(predict.main, Options)
        assert stopped.value.code == code
        error = capsys.readouterr().err
        assert error.count("error:") == 1
        assert message in error
