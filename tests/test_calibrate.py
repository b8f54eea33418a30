import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from metanet import calibrate
from metanet.targets import Target

CLASSES = Target("optimizer", "classification", classes=("adam", "momentum", "rmsprop"))
VALUES = Target("test_accuracy", "regression")


def logits_and_truths(seed: int, nets: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are perfectly calibrated: each truth is drawn from its own probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(nets, 3, generator=generator)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


@given(seed=st.integers(0, 2**31), sureness=st.floats(0.3, 8))
def test_a_model_that_is_too_sure_is_brought_back(seed, sureness):
    logits, truth = logits_and_truths(seed)
    honest = calibrate.fit([CLASSES], {"optimizer": logits}, {"optimizer": truth})
    found = calibrate.fit([CLASSES], {"optimizer": sureness * logits}, {"optimizer": truth})
    assert honest["optimizer"] == pytest.approx(1, abs=0.35)
    assert found["optimizer"] == pytest.approx(honest["optimizer"] / sureness, rel=1e-2)


@given(seed=st.integers(0, 2**31), sureness=st.floats(0.1, 30))
def test_the_loss_falls_and_no_answer_changes(seed, sureness):
    logits, truth = logits_and_truths(seed, 50)
    before = {"optimizer": sureness * logits}
    after = calibrate.apply(calibrate.fit([CLASSES], before, {"optimizer": truth}), before)
    assert torch.equal(after["optimizer"].argmax(-1), logits.argmax(-1))
    assert F.cross_entropy(after["optimizer"], truth) <= F.cross_entropy(before["optimizer"], truth) + 1e-4


@given(seed=st.integers(0, 2**31), slope=st.floats(-2, 2))
def test_values_shrink_by_the_least_squares_slope_and_never_grow(seed, slope):
    draw = np.random.default_rng(seed)
    output = draw.normal(size=60)
    truth = slope * output + 0.3 * draw.normal(size=60)
    found = calibrate.fit(
        [VALUES], {"test_accuracy": torch.tensor(output)}, {"test_accuracy": torch.tensor(truth, dtype=torch.float32)}
    )
    expected = np.linalg.lstsq(output[:, None], truth, rcond=None)[0][0]
    assert found["test_accuracy"] == pytest.approx(np.clip(expected, 0, 1), abs=1e-5)


def test_classes_that_the_run_does_not_know_say_nothing():
    logits, truth = logits_and_truths(0)
    known = calibrate.fit([CLASSES], {"optimizer": logits[:300]}, {"optimizer": truth[:300]})
    truth[300:] = -1
    assert calibrate.fit([CLASSES], {"optimizer": logits}, {"optimizer": truth}) == known
    assert calibrate.fit([CLASSES], {"optimizer": logits}, {"optimizer": torch.full_like(truth, -1)})["optimizer"] == 1


def test_a_constant_answer_stays():
    zeros = {"test_accuracy": torch.zeros(5)}
    assert calibrate.fit([VALUES], zeros, {"test_accuracy": torch.randn(5)}) == {"test_accuracy": 1.0}
