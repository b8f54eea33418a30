"""A net trained in a stack is the net trained alone by an ordinary loop, and no net feels another."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanet import seeding
from metanet.zoo import nets
from metanet.zoo.augment import augment
from metanet.zoo.fit import Snapshot, Training, fit
from metanet.zoo.hyperparameters import NEUTRAL
from metanet.zoo.images import Images, load
from metanet.zoo.initialisations import INITIALISATIONS, initialise
from metanet.zoo.optimisers import OPTIMIZERS
from metanet.zoo.plan import Group
from metanet.zoo.schedules import SCHEDULES
from metanet.zoo.spec import Net
from metanet.zoo.stack_rules import dropout_mask

SEED = 11
CNN: dict[str, Any] = {
    "family": "nws_cnn", "image_shape": [1, 8, 8], "num_classes": 10, "batch_norm": True, "filter_size": 3,
    "conv_depth": 4, "conv_width": 3, "dense_depth": 2, "dense_width": 8,
}  # fmt: skip
MLP: dict[str, Any] = {
    "family": "mlp", "image_shape": [1, 8, 8], "num_classes": 10, "batch_norm": False, "depth": 2, "width": 9
}  # fmt: skip
SMALL: dict[str, Any] = {
    "family": "small_cnn", "image_shape": [1, 8, 8], "num_classes": 10, "batch_norm": False, "conv_depth": 2,
    "conv_width": 5,
}  # fmt: skip
USUAL = {
    "optimizer": "adam", "learning_rate": 0.01, "batch_size": 16, "activation": "relu", "initialisation": "he_normal",
    "augmentation": False, "dropout": 0.0, "weight_decay": 0.0,
}  # fmt: skip
USUAL = NEUTRAL | USUAL
TORCH_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "momentum": lambda weights, **options: torch.optim.SGD(weights, momentum=0.95, **options),
    "sgd": torch.optim.SGD,
}


def group(changes: Sequence[dict[str, Any]], arch: dict[str, Any] = CNN, first: int = 0, steps=(3, 4)) -> Group:
    """Nets of the usual hyperparameters with these changes, which may name "net" and "image_set" too.

    `steps` are epochs and steps per epoch.
    """
    members = []
    for net, change in enumerate(changes, first):
        change = dict(change)
        members.append(
            Net(
                net=change.pop("net", net),
                lineage=net,
                arch=arch,
                arch_name=nets.arch_name(arch),
                image_set=change.pop("image_set", "digits"),
                hyperparameters=USUAL | change,
                train_images=70,
                eval_images=50,
                epochs=steps[0],
                steps_per_epoch=steps[1],
                learning_rate_decay=0.9,
                snapshots=(0.0, 0.5, 1.0),
            )
        )
    return Group("group", tuple(members))


@pytest.fixture(scope="module")
def images() -> dict[str, Images]:
    digits = load("digits", shape=(1, 8, 8))
    negative = replace(
        digits,
        name="negative",
        train=255 - digits.train,
        test=255 - digits.test[:30],
        test_labels=digits.test_labels[:30],
    )
    return {"digits": digits, "negative": negative}


def snapshots(of: Group, images: dict[str, Images], dtype=torch.float64, resume=None) -> list[Snapshot]:
    taken: list[Snapshot] = []
    fit(of, images, SEED, "cpu", resume, taken.append, dtype)
    return taken


class Masked(nn.Module):
    """Dropout with the zoo's masks."""

    def __init__(self, layer: str, probability: float):
        super().__init__()
        self.layer, self.probability = layer, torch.tensor([probability], dtype=torch.float64)
        self.keys = torch.zeros(1, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * dropout_mask(self.keys, self.layer, self.probability, *x.shape)[0]


def torch_schedule(name: str, optimizer: torch.optim.Optimizer, net: Net) -> torch.optim.lr_scheduler.LRScheduler:
    lr = torch.optim.lr_scheduler
    if name == "exponential":
        return lr.ExponentialLR(optimizer, net.learning_rate_decay)
    if name == "cosine":
        return lr.CosineAnnealingLR(optimizer, net.epochs)
    if name == "step":
        return lr.MultiStepLR(optimizer, [net.epochs // 2, 3 * net.epochs // 4], gamma=0.1)
    if name == "linear":
        return lr.LinearLR(optimizer, 1.0, 0.0, net.epochs)
    assert name == "constant"
    return lr.ConstantLR(optimizer, 1.0)


def noisy_labels(net: Net, images: Images) -> Tensor:
    """One image at a time."""
    labels = images.train_labels.clone()
    keys = seeding.keys(SEED, torch.tensor([net.net]), "label_noise")
    chance, choice = seeding.uniform(keys, 2, net.train_images)[0].tolist()
    for image in range(net.train_images):
        if chance[image] < net.hyperparameters["label_noise"]:
            others = [label % 10 for label in range(labels[image] + 1, labels[image] + 10)]
            labels[image] = others[int(choice[image] * 9)]
    return labels


def plain_fit(net: Net, images: Images) -> tuple[nn.Module, dict[str, float]]:
    """One net in an ordinary loop: nn.Module, torch.optim, one batch at a time, in float64."""
    chosen = net.hyperparameters
    number = torch.tensor([net.net])
    module = nets.build(net.arch, activation=chosen["activation"])
    keys, std = seeding.keys(SEED, number, "initialisation"), torch.tensor([chosen["initial_std"]])
    fresh = initialise(net.arch, [chosen["initialisation"]], keys, std)
    module.load_state_dict({name: value[0] for name, value in fresh.items()})
    masks = {
        name: Masked(name, chosen["dropout"]) for name, layer in module.named_modules() if type(layer) is nn.Dropout
    }
    for name, mask in masks.items():
        module.set_submodule(name, mask)
    module = module.double().train()
    rate, decay = chosen["learning_rate"], chosen["weight_decay"]
    optimizer = TORCH_OPTIMIZERS[chosen["optimizer"]](module.parameters(), lr=rate, weight_decay=decay)
    schedule = torch_schedule(chosen["schedule"], optimizer, net)
    noisy = noisy_labels(net, images)
    step = 0
    for epoch in range(net.epochs):
        order = seeding.permutation(seeding.keys(SEED, number, "order", epoch), net.train_images)[0]
        for batch in order.split(chosen["batch_size"])[: net.steps_per_epoch]:
            x = images.train[batch].double() / 255
            if chosen["augmentation"]:
                x = augment(x[None], seeding.keys(SEED, number, "augmentation", step))[0]
            for mask in masks.values():
                mask.keys = seeding.keys(SEED, number, "dropout", step)
            optimizer.zero_grad()
            smoothing = chosen["label_smoothing"]
            F.cross_entropy(module((x - 0.5) / 0.5), noisy[batch], label_smoothing=smoothing).backward()
            if chosen["gradient_clip"]:
                nn.utils.clip_grad_norm_(module.parameters(), chosen["gradient_clip"])
            optimizer.step()
            step += 1
        schedule.step()
    module.eval()
    metrics: dict[str, float] = {}
    seen = net.eval_images or net.train_images
    for part, pixels, labels in (
        ("train", images.train[:seen], noisy[:seen]),
        ("test", images.test[: net.eval_images], images.test_labels[: net.eval_images]),
    ):
        logits = module((pixels.double() / 255 - 0.5) / 0.5)
        metrics[f"{part}_loss"] = F.cross_entropy(logits, labels).item()
        metrics[f"{part}_accuracy"] = (logits.argmax(1) == labels).double().mean().item()
    return module, metrics


def assert_equals_the_plain_loop(of: Group, images: dict[str, Images]) -> None:
    *_, last = snapshots(of, images)
    assert not last.diverged.any()
    for row, net in enumerate(of.nets):
        plain = plain_fit_to_an_image if net.arch["family"] == "siren" else plain_fit
        module, metrics = plain(net, images[net.image_set])
        for name, value in module.state_dict().items():
            found, where = last.state_dict[name][row], f"{name} of {dict(net.hyperparameters)}"
            assert torch.allclose(found, value, rtol=1e-6, atol=1e-7), (where, (found - value).abs().max())
        assert {name: value[row].item() for name, value in last.metrics.items()} == pytest.approx(metrics, rel=1e-5)


def plain_fit_to_an_image(net: Net, images: Images) -> tuple[nn.Module, dict[str, Any]]:
    """One implicit representation in an ordinary loop over the pixels of its image, in float64."""
    chosen, number = net.hyperparameters, torch.tensor([net.net])
    module = nets.build(net.arch, activation=chosen["activation"])
    keys = seeding.keys(SEED, number, "initialisation")
    fresh = initialise(net.arch, [chosen["initialisation"]], keys, torch.tensor([chosen["initial_std"]]))
    module.load_state_dict({name: value[0] for name, value in fresh.items()})
    module = module.double().train()
    image = int(seeding.uniform(seeding.keys(SEED, number, "image"), 1).double() * net.train_images)
    channels, height, width = images.train.shape[1:]
    values = images.train[image].double() / 127.5 - 1
    places = [[2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1] for y in range(height) for x in range(width)]
    places, values = torch.tensor(places, dtype=torch.float64), values.reshape(channels, -1).T
    rate, decay = chosen["learning_rate"], chosen["weight_decay"]
    optimizer = TORCH_OPTIMIZERS[chosen["optimizer"]](module.parameters(), lr=rate, weight_decay=decay)
    schedule = torch_schedule(chosen["schedule"], optimizer, net)
    for epoch in range(net.epochs):
        order = seeding.permutation(seeding.keys(SEED, number, "order", epoch), height * width)[0]
        for batch in order.split(chosen["batch_size"])[: net.steps_per_epoch]:
            optimizer.zero_grad()
            F.mse_loss(module(places[batch]), values[batch]).backward()
            optimizer.step()
        schedule.step()
    loss = F.mse_loss(module(places), values)
    psnr = 20 * torch.log10(2 / loss.sqrt())
    label = int(images.train_labels[image])
    return module, {"image": image, "label": label, "train_loss": loss.item(), "psnr": psnr.item()}


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


@pytest.mark.parametrize(
    "arch",
    [
        *({"family": "resnet", "depth": 8, "width": 4, "norm": norm} for norm in ("batch", "group", "layer", "none")),
        *(
            {"family": "vit", "depth": 2, "width": 6, "heads": 3, "patch": 4, "readout": how}
            for how in ("class", "mean")
        ),
        {"family": "wild_park", "depth": 4, "kernels": "3-5-1-3", "widths": "4-6-3-5", "skips": "0-0-2-3"},
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


def test_a_snapshot_has_the_state_of_the_module_and_the_metrics(images):
    of = group([{}, {}])
    first, middle, last = snapshots(of, images, torch.float32)
    assert [(shot.step, shot.epoch) for shot in (first, middle, last)] == [(0, 0), (6, 1), (12, 3)]
    nets.build(CNN).load_state_dict({name: value[1] for name, value in last.state_dict.items()})
    assert list(last.state_dict) == list(nets.build(CNN).state_dict())
    assert set(last.metrics) == {"train_accuracy", "train_loss", "test_accuracy", "test_loss"}
    assert middle.state_dict["conv_norm1.num_batches_tracked"].tolist() == [6, 6]
    assert not any(torch.equal(first.state_dict[name], last.state_dict[name]) for name in first.state_dict)
    fresh = initialise(CNN, ["he_normal"] * 2, seeding.keys(SEED, torch.arange(2), "initialisation"))
    assert all(torch.equal(value, fresh[name]) for name, value in first.state_dict.items())


# no decay for the adaptive ones: see the remark above test_a_stack_equals_plain_loops
MIXED = [
    {"optimizer": optimizer, "augmentation": i % 2 == 0, "dropout": 0.3, "weight_decay": 0.01 if i > 2 else 0.0}
    for i, optimizer in enumerate(("adam", "adamw", "rmsprop", "momentum", "sgd"))
]


def test_training_from_a_snapshot_equals_uninterrupted_training_bit_for_bit(images):
    of = group(MIXED)
    _, middle, last = snapshots(of, images, torch.float32)
    (resumed,) = snapshots(of, images, torch.float32, resume=middle.resume_state)
    for found, expected in ((resumed.state_dict, last.state_dict), (resumed.resume_state, last.resume_state)):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(resumed.metrics[name], value) for name, value in last.metrics.items())
    assert snapshots(of, images, torch.float32, resume=last.resume_state) == []


def test_a_resume_state_holds_everything_that_matters(images):
    """The twin: with any one tensor of the state spoilt, resumed training goes elsewhere."""
    of = group(MIXED)
    _, middle, last = snapshots(of, images, torch.float32)
    for name, value in middle.resume_state.items():
        if value.is_floating_point() and "moment" not in name:
            (resumed,) = snapshots(of, images, torch.float32, middle.resume_state | {name: value + 1e-3})
            assert any(not torch.equal(resumed.state_dict[key], last.state_dict[key]) for key in last.state_dict), name


@pytest.mark.parametrize(
    "wild", [{"learning_rate": 1e38}, {"optimizer": "sgd", "initialisation": "normal", "learning_rate": 1e30}]
)
def test_a_diverged_net_keeps_finite_weights_and_its_neighbours_do_not_notice(wild, images):
    usual = {"gradient_clip": 0.5, "label_smoothing": 0.1, "label_noise": 0.1}
    calm = group([{"optimizer": "adam"} | usual] * 4)
    with_wild = group([usual, {"optimizer": "adam"} | usual | wild, usual, usual])
    for undisturbed, disturbed in zip(
        snapshots(calm, images, torch.float32), snapshots(with_wild, images, torch.float32), strict=True
    ):
        assert not undisturbed.diverged.any()
        for rows in (0, 2, 3):
            for name, value in undisturbed.state_dict.items():
                assert torch.equal(disturbed.state_dict[name][rows], value[rows]), (rows, name)
            for name, value in undisturbed.metrics.items():
                assert torch.equal(disturbed.metrics[name][rows], value[rows]), (rows, name)
    assert disturbed.diverged.tolist() == [False, True, False, False]
    assert all(value.isfinite().all() for value in disturbed.state_dict.values())
    count = disturbed.state_dict["conv_norm1.num_batches_tracked"]
    assert count[1] < 12
    assert (count[[0, 2, 3]] == 12).all()


def test_running_statistics_that_overflow_stop_a_net_whose_loss_is_finite(images):
    training = Training(group([{}, {}]), images, SEED, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        training.parameters["conv1.weight"][1] = 1e22 * torch.rand(3, 1, 3, 3)
    training.step()
    assert training.alive.tolist() == [True, False]
    assert (training.buffers["conv_norm1.running_var"][1] == 1).all()
    assert (training.buffers["conv_norm1.running_var"][0] != 1).all()


def test_a_net_does_not_depend_on_its_company(images):
    together = snapshots(group(MIXED), images)[-1]
    for row, change in enumerate(MIXED):
        alone = snapshots(group([change], first=row), images)[-1]
        for name, value in alone.state_dict.items():
            torch.testing.assert_close(together.state_dict[name][row], value[0], rtol=1e-6, atol=1e-7)


def test_images_of_another_shape_are_refused(images):
    with pytest.raises(ValueError, match=r"group group: image set 'digits' .* shape \(1, 8, 8\), expected \(1, 9, 9\)"):
        snapshots(group([{}], CNN | {"image_shape": [1, 9, 9]}), images)
