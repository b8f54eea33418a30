"""A net trained in a stack is the net trained alone by an ordinary loop."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch

from metanet.zoo import nets
from metanet.zoo.images import load
from metanet.zoo.initialisations import INITIALISATIONS
from metanet.zoo.optimisers import OPTIMIZERS
from metanet.zoo.schedules import SCHEDULES
from tests.zoo.plain_loop import CNN, MLP, SMALL, assert_equals_the_plain_loop, group, plain_fit, snapshots


def every_choice(
    activation: str, optimizers: Sequence[str], initialisations: Sequence[str], decay: float
) -> list[dict]:
    """Nets with every optimizer x initialisation; rate, augmentation, dropout and weight decay are mixed in."""
    return [
        {
            "optimizer": optimizer,
            "activation": activation,
            "initialisation": initialisation,
            "learning_rate": 0.0005 * (1 + i % 3),
            "augmentation": i % 2 == 0,
            "dropout": (0.0, 0.3, 0.5)[i % 3],
            "weight_decay": decay if i // 2 % 2 else 0.0,
        }
        for i, (optimizer, initialisation) in enumerate(product(optimizers, initialisations))
    ]


# Gradients that are 0 in exact arithmetic are rounding, which Adam and RMSprop scale up to whole steps, in any program
# (a plain loop whose first weights move by 1e-15 ends 1e-2 away): those of biases before a norm, once weight decay
# moves them, and most of those in a net of equal weights. The former nets get no decay here, the latter one step.
@pytest.mark.parametrize("activation", nets.ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_stack_equals_plain_loops(activation, batch_norm, images):
    """Every optimizer x activation x initialisation."""
    arch, drawn = CNN | {"batch_norm": batch_norm}, [name for name in INITIALISATIONS if name != "constant"]
    changes = every_choice(activation, list(OPTIMIZERS), drawn, decay=0.0 if batch_norm else 0.01)
    assert_equals_the_plain_loop(group(changes, arch, steps=(2, 2)), images)
    assert_equals_the_plain_loop(
        group(every_choice(activation, ["momentum", "sgd"], drawn[:2], 0.01), arch, steps=(2, 2)), images
    )
    changes = every_choice(activation, list(OPTIMIZERS), ["constant"], 0.01)
    assert_equals_the_plain_loop(group(changes, arch, steps=(1, 1)), images)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_stack_of_mixed_activations_and_image_sets_equals_plain_loops(batch_norm, images):
    changes = [
        {"activation": activation, "dropout": 0.2, "image_set": image_set, "net": 100 - i}
        for i, (activation, image_set) in enumerate(product(nets.ACTIVATIONS, ["digits", "negative"]))
    ]
    assert_equals_the_plain_loop(group(changes, CNN | {"batch_norm": batch_norm}, steps=(2, 2)), images)
    assert_equals_the_plain_loop(group(changes, MLP | {"batch_norm": batch_norm}), images)
    assert_equals_the_plain_loop(group(changes, SMALL | {"batch_norm": batch_norm}, steps=(2, 2)), images)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("initial_std", [0.05, 0.3, 1.0]),
        ("schedule", list(SCHEDULES)),
        ("label_noise", [0.0, 0.2, 0.9]),
        ("label_smoothing", [0.0, 0.1, 0.5]),
        ("gradient_clip", [0.0, 0.05, 1.0, 1e6]),
    ],
)
def test_every_further_hyperparameter_equals_torchs_and_acts(name, values, images):
    changes: list[dict[str, Any]] = [{name: value, "initialisation": "normal", "optimizer": "sgd"} for value in values]
    of = group([{**change, "net": 7} for change in changes], MLP, steps=(5, 2))
    assert_equals_the_plain_loop(of, images)
    weights = snapshots(of, images)[-1].state_dict["dense1.weight"]
    assert all(not torch.allclose(weights[row], weights[0]) for row in range(1, len(values)) if values[row] != 1e6)


CNN1D = {"filter_size": 3, "conv_depth": 2, "conv_width": 5, "dense_width": 7}


@pytest.mark.parametrize(
    "arch",
    [
        *({"family": "resnet", "depth": 8, "width": 4, "norm": norm} for norm in ("batch", "group", "layer", "none")),
        *(
            {"family": "vit", "depth": 2, "width": 6, "heads": 3, "patch": 4, "readout": how}
            for how in ("class", "mean")
        ),
        {"family": "wild_park", "depth": 4, "kernels": "3-5-1-3", "widths": "4-6-3-5", "skips": "0-0-2-3"},
        {
            "family": "wild_park_mixed",
            "depth": 4,
            "kernels": "3-5-1-3",
            "widths": "4-6-3-5",
            "skips": "0-0-2-3",
            "activations": "relu-tanh-none-leaky_relu",
        },
        *({"family": "cnn1d", **CNN1D, "batch_norm": norm, "image_shape": [2, 7, 9]} for norm in (True, False)),
        {"family": "deep_sets", "depth": 2, "width": 6, "dense_depth": 1, "stride": 1, "readout": "mean"},
        {
            "family": "deep_sets",
            "depth": 1,
            "width": 6,
            "dense_depth": 2,
            "stride": 3,
            "readout": "max",
            "image_shape": [2, 7, 9],
        },
        {"family": "siren", "depth": 2, "width": 7, "omega": 5},
        {"family": "siren", "depth": 1, "width": 7, "omega": 30, "image_shape": [3, 8, 9]},
        {"family": "model_zoos_cnn", "variant": "cnn", "image_shape": [1, 20, 21]},
        {"family": "model_zoos_cnn", "variant": "cnn3", "image_shape": [1, 22, 23]},
    ],
    ids=lambda arch: "-".join(str(value) for value in arch.values()),
)
def test_the_nets_of_further_families_equal_plain_loops(arch, images):
    arch = {"image_shape": [1, 8, 8], "num_classes": 10} | arch
    resized = {"digits": load("digits", shape=tuple(arch["image_shape"]))}
    changes = [
        {"optimizer": optimizer, "activation": activation, "learning_rate": 0.001, "dropout": 0.2}
        for optimizer, activation in (("adam", "gelu"), ("momentum", "relu"), ("rmsprop", "tanh"), ("sgd", "silu"))
    ]
    assert_equals_the_plain_loop(group(changes, arch, steps=(1, 2)), resized)


FURTHER: list[dict[str, Any]] = [
    {"family": "resnet", "depth": 8, "width": 4, "norm": "batch"},
    {"family": "resnet", "depth": 8, "width": 4, "norm": "group"},
    {"family": "vit", "depth": 1, "width": 4, "heads": 2, "patch": 4, "readout": "class"},
    {"family": "vit", "depth": 1, "width": 4, "heads": 2, "patch": 4, "readout": "mean"},
    {"family": "wild_park", "depth": 3, "kernels": "3-5-1", "widths": "4-6-3", "skips": "0-0-2"},
    {"family": "cnn1d", **CNN1D, "batch_norm": False},
    {"family": "deep_sets", "depth": 2, "width": 6, "dense_depth": 1, "stride": 2, "readout": "max"},
    {"family": "siren", "depth": 2, "width": 7, "omega": 3},
    {"family": "model_zoos_cnn", "variant": "cnn", "image_shape": [1, 20, 20]},
    {"family": "small_cnn", "batch_norm": False, "conv_depth": 2, "conv_width": 5},
    {"family": "mlp", "batch_norm": False, "depth": 2, "width": 9},
]


@pytest.mark.slow
@pytest.mark.parametrize("activation", nets.ACTIVATIONS)
@pytest.mark.parametrize("arch", FURTHER, ids=lambda arch: f"{arch['family']}-{list(arch.values())[-1]}")
def test_every_family_equals_plain_loops_in_every_optimizer_activation_and_initialisation(arch, activation):
    """Weights of equal numbers, or far from 0, take one step: see the remark above test_a_stack_equals_plain_loops."""
    arch = {"image_shape": [1, 8, 8], "num_classes": 10} | arch
    of = {"digits": load("digits", shape=tuple(arch["image_shape"]))}
    exact = [name for name in INITIALISATIONS if name not in ("constant", "uniform", "normal", "truncated_normal")]
    wild = [name for name in INITIALISATIONS if name not in exact]
    batch_norm = arch.get("norm") == "batch"
    for chosen, steps in ((exact, (1, 2)), (wild, (1, 1))):
        changes = every_choice(activation, list(OPTIMIZERS), chosen, decay=0.0 if batch_norm else 0.01)
        assert_equals_the_plain_loop(group(changes, arch, steps=steps), of)


@pytest.mark.parametrize(("arch", "activation"), [(MLP, "tanh"), (SMALL, "relu"), (SMALL, "sigmoid")])
def test_in_float32_a_stack_follows_plain_loops(arch, activation, images):
    of = group([{"optimizer": optimizer, "activation": activation} for optimizer in OPTIMIZERS], arch)
    *_, last = snapshots(of, images, torch.float32)
    for row, net in enumerate(of.nets):
        for name, value in plain_fit(net, images["digits"])[0].state_dict().items():
            torch.testing.assert_close(last.state_dict[name][row].double(), value, rtol=1e-3, atol=1e-4)
