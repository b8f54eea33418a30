"""What the nets of a group see at each step: each its own order of its own image set, on the device.

An epoch is a fresh order of the training images without its last, incomplete batch. The order and the augmentation are
functions of (seed, net, epoch or step) alone.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from metanet import seeding
from metanet.zoo import nets
from metanet.zoo.augment import augment
from metanet.zoo.images import Images
from metanet.zoo.plan import Group

EVAL_BATCH = 256  # images per net that are evaluated at once


def standardise(images: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """[0, 1] -> [-1, 1], in place: what every net is fed, whatever its image set."""
    return images.mul_(2).sub_(1)


def check_images(group: Group, images: Mapping[str, Images]) -> None:
    """ValueError if images have another shape than the architecture says, or are fewer than the nets need."""
    needed = group.train_images + group.valid_images
    for name in sorted({net.image_set for net in group.nets}):
        found, expected = tuple(images[name].train.shape[1:]), tuple(group.arch["image_shape"])
        if found != expected or len(images[name].train) < needed:
            raise ValueError(
                f"group {group.name}: image set {name!r} has {len(images[name].train)} images of shape "
                f"{found}, expected {expected} and at least {needed} images; load it in that shape"
            )


class Order:
    """Which samples each net sees at a step: in every epoch all of `count` in a fresh order, in whole batches."""

    def __init__(self, group: Group, nets: Int64[Tensor, " nets"], seed: int, count: int):
        self.group, self.nets, self.seed, self.count = group, nets, seed, count
        self._of: tuple[int, Int64[Tensor, "nets count"]] | None = None

    def batch(self, step: int) -> Int64[Tensor, "nets batch"]:
        epoch, batch = divmod(step, self.group.steps_per_epoch)
        if self._of is None or self._of[0] != epoch:
            keys = seeding.keys(self.seed, self.nets, "order", epoch)
            self._of = epoch, seeding.permutation(keys, self.count)
        size = self.group.batch_size
        return self._of[1][:, batch * size : (batch + 1) * size]


class _Set:
    """An image set and which nets see it; its images as rows of bytes, the channels of a pixel side by side."""

    def __init__(self, images: Images, rows: Int64[Tensor, " rows"], train_images: int):
        self.images, self.rows = images, rows
        train, test = (pixels.permute(0, 2, 3, 1).contiguous().flatten(1) for pixels in (images.train, images.test))
        self._parts = {
            "train": (train, images.train_labels),
            "valid": (train[train_images:], images.train_labels[train_images:]),
            "test": (test, images.test_labels),
        }

    def part(self, name: str) -> tuple[UInt8[Tensor, "images bytes"], Int64[Tensor, " images"]]:
        return self._parts[name]


class Feed:
    """The task "classification": the batches of a group, its losses and metrics.

    Args:
        images: every image set of the group, on `device`.

    Raises:
        ValueError: images that do not fit the group.
    """

    def __init__(self, group: Group, images: Mapping[str, Images], seed: int, device: torch.device, dtype: torch.dtype):
        check_images(group, images)
        self.group, self.seed, self.dtype, self.device = group, seed, dtype, device
        self.nets = torch.tensor([net.net for net in group.nets], device=device)
        augmented = [row for row, net in enumerate(group.nets) if net.hyperparameters["augmentation"]]
        self._augmented = torch.tensor(augmented, dtype=torch.int64, device=device)
        by_set: dict[str, list[int]] = {}
        for row, net in enumerate(group.nets):
            by_set.setdefault(net.image_set, []).append(row)
        self._sets = [
            _Set(images[name], torch.tensor(rows, device=device), group.train_images) for name, rows in by_set.items()
        ]
        self._features = nets.reads_features(group.arch)
        self._noisy = self._noisy_labels()
        self._order = Order(group, self.nets, seed, group.train_images)
        smoothing = torch.tensor([net.hyperparameters["label_smoothing"] for net in group.nets], device=device)
        self._smoothing = smoothing.to(dtype)[:, None] if smoothing.any() else None

    def train(self, step: int) -> tuple[Float[Tensor, "nets batch channels height width"], Int64[Tensor, "nets batch"]]:
        """The images and labels of training step `step`, which counts from 0."""
        pixels, labels = self._gather("train", self._order.batch(step))
        images = self._floats(pixels)
        if len(self._augmented):
            keys = seeding.keys(self.seed, self.nets, "augmentation", step)
            rows = self._augmented if len(self._augmented) < len(images) else slice(None)
            images[rows] = augment(images[rows].contiguous(), keys[rows])
        return standardise(images), labels

    def _floats(
        self, pixels: UInt8[Tensor, "nets batch height width channels"]
    ) -> Float[Tensor, "nets batch channels height width"]:
        """Values in [0, 1], in memory as the first layer of a stack reads them: bytes are moved faster than floats."""
        if self._features:
            values = rearrange(pixels, "n b h w c -> n c h w b").contiguous().to(self.dtype)
            return rearrange(values.div_(255), "n c h w b -> n b c h w")
        values = rearrange(pixels, "n b h w c -> b h w n c").contiguous().to(self.dtype)
        return rearrange(values.div_(255), "b h w n c -> n b c h w")

    def _noisy_labels(self) -> Int64[Tensor, "nets images"] | None:
        """The training labels where any net has label noise: each is, so likely, one of the other classes instead.

        Always the same one for a net and image. Source: Zhang et al. (2017), arXiv:1611.03530, with the true class left
        out.
        """
        noise = torch.tensor([[net.hyperparameters["label_noise"]] for net in self.group.nets], device=self.device)
        if not noise.any():
            return None
        labels = torch.empty(len(self.nets), self.group.train_images, dtype=torch.int64, device=self.device)
        classes = torch.empty_like(self.nets)[:, None]
        for each in self._sets:
            labels[each.rows] = each.images.train_labels[: self.group.train_images]
            classes[each.rows] = each.images.num_classes
        keys = seeding.keys(self.seed, self.nets, "label_noise")
        chance, choice = seeding.uniform(keys, 2, self.group.train_images).unbind(1)
        other = (labels + 1 + (choice * (classes - 1)).long()) % classes
        return torch.where(chance < noise, other, labels)

    def losses(
        self, logits: Float[Tensor, "nets classes batch"], labels: Int64[Tensor, "nets batch"]
    ) -> Float[Tensor, "nets batch"]:
        """Cross-entropy, with label smoothing as in Szegedy et al. (2016)."""
        losses = F.cross_entropy(logits, labels, reduction="none")
        if self._smoothing is None:
            return losses
        return torch.lerp(losses, -logits.log_softmax(1).mean(1), self._smoothing)

    def evaluate(self, run: Callable[[Tensor], Tensor]) -> dict[str, Float[Tensor, " nets"]]:
        """Accuracy and mean loss without smoothing of every net on either part; `run` gives the logits of images."""
        metrics: dict[str, Tensor] = {}
        for part in ("train", "test"):
            correct = count = loss = torch.zeros(len(self.nets), device=self.device)
            for images, labels, valid in self._evaluation(part):
                logits = run(images)
                correct = correct + ((logits.argmax(1) == labels) & valid).sum(1)
                losses = F.cross_entropy(logits, labels, reduction="none")
                loss = loss + torch.where(valid, losses, 0).sum(1)
                count = count + valid.sum(1)
            metrics[f"{part}_accuracy"], metrics[f"{part}_loss"] = correct / count, loss / count
        return metrics

    def validate(self, run: Callable[[Tensor], Tensor]) -> Float[Tensor, " nets"]:
        """Every net's accuracy on the images that are kept for this, the same in any company."""
        correct = torch.zeros(len(self.nets), dtype=torch.int64, device=self.device)
        for images, labels, valid in self._evaluation("valid"):
            correct += ((run(images).argmax(1) == labels) & valid).sum(1)
        return correct.double() / self.group.valid_images

    def _evaluation(
        self, part: str
    ) -> Iterator[tuple[Float[Tensor, "nets batch channels height width"], Int64[Tensor, "nets batch"], Tensor]]:
        """Images, labels and a mask of those that count [nets, batch], by batches of a part: "train", "valid", "test".

        A net is evaluated on the first `eval_images` of the part, or on all of it, as on all of "valid"; of "train" on
        none it never sees.
        """
        counts = torch.empty(len(self.nets), dtype=torch.int64)
        of_all = {"train": self.group.train_images, "valid": self.group.valid_images}
        for each in self._sets:
            available = of_all.get(part, len(each.images.test))
            most = None if part == "valid" else self.group.nets[0].eval_images
            counts[each.rows.cpu()] = min(most or available, available)
        most, counts = int(counts.max()), counts.to(self.device)[:, None]
        for start in range(0, most, EVAL_BATCH):
            index = torch.arange(start, min(start + EVAL_BATCH, most), device=self.device).expand(len(self.nets), -1)
            pixels, labels = self._gather(part, index.minimum(counts - 1))
            yield standardise(self._floats(pixels)), labels, index < counts

    def _gather(
        self, part: str, index: Int64[Tensor, "nets batch"]
    ) -> tuple[UInt8[Tensor, "nets batch height width channels"], Int64[Tensor, "nets batch"]]:
        """The images and labels at `index` of each net's own image set."""
        channels, height, width = self.group.arch["image_shape"]
        if len(self._sets) == 1:
            pixels, labels = self._sets[0].part(part)
            chosen_pixels, chosen_labels = pixels.index_select(0, index.flatten()), labels[index]
        else:
            chosen_pixels = index.new_empty(*index.shape, channels * height * width, dtype=torch.uint8)
            chosen_labels = torch.empty_like(index)
            for each in self._sets:
                (pixels, labels), rows = each.part(part), each.rows
                chosen_pixels[rows], chosen_labels[rows] = pixels[index[rows]], labels[index[rows]]
        if part == "train" and self._noisy is not None:
            chosen_labels = self._noisy.gather(1, index)
        return chosen_pixels.view(*index.shape, height, width, channels), chosen_labels
