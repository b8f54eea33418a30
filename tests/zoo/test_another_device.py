"""Training on a device other than the CPU, tried on the meta device: its tensors do not mix with others, and have no
values that Python could read and a GPU would be waited for. What a GPU computes is tested where there is one.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from metanet.zoo.fit import Training
from metanet.zoo.images import load
from tests.zoo.plain_loop import CNN, MLP, SEED, group

CHANGES: list[dict[str, Any]] = [
    {"optimizer": "adam", "augmentation": True},
    {"optimizer": "adamw", "activation": "tanh", "dropout": 0.3, "weight_decay": 0.01},
    {"optimizer": "rmsprop", "activation": "elu", "gradient_clip": 1.0},
    {"optimizer": "momentum", "activation": "gelu", "schedule": "cosine", "label_noise": 0.2},
    {"optimizer": "sgd", "label_smoothing": 0.1, "augmentation": True},
]


def training(arch: dict[str, Any]) -> Training:
    digits = {"digits": load("digits", shape=(1, 8, 8))}
    return Training(group(CHANGES, arch), digits, SEED, torch.device("cpu"), torch.float32)


def move(x: Any, seen: set[int]) -> Any:
    """`x` with every tensor and device in it, however deep, moved to the meta device; objects are changed in place."""
    if isinstance(x, Tensor):
        return x.detach().to("meta").requires_grad_(x.requires_grad)
    if isinstance(x, torch.device):
        return torch.device("meta")
    if isinstance(x, dict):
        return {key: move(value, seen) for key, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(move(value, seen) for value in x)
    if type(x).__module__.startswith("metanet.zoo") and hasattr(x, "__dict__") and id(x) not in seen:
        seen.add(id(x))
        for name, value in vars(x).items():
            object.__setattr__(x, name, move(value, seen))
    return x


@pytest.mark.parametrize("arch", [CNN, MLP], ids=["cnn", "mlp"])
def test_a_step_stays_on_its_device_and_never_waits_for_it(arch):
    run = training(arch)
    move(run, set())
    run.step()
    assert {tensor.device.type for tensor in run._state().values()} == {"meta"}


def test_a_tensor_left_behind_would_be_found():
    run = training(CNN)
    rate = run.first_rate
    move(run, set())
    run.first_rate = rate
    with pytest.raises(RuntimeError, match=r"device|meta"):
        run.step()
