"""The benchmark compares like with like, and says so when it is asked for what it does not know."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from metanet.zoo import nets, sizes
from metanet.zoo.families import FAMILIES
from metanet.zoo.optimisers import OPTIMIZERS

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # where the worker processes find it too
benchmark_zoo = importlib.import_module("benchmark_zoo")
BUILD = nets.build


def test_every_family_and_optimizer_can_be_measured():
    imported = {"factory", "program", "huggingface", "wild_park_mixed"}  # families of nets that come from elsewhere
    assert set(benchmark_zoo.ARCHITECTURES) == set(FAMILIES) - imported
    assert set(benchmark_zoo.TORCH_OPTIMIZERS) == set(OPTIMIZERS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_plain_loop_trains_the_net_that_the_stack_trains(optimizer, monkeypatch):
    built: list[nn.Module] = []
    monkeypatch.setattr(nets, "build", lambda *args, **kinds: built.append(BUILD(*args, **kinds)) or built[-1])
    group = benchmark_zoo.group_of("mlp", benchmark_zoo.Options(optimizer=optimizer, stack=2))
    step = benchmark_zoo.plain_step(group.nets[1], benchmark_zoo.random_images((1, 28, 28)), "cpu", fused=True)
    before = [parameter.detach().clone() for parameter in built[0].parameters()]
    step()
    after = list(built[0].parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert sum(map(torch.Tensor.numel, after)) == sizes.size(group).parameters


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="vgg on the command line: expected some of small_cnn, nws_cnn, mlp"):
        benchmark_zoo.main(benchmark_zoo.Options(families=["vgg"]))


@pytest.mark.slow
def test_the_table_has_a_row_for_every_family(tmp_path, capsys):
    out = tmp_path / "zoo.md"
    options = benchmark_zoo.Options(families=["mlp"], stack=2, processes=1, seconds=0.05, rounds=1, out=str(out))
    rates = benchmark_zoo.main(options)
    assert set(rates["mlp"]) == {"plain", "tuned", "stacked"}
    assert min(rates["mlp"].values()) > 0
    assert "| mlp-2x64-1x28x28-10 |" in out.read_text()
