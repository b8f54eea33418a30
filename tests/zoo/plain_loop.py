"""One net in an ordinary loop, the oracle of stacked training; and groups of nets to try it on."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanet import seeding
from metanet.zoo import nets
from metanet.zoo.augment import augment
from metanet.zoo.fit import Snapshot, fit
from metanet.zoo.hyperparameters import NEUTRAL
from metanet.zoo.images import Images
from metanet.zoo.initialisations import initialise
from metanet.zoo.plan import Group
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
                hyperparameters=USUAL | change | ({"activation": nets.OWN} if nets.brings_activation(arch) else {}),
                train_images=63 if change.get("early_stopping") else 70,
                valid_images=7 if change.get("early_stopping") else 0,
                eval_images=50,
                epochs=steps[0],
                steps_per_epoch=steps[1],
                learning_rate_decay=0.9,
                snapshots=(0.0, 0.5, 1.0),
            )
        )
    return Group("group", tuple(members))


def snapshots(of: Group, images: dict[str, Images], dtype=torch.float64, resume=None) -> list[Snapshot]:
    taken: list[Snapshot] = []
    for _ in fit(of, images, SEED, "cpu", resume, taken.append, dtype):
        pass
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


def valid_accuracy(module: nn.Module, net: Net, images: Images) -> float:
    """On the images after those that the net trains on."""
    kept = slice(net.train_images, net.train_images + net.valid_images)
    module.eval()
    with torch.no_grad():
        found = module((images.train[kept].double() / 255 - 0.5) / 0.5).argmax(1)
    module.train()
    return (found == images.train_labels[kept]).double().mean().item()


def stops(measured: Sequence[float], tolerance: int) -> bool:
    """The rule of Eilertsen et al., read off all accuracies so far at once."""
    falls = same = below = 0
    mean = measured[0]
    for before, now in pairwise(measured):
        falls, same = (falls + 1, 0) if now < before else (falls, same + 1) if now == before else (0, 0)
        below += now < mean  # which is to be below the mean with it
        mean = (mean + now) / 2
    return len(measured) >= 4 * tolerance and (falls >= tolerance or max(below, same) >= 6 * tolerance)


def plain_fit(
    net: Net, images: Images, keep: Callable[[nn.Module, dict[str, float], bool], None] | None = None
) -> tuple[nn.Module, dict[str, float]]:
    """One net in an ordinary loop: nn.Module, torch.optim, one batch at a time, in float64.

    `keep` is given the net, its metrics and whether it has diverged, before training and after every epoch.
    """
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
    measured: list[float] = []
    diverged = False
    for epoch in range(net.epochs + 1):
        if keep:
            keep(module, plain_metrics(module, net, images, noisy), diverged)
        if epoch == net.epochs:
            break
        if chosen["early_stopping"]:
            measured.append(valid_accuracy(module, net, images))
            if stops(measured, chosen["early_stopping"]):
                break
        order = seeding.permutation(seeding.keys(SEED, number, "order", epoch), net.train_images)[0]
        for batch in order.split(chosen["batch_size"])[: 0 if diverged else net.steps_per_epoch]:
            before = {name: value.clone() for name, value in module.state_dict().items()}
            x = images.train[batch].double() / 255
            if chosen["augmentation"]:
                x = augment(x[None], seeding.keys(SEED, number, "augmentation", step))[0]
            for mask in masks.values():
                mask.keys = seeding.keys(SEED, number, "dropout", step)
            optimizer.zero_grad()
            smoothing = chosen["label_smoothing"]
            loss = F.cross_entropy(module((x - 0.5) / 0.5), noisy[batch], label_smoothing=smoothing)
            loss.backward()
            if chosen["gradient_clip"]:
                nn.utils.clip_grad_norm_(module.parameters(), chosen["gradient_clip"])
            optimizer.step()
            step += 1
            if not all(value.isfinite().all() for value in (loss, *module.state_dict().values())):
                module.load_state_dict(before)
                diverged = True
                break
        schedule.step()
    return module.eval(), plain_metrics(module, net, images, noisy)


def plain_metrics(module: nn.Module, net: Net, images: Images, noisy: Tensor) -> dict[str, float]:
    """In eval mode; the net is in training mode afterwards."""
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
    module.train()
    return metrics


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


def assert_equals_the_plain_loop(of: Group, images: dict[str, Images]) -> None:
    taken = snapshots(of, images)
    assert not taken[-1].diverged.any()
    for row, net in enumerate(of.nets):
        plain = plain_fit_to_an_image if net.arch["family"] == "siren" else plain_fit
        module, metrics = plain(net, images[net.image_set])
        for name, value in module.state_dict().items():
            found, where = taken[-1].state_dict[name][row], f"{name} of {dict(net.hyperparameters)}"
            assert torch.allclose(found, value, rtol=1e-6, atol=1e-7), (where, (found - value).abs().max())
        assert {name: value[row].item() for name, value in taken[-1].metrics.items()} == pytest.approx(
            metrics, rel=1e-5
        )
