"""Recorded training is ordinary training. Only a GPU records; elsewhere the recording is played by calling again."""

import pytest
import torch

from metanet.zoo.fit import Training
from metanet.zoo.images import load
from metanet.zoo.replay import Replay
from metanet.zoo.way import Way
from tests.zoo.plain_loop import SEED, group

MIXED = [{"dropout": 0.3}, {"activation": "tanh", "optimizer": "sgd"}, {"augmentation": True, "label_noise": 0.2}]


def trained(device: str, graphs: bool) -> dict[str, torch.Tensor]:
    digits = {"digits": load("digits", shape=(1, 8, 8)).to(device)}
    training = Training(group(MIXED), digits, SEED, torch.device(device), torch.float64, Way(graphs=graphs))
    for _ in range(5):
        training.step()
    return training.snapshot().state_dict


def by_calling_again(run, inputs):
    result = run(*inputs)
    return lambda: result.copy_(run(*inputs)), result


def test_a_step_reads_only_what_it_is_given_and_recording_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(Replay, "_record", staticmethod(by_calling_again))
    expected = trained("cpu", graphs=False)
    for name, value in trained("cpu", graphs=True).items():
        assert torch.equal(value, expected[name]), name


def test_a_recording_that_leaves_a_trace_would_be_found(monkeypatch):
    """The twin: running statistics would move once more."""
    monkeypatch.setattr(Replay, "_record", staticmethod(by_calling_again))
    monkeypatch.setattr(Replay, "__init__", lambda self, state: vars(self).update(state=[], inputs=None))
    expected, found = trained("cpu", graphs=False), trained("cpu", graphs=True)
    assert any(not torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_step_on_a_gpu_is_an_ordinary_one():
    expected = trained("cuda", graphs=False)
    for name, value in trained("cuda", graphs=True).items():
        torch.testing.assert_close(value, expected[name])
