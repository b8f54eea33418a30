"""That the benchmark of the models runs and that what it counts is right; its times are no test."""

import pytest
import torch
from torch import nn

from metanet import machine
from scripts import benchmark_models as benchmark


@pytest.fixture
def untimed(monkeypatch):
    """Every measured call runs once and takes a second."""

    def once(work, device="cpu", least_seconds=0.0):
        work()
        return 1.0

    monkeypatch.setattr(machine, "seconds_per_call", once)


def test_a_table_of_trained_and_fitted_models_is_written(untimed, tmp_path):
    out = tmp_path / "models.md"
    found = benchmark.main(benchmark.Options(nets=4, models=["gnn", "majority"], out=str(out)))
    assert (found["gnn"].train, found["gnn"].predict, found["gnn"].fit) == (4, 4, None)
    assert (found["majority"].train, found["majority"].flops) == (None, None)
    text = out.read_text()
    assert "| gnn |" in text
    assert "GFLOP/s in sgemm" in text
    assert "python scripts/benchmark_models.py nets=4 device=cpu models=[gnn,majority]" in text


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(ValueError, match=r"models=gnm nets=64: expected models among .*gnn"):
        benchmark.main(benchmark.Options(models=["gnm"]))
    with pytest.raises(ValueError, match="at least 4 nets"):
        benchmark.main(benchmark.Options(nets=3))


def test_bytes_kept_for_backward_are_those_of_inputs_and_weight():
    layer, x = nn.Linear(10, 20, bias=False), torch.randn(5, 10, requires_grad=True)
    assert benchmark.saved_bytes(lambda: layer(x).sum().backward()) == 4 * (5 * 10 + 10 * 20)


def test_random_nets_fit_their_templates():
    for nets in benchmark.random_nets(2, "cpu"):
        for name, shape in nets.template.shapes.items():
            assert nets.params[name].shape == (2, *shape)
