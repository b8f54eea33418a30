"""Training on a device other than the CPU, tried on the meta device: its tensors do not mix with others, and have no
values that Python could read and a GPU would be waited for. What a GPU computes is tested where there is one.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metanet.zoo import augment
from metanet.zoo.families import FAMILIES
from metanet.zoo.fit import Training
from metanet.zoo.images import load
from tests.zoo.plain_loop import SEED, group

CHANGES: list[dict[str, Any]] = [
    {"optimizer": "adam", "augmentation": True},
    {"optimizer": "adamw", "activation": "tanh", "dropout": 0.3, "weight_decay": 0.01},
    {"optimizer": "rmsprop", "activation": "elu", "gradient_clip": 1.0},
    {"optimizer": "momentum", "activation": "gelu", "schedule": "cosine", "label_noise": 0.2},
    {"optimizer": "sgd", "label_smoothing": 0.1, "augmentation": True},
]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "nws_cnn": {"batch_norm": True, "filter_size": 3, "conv_depth": 4, "conv_width": 3}
    | {"dense_depth": 2, "dense_width": 8},
    "small_cnn": {"batch_norm": False, "conv_depth": 2, "conv_width": 5},
    "model_zoos_cnn": {"variant": "cnn"},
    "wild_park": {"depth": 3, "kernels": "3-3-3", "widths": "4-4-4", "skips": "0-0-2"},
    "wild_park_mixed": {
        "depth": 3,
        "kernels": "3-3-3",
        "widths": "4-4-4",
        "skips": "0-0-2",
        "activations": "relu-tanh-relu",
    },
    "resnet": {"depth": 8, "width": 4, "norm": "group"},
    "vit": {"depth": 1, "width": 8, "heads": 2, "patch": 7, "readout": "class"},
    "mlp": {"batch_norm": True, "depth": 2, "width": 9},
    "cnn1d": {"batch_norm": True, "filter_size": 3, "conv_depth": 2, "conv_width": 8, "dense_width": 8},
    "deep_sets": {"depth": 2, "width": 8, "dense_depth": 1, "stride": 2, "readout": "max"},
    "siren": {"depth": 2, "width": 8, "omega": 30},
}


def training(family: str) -> Training:
    arch = {"family": family, "image_shape": [3, 28, 28], "num_classes": 10, **ARCHITECTURES[family]}
    changes = [{}, {"optimizer": "sgd", "gradient_clip": 1.0}] if family == "siren" else CHANGES
    images = {"digits": load("digits", shape=(3, 28, 28))}
    return Training(group(changes, arch), images, SEED, torch.device("cpu"), torch.float32)


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


class NothingFromTheHost(TorchFunctionMode):
    """No tensor is made of Python's numbers, be it as an index: a GPU would be waited for until they are there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        lists = [value for value in args if isinstance(value, list)] if func in INDEXING else []
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy) or lists:
            raise RuntimeError(f"{func.__name__} takes numbers from the host")
        return func(*args, **(kwargs or {}))


INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


def test_every_family_that_a_spec_can_name_is_tried():
    imported = {"factory", "program", "huggingface"}
    assert set(ARCHITECTURES) == set(FAMILIES) - imported


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_step_stays_on_its_device_and_never_waits_for_it(family):
    run = training(family)
    move(run, set())
    run.done = run.group.steps_per_epoch  # in an epoch, the first step asks for its order and learning rates
    run.step()
    with NothingFromTheHost():
        run.step()
    assert {tensor.device.type for tensor in run._state().values()} == {"meta"}


def test_a_tensor_left_behind_would_be_found():
    run = training("small_cnn")
    rate = run.first_rate
    move(run, set())
    run.first_rate = rate
    with pytest.raises(RuntimeError, match=r"device|meta"):
        run.step()


def test_numbers_that_come_from_the_host_would_be_found(monkeypatch):
    run = training("small_cnn")
    move(run, set())
    run.step()
    recolour = augment.recolour

    def by_list(images, *arguments):
        torch.tensor([5.0, 3.0, 1.0], device=images.device)
        return recolour(images, *arguments)

    monkeypatch.setattr(augment, "recolour", by_list)
    with pytest.raises(RuntimeError, match="tensor takes numbers from the host"), NothingFromTheHost():
        run.step()
    monkeypatch.undo()
    run.feed._augmented = [0, 4]
    with pytest.raises(RuntimeError, match="__getitem__ takes numbers from the host"), NothingFromTheHost():
        run.step()
