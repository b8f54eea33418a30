"""The contract of metanet/baselines/__init__.py, for every configs/model/*.yaml."""

import functools
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import load, save
from torch import Tensor, nn

import metanet
from metanet import runs
from metanet.dataset import Batch, Nets, Schema
from metanet.targets import Target
from metanet.zoo.nets import build

CONFIGS = Path(__file__).parents[1] / "configs" / "model"
MODELS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
TARGETS = (
    Target("optimizer", "classification", ("adam", "momentum", "rmsprop")),
    Target("augmentation", "classification", ("false", "true")),
    Target("learning_rate", "regression", log=True, mean=-3.0, std=0.5),
)
CNN = {
    "family": "nws_cnn",
    "filter_size": 3,
    "conv_depth": 3,
    "conv_width": 2,
    "dense_depth": 2,
    "dense_width": 6,
    "image_shape": [1, 9, 9],
    "num_classes": 4,
    "batch_norm": True,
}
LARGE = CNN | {"filter_size": 9, "conv_depth": 4, "conv_width": 4, "dense_width": 32, "image_shape": [3, 12, 12]}
MLP = {"family": "mlp", "depth": 4, "width": 7, "image_shape": [1, 5, 5], "num_classes": 3, "batch_norm": False}
VIT = {"family": "vit", "depth": 1, "width": 4, "heads": 2, "patch": 2, "readout": "class"}
VIT |= {"image_shape": [1, 4, 4], "num_classes": 3}


class Residual(nn.Module):
    """An MLP with a residual sum, a concatenation, slices and a gate, so that its template has links of every kind."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(9, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.flatten(1)).relu()
        x = torch.cat([x + self.second(x).relu(), x], 1)
        return self.last(x[:, ::2] * x[:, 1::2])


BUILD = {
    "cnn": lambda: build(CNN),
    "large": lambda: build(LARGE),
    "mlp": lambda: build(MLP),
    "residual": Residual,
    "vit": lambda: build(VIT),
}
IMAGES = {"cnn": (1, 9, 9), "large": (3, 12, 12), "mlp": (1, 5, 5), "residual": (1, 3, 3), "vit": (1, 4, 4)}


@functools.cache
def template(arch: str):
    return metanet.trace(BUILD[arch](), torch.randn(2, *IMAGES[arch]))


def nets(arch: str, count: int, seed: int) -> Nets:
    """Random nets in float64, norm statistics too, whose targets can be read off the size of their weights."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.randint(3, (count,), generator=generator)
    augmentation = torch.randint(2, (count,), generator=generator)
    params = {}
    for name, tensor in BUILD[arch]().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        values = torch.randn(count, *tensor.shape, generator=generator, dtype=torch.float64)
        size = (0.1 * 3.0**optimizer).view(-1, *[1] * tensor.dim())
        params[name] = values.abs() + 0.5 if "var" in name else values * size
    params[next(iter(params))] += 0.5 * augmentation.view(-1, *[1] * (params[next(iter(params))].dim() - 1))
    value = torch.randn(count, generator=generator, dtype=torch.float64) / 10 + optimizer - 1
    known = {"optimizer": optimizer, "augmentation": augmentation, "learning_rate": value}
    return Nets(arch, template(arch), params, torch.arange(count), known)


def schema() -> Schema:
    return Schema(TARGETS, {arch: template(arch) for arch in BUILD})


def new_model(name: str, seed: int = 0) -> Any:
    config = OmegaConf.create({"model": OmegaConf.load(CONFIGS / f"{name}.yaml"), "seed": seed})
    model = runs.build(config, schema())
    return model.double() if isinstance(model, nn.Module) else model


@functools.cache
def trained(name: str) -> Any:
    """A model after `fit`, or after `prepare` and two steps, so that no buffer has its first value."""
    model, train = new_model(name), [nets(arch, 24, seed) for seed, arch in enumerate(BUILD)]
    if hasattr(model, "fit"):
        model.fit(train, [nets(arch, 8, 10 + seed) for seed, arch in enumerate(BUILD)])
        return model
    if hasattr(model, "prepare"):
        model.prepare([[group] for group in train])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model.train(), [group.select(torch.arange(3)) for group in train]).backward()
        optimizer.step()
    return model


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    outputs, loss = model(batch), torch.zeros((), dtype=torch.float64)
    for target in TARGETS:
        known = torch.cat([group.targets[target.name] for group in batch])
        loss_of_one = nn.functional.cross_entropy if target.kind == "classification" else nn.functional.mse_loss
        loss = loss + loss_of_one(outputs[target.name], known)
    if hasattr(model, "pretrain_loss"):
        loss = loss + model.pretrain_loss(batch, torch.Generator().manual_seed(0))  # type: ignore[operator]
    return loss


def predict(model: Any, batch: Batch) -> Tensor:
    """All outputs side by side, [nets, classes of all targets and one column per value]."""
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        outputs = model(batch)
    count = sum(len(group) for group in batch)
    return torch.cat([outputs[target.name].reshape(count, target.width) for target in TARGETS], dim=1)


def module_of(name: str) -> Any:
    return importlib.import_module(type(trained(name)).__module__)


def shuffled(group: Nets, seed: int) -> Nets:
    """The same functions with their hidden units in another order."""
    permute = group.template.symmetry.sample(torch.Generator().manual_seed(seed), nets=len(group))
    return replace(group, params=permute(group.params))


@pytest.mark.parametrize("name", MODELS)
def test_there_is_a_finite_prediction_for_every_target_and_net(name):
    batch = [nets("cnn", 3, 20), nets("mlp", 2, 21)]
    outputs = trained(name).eval()(batch) if isinstance(trained(name), nn.Module) else trained(name)(batch)
    assert set(outputs) == {target.name for target in TARGETS}
    for target in TARGETS:
        assert outputs[target.name].shape == ((5, target.width) if target.kind == "classification" else (5,))
        assert outputs[target.name].isfinite().all()


@pytest.mark.parametrize("name", MODELS)
@given(order=st.permutations(range(5)), cut=st.integers(0, 5), reverse=st.booleans())
@settings(max_examples=5)
def test_a_prediction_is_the_same_alone_in_any_batch_and_in_any_order(name, order, cut, reverse):
    small, large, order = nets("cnn", 5, 22), nets("large", 2, 23), torch.tensor(order)
    alone = torch.cat([predict(trained(name), [small.select(torch.tensor([i]))]) for i in range(5)])
    groups = [small.select(order[:cut]), large, nets("mlp", 3, 24), small.select(order[cut:])]
    groups = [group for group in (groups[::-1] if reverse else groups) if len(group)]
    mixed = predict(trained(name), groups).split([len(group) for group in groups])
    for group, prediction in zip(groups, mixed, strict=True):
        if group.arch == small.arch:
            torch.testing.assert_close(prediction, alone[group.rows], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_finite_gradient(name):
    model = new_model(name)
    if not isinstance(model, nn.Module):
        pytest.skip("fitted in one go, without gradients")
    batch = [nets("cnn", 3, 25), nets("large", 2, 26), nets("residual", 3, 27), nets("vit", 3, 28)]
    loss_of(model.train(), batch).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    assert not [name for name, gradient in gradients.items() if gradient is not None and not gradient.any()]


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_notices_one_changed_weight_unless_the_model_reads_none(name):
    """A constant model passes every invariance test; this one catches it."""
    before = nets("cnn", 8, 28)
    first = before.template.blocks[0].name
    changed = {key: tensor.clone() for key, tensor in before.params.items()}
    changed[first][:, 0, 0, 0, 0] += 10.0
    prediction = predict(trained(name), [before])
    gap = (predict(trained(name), [replace(before, params=changed)]) - prediction).abs().max()
    assert (gap > 1e-4 * prediction.std(0).max()) == getattr(module_of(name), "READS_WEIGHTS", True)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_predicts_the_same_bit_for_bit(name):
    batch = [nets("cnn", 3, 29), nets("large", 2, 30)]
    loaded = new_model(name, seed=1)
    runs.load_state(loaded, load(save({key: t.contiguous() for key, t in runs.state_of(trained(name)).items()})))
    assert torch.equal(predict(loaded, batch), predict(trained(name), batch))


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=5)
def test_a_prediction_ignores_the_order_of_hidden_units_where_the_model_says_so(name, seed):
    """The error is measured against the spread between nets; a model that makes no claim must show the harness one."""
    batch = [nets("cnn", 6, 31), nets("residual", 6, 32)]
    before = predict(trained(name), batch)
    after = predict(trained(name), [shuffled(group, seed) for group in batch])
    error = (after - before).abs().max()
    if module_of(name).INVARIANT:
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9 * float(before.std(0).max()) + 1e-14)
    else:
        assert error > 1e-4 * before.std(0).max()


@pytest.mark.parametrize("arch", BUILD)
def test_the_shuffled_nets_of_these_tests_compute_the_same_function(arch):
    """Without this the invariance test could be passed by a shuffle that shuffles nothing, or wrongly."""
    group = nets(arch, 2, 33)
    images = torch.randn(5, *IMAGES[arch], dtype=torch.float64)
    module = BUILD[arch]().double().eval()
    moved = shuffled(group, 1).params
    assert not torch.equal(moved[group.template.blocks[0].name], group.params[group.template.blocks[0].name])
    for net in range(2):
        before, after = (
            torch.func.functional_call(module, {name: tensor[net] for name, tensor in params.items()}, images)
            for params in (group.params, moved)
        )
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def on(device: str, group: Nets) -> Nets:
    params = {name: tensor.to(device) for name, tensor in group.params.items()}
    targets = {name: tensor.to(device) for name, tensor in group.targets.items()}
    return replace(group, params=params, rows=group.rows.to(device), targets=targets)


@pytest.mark.parametrize("name", [name for name in MODELS if isinstance(new_model(name), nn.Module)])
def test_a_training_step_stays_on_its_device_and_never_waits_for_it(name):
    """Tensors of the meta device do not mix with others and have no values to read: both would be errors here."""
    model = new_model(name)
    if hasattr(model, "prepare"):
        model.prepare([[nets(arch, 24, 0)] for arch in BUILD])
    batch = [on("meta", nets(arch, 3, 0)) for arch in BUILD]
    loss = loss_of(model.to("meta").train(), batch)
    loss.backward()
    assert all(p.grad.device.type == "meta" for p in model.parameters() if p.grad is not None)
    with pytest.raises(RuntimeError, match=r"device|meta"):
        loss_of(model, [nets(arch, 3, 0) for arch in BUILD]).backward()  # the twin: nets left behind on the CPU
