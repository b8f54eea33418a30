"""Trains one group of nets as one program, and hands over a snapshot at each step that asks for one.

A net here equals, to rounding, the same net trained alone by an ordinary loop around torch.optim, which is
tests/zoo/plain_loop.py. All that is random about a net (first weights, order of images, augmentation, dropout) is a
function of (seed, net, purpose, step). No reduction runs across nets, so a net that diverges leaves its neighbours
bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metanet import seeding
from metanet.zoo import families, nets, schedules
from metanet.zoo.feed import Feed
from metanet.zoo.images import Images
from metanet.zoo.initialisations import initialise
from metanet.zoo.optimisers import StackOptimizer
from metanet.zoo.pixel_feed import PixelFeed
from metanet.zoo.plan import Group
from metanet.zoo.replay import Replay
from metanet.zoo.stack import Stack
from metanet.zoo.way import Way

FEEDS = {"classification": Feed, "image_fitting": PixelFeed}  # by task


@dataclass(frozen=True)
class Snapshot:
    """Nets of a group as they were, a row each; on the CPU, and unchanged while training goes on."""

    step: int | None  # of all of them; None: `steps` says it of each, and `ends` what its whole training had
    nets: list[int]  # places in the group
    steps: list[int]
    ends: list[int]
    state_dict: dict[str, Tensor]  # names of nets.build(arch).state_dict(), each [rows, *shape]
    metrics: dict[str, Shaped[Tensor, " rows"]]  # those of the task, of nets in eval mode
    diverged: Bool[Tensor, " rows"]  # these nets keep what they had before a loss, weight or statistic overflowed
    resume_state: dict[str, Tensor]  # what `fit` needs to go on from here, bit for bit


def fit(
    group: Group,
    images: Mapping[str, Images],
    seed: int,
    device: torch.device | str,
    resume: Mapping[str, Tensor] | None,
    on_snapshot: Callable[[Snapshot], None],
    dtype: torch.dtype = torch.float32,
    way: Way = Way(),  # noqa: B008 (frozen)
) -> Iterator[int]:
    """Trains `group` from its start, or from the `resume_state` of one of its snapshots, a step for every iteration,
    which tells how many nets it trained.

    For nets that stop early there is metanet/zoo/fit_stopping.py. Here a net that diverges stays in its stack: few do,
    and a zoo is gone on with as it was begun.

    Args:
        images: every image set of the group, in the architecture's image shape, on `device`.
        seed: of the zoo.
        on_snapshot: called at each of the group's snapshot steps that lies ahead.

    Raises:
        ValueError: images that do not fit the group, or a layer that cannot be stacked.
    """
    training = Training(group, images, seed, torch.device(device), dtype, way)
    if resume is not None:
        training.load(resume)
    for step in group.snapshot_steps:
        if resume is None or step > int(resume["done"]):
            yield from training.advance(step)
            on_snapshot(training.snapshot())


class Training:
    """A group in training. All weights lie in one tensor [nets, params], which the layers see through views.

    What torch keeps of a way for the whole process (`Way.on`) is the caller's.
    """

    def __init__(
        self,
        group: Group,
        images: Mapping[str, Images],
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        way: Way = Way(),  # noqa: B008 (frozen)
    ):
        self.group, self.seed = group, seed
        self.done = 0  # steps
        self.feed = FEEDS[families.task(group.arch)](group, images, seed, device, dtype)
        self.alive = torch.ones(len(group.nets), dtype=torch.bool, device=device)
        self.going: Bool[Tensor, " nets"] | None = None  # the others have ended, and are changed no more; None: all

        def each(name: str) -> Tensor:
            values = [net.hyperparameters[name] for net in group.nets]
            return torch.tensor(values, dtype=dtype, device=device)

        module = nets.build(group.arch)
        self.stack = Stack(module, self._names("activation"), each("dropout"), way.convolution)
        fresh = initialise(group.arch, self._names("initialisation"), self._keys("initialisation", 0), self._std())
        self.state_names = list(fresh)
        names = [name for name, _ in module.named_parameters()]
        self.weights = torch.cat([fresh[name].flatten(1) for name in names], 1).to(dtype)
        pieces = self.weights.split([fresh[name][0].numel() for name in names], 1)
        self.parameters = {
            name: piece.unflatten(1, fresh[name].shape[1:]).requires_grad_()
            for name, piece in zip(names, pieces, strict=True)
        }
        self.buffers = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in fresh.items()
            if name not in self.parameters
        }
        self.gradients, self.proposed = torch.empty_like(self.weights), torch.empty_like(self.weights)
        self.optimizer = StackOptimizer(self._names("optimizer"), each("weight_decay"), self.weights)
        self.first_rate = each("learning_rate")
        self.rate_decay = torch.tensor([net.learning_rate_decay for net in group.nets], dtype=dtype, device=device)
        self._rate_of: tuple[int, Tensor] | None = None
        clip = each("gradient_clip")
        self.largest_norm = torch.where(clip > 0, clip, torch.inf) if clip.any() else None
        self._replay = Replay(self.buffers.values()) if way.graphs else None

    def _names(self, hyperparameter: str) -> list[str]:
        return [str(net.hyperparameters[hyperparameter]) for net in self.group.nets]

    def _std(self) -> Tensor:
        return torch.tensor([net.hyperparameters["initial_std"] for net in self.group.nets], device=self.feed.device)

    def _keys(self, purpose: str, step: int) -> Tensor:
        return seeding.keys(self.seed, self.feed.nets, purpose, step)

    def advance(self, step: int) -> Iterator[int]:
        """Trains until `step` steps are done, one for every iteration, and tells how many nets it is on."""
        while self.done < step:
            self.step()
            yield len(self.group)

    def _trained(self) -> Bool[Tensor, " nets"]:
        """Which nets a step changes."""
        return self.alive if self.going is None else self.alive & self.going

    @torch.no_grad()
    def _run(self, inputs: Tensor) -> Tensor:
        """What the nets make of their inputs, in eval mode."""
        return self.stack(self.parameters | self.buffers, inputs)

    def step(self) -> None:
        """One step of every net; one whose loss, weights or running statistics overflow stays as it is from now on."""
        inputs, wanted = self.feed.train(self.done)
        before = {name: value.clone() for name, value in self.buffers.items()}
        keys = self.feed.nets if self.stack.dropout is None else self._keys("dropout", self.done)
        if self._replay is None:
            losses = self._differentiate(inputs, wanted, keys)
        else:
            losses = self._replay(self._differentiate, inputs, wanted, keys)
        if self.largest_norm is not None:
            self.gradients *= _shrink(self.gradients, self.largest_norm)[:, None]
        rate = self._rate(self.done // self.group.steps_per_epoch)
        self.done += 1
        with torch.no_grad():
            self.optimizer.propose(self.weights, self.gradients, rate[:, None], self.done, out=self.proposed)
            finite = losses.isfinite() & self.proposed.sum(1).isfinite()
            for value in self.buffers.values():
                finite &= value.view(len(value), -1).sum(1).isfinite()
            self.alive &= finite | ~self._trained()
            trained = self._trained()
            torch.where(trained[:, None], self.proposed, self.weights, out=self.weights)
            for name, value in self.buffers.items():
                after = value if value.is_floating_point() else value + 1  # the counter of a batch norm's steps
                torch.where(trained.view(-1, *[1] * (value.dim() - 1)), after, before[name], out=value)

    def _differentiate(self, inputs: Tensor, wanted: Tensor, keys: Tensor) -> Float[Tensor, " nets"]:
        """Every net's loss; writes the gradients, and moves the running statistics."""
        outputs = self.stack(self.parameters | self.buffers, inputs, keys)
        losses = self.feed.losses(outputs, wanted).mean(1)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        torch.cat([gradient.flatten(1) for gradient in gradients], 1, out=self.gradients)
        return losses.detach()

    def _rate(self, epoch: int) -> Float[Tensor, " nets"]:
        if self._rate_of is None or self._rate_of[0] != epoch:
            factors = schedules.factors(self._names("schedule"), self.rate_decay, epoch, self.group.epochs)
            self._rate_of = epoch, self.first_rate * factors
        return self._rate_of[1]

    def validate(self) -> Float[Tensor, " nets"]:
        """Every net's accuracy on the images that are kept for this."""
        return self.feed.validate(self._run).cpu()

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """The group as it is now."""
        count = len(self.group)
        return Snapshot(
            step=self.done,
            nets=list(range(count)),
            steps=[self.done] * count,
            ends=[self.group.steps] * count,
            state_dict=self.weights_of(list(range(count))),
            metrics={name: value.cpu() for name, value in self.feed.evaluate(self._run).items()},
            diverged=~self.alive.cpu(),
            resume_state=self.state(),
        )

    @torch.no_grad()
    def weights_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The state_dict of these nets, [rows, *shape], on the CPU."""
        state = self.parameters | self.buffers
        index = torch.tensor(rows, dtype=torch.int64, device=self.feed.device)
        return {name: _copy(state[name][index]) for name in self.state_names}

    @torch.no_grad()
    def measured(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The metrics of the nets with the weights of `state_dict`, which they have from then on; on the CPU."""
        for name, value in (self.parameters | self.buffers).items():
            value.copy_(state_dict[name])
        return {name: value.cpu() for name, value in self.feed.evaluate(self._run).items()}

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on from here, bit for bit; on the CPU."""
        return {name: _copy(value) for name, value in self._state().items()} | {"done": torch.tensor(self.done)}

    def load(self, resume: Mapping[str, Tensor]) -> None:
        """Goes on from the `state` of a training of the same nets, or from what `state_of` gave of them."""
        for name, value in self._state().items():
            value.copy_(resume[name])
        self.done = int(resume["done"])

    def state_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Copies of the state of these nets, from which a training of them alone goes on; on the device."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.feed.device)
        moments = {f"moment.{name}": value for name, value in self.optimizer.state_of(rows).items()}
        others = {name: value for name, value in self._state().items() if not name.startswith("moment.")}
        return {name: value[index] for name, value in others.items()} | moments | {"done": torch.tensor(self.done)}

    def _state(self) -> dict[str, Tensor]:
        """All that a step changes, apart from the count of steps."""
        buffers = {f"buffer.{name}": value for name, value in self.buffers.items()}
        moments = {f"moment.{name}": value for name, value in self.optimizer.state().items()}
        return {"weights": self.weights, "alive": self.alive} | buffers | moments


def _shrink(gradients: Float[Tensor, "nets params"], largest: Float[Tensor, " nets"]) -> Float[Tensor, " nets"]:
    """By what factor each net's gradient is shortened, as in torch.nn.utils.clip_grad_norm_ of that net alone."""
    return (largest / (gradients.norm(dim=1) + 1e-6)).clamp(max=1)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
