"""Single checkpoints out of a zoo."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from metanet.zoo import nets
from scripts import export_nets


def test_a_checkpoint_holds_the_net_and_what_is_known_of_it(tiny_zoo, tmp_path):
    export_nets.main(export_nets.Options(zoo=str(tiny_zoo.path), out=str(tmp_path), nets=[3]))
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["metanet"])
    row = tiny_zoo.manifest.to_pylist()[tiny_zoo.row(3, tiny_zoo.steps(3)[-1])]
    assert about["arch"] == tiny_zoo.archs[row["arch"]]
    assert {name: about[name] for name in tiny_zoo.columns["hyperparameters"]} == {
        name: row[name] for name in tiny_zoo.columns["hyperparameters"]
    }
    module = nets.build(about["arch"], activation=about["activation"]).eval()
    module.load_state_dict(load_file(path))
    images = tiny_zoo.example_input(row["arch"])
    torch.testing.assert_close(module(images), tiny_zoo.module(3, row["step"])(images), rtol=0, atol=0)


def test_all_nets_are_exported_at_one_step(tiny_zoo, tmp_path):
    export_nets.main(export_nets.Options(zoo=str(tiny_zoo.path), out=str(tmp_path), step=0))
    assert {path.name for path in tmp_path.iterdir()} == {f"net-{net}-step-0.safetensors" for net in range(12)}


def test_a_net_that_is_not_there_is_named_before_anything_is_written(tiny_zoo, tmp_path):
    with pytest.raises(ValueError, match=r"found no net 99; expected one of 0\.\.11"):
        export_nets.main(export_nets.Options(zoo=str(tiny_zoo.path), out=str(tmp_path / "out"), nets=[0, 99]))
    assert not (tmp_path / "out").exists()
