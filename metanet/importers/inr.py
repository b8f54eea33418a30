"""Implicit neural representations of images, one SIREN per .pth file, as Navon's and the NFN zoos have them.

Navon et al. (2023), "Equivariant Architectures for Learning in Deep Weight Spaces", arXiv:2301.12780, and their code.
Point `path` at the folder; a file's layers are matched by their order (seq.0.weight, seq.0.bias, ...). The nets are
those of family siren: dense -> times omega -> sin, and a dense layer at the end. Navon's code adds 0.5 to the output of
every net, which is no part of the weights: `offset` (0.5 unless it is given) is added to the bias of the last layer, so
that the imported nets give what the published ones give. For nets whose code adds nothing, offset=0 keeps the bias.

The class of the image is in the file's path, mnist_png_training_2_23089/checkpoints/model_final.pth, or in a JSON of
splits, {"train": {"path": [...], "label": [...]}, ...}, which `labels` names. Several nets of one image (of one such
folder) count as one run. `omega` is 30 unless it is given; `image_set` says what the images are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from metanet.importers.intake import fitting, splits
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.reading import each
from metanet.importers.intake.source import Foreign, LeftOut, Source

PATTERNS = ("**/*.pth", "**/*.pt")
IMAGE = re.compile(r".*_([^_]+)_[0-9]+")  # a folder's name, with the class of its image
SIDES = {"cifar10": 32}  # of images that are not 28 x 28
NUM_CLASSES = 10


def read(
    folder: Folder,
    parser: Parser,
    *,
    labels: str | None = None,
    image_set: str | None = None,
    omega: int = 30,
    offset: float = 0.5,
) -> Source:
    """Every net of the folder."""
    names = folder.names(*PATTERNS)
    listed = {} if labels is None else splits.read(folder, labels, names, "label")
    stream = _nets(folder, parser, names, listed, image_set, omega, offset)
    return Source(["siren"], len(names), stream, {"label": str}, {}, ["split", "label"])


def architecture(tensors: Mapping[str, Tensor], side: int, omega: int, where: str) -> dict[str, Any]:
    """The architecture by the shapes of the weights.

    Raises:
        ValueError: they are not those of a SIREN that reads places in the plane.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors.values() if tensor.dim() == 2]
    first = next((shape for shape in shapes if shape[1] == 2), None)
    hidden = [shape for shape in shapes if first and shape[0] == first[0] and shape[1] in (2, first[0])]
    heads = [shape for shape in shapes if shape not in hidden]
    if first is None or len(heads) != 1:
        raise ValueError(
            f"{where}: found weights of the shapes {shapes}, expected [width, 2], then [width, width] and at last "
            f"[channels, width]"
        )
    sizes = {"depth": len(hidden), "width": first[0], "omega": omega}
    return {"family": "siren", **sizes, "image_shape": [heads[0][0], side, side], "num_classes": NUM_CLASSES}


def _nets(
    folder: Folder,
    parser: Parser,
    names: list[str],
    listed: Mapping[str, Mapping[str, Any]],
    image_set: str | None,
    omega: int,
    offset: float,
) -> Iterator[Foreign | LeftOut]:
    for place, answer in each(folder, parser, names):
        where = names[place]
        image = next((part for part in PurePosixPath(where).parts[:-1] if IMAGE.fullmatch(part)), None)
        in_path = IMAGE.sub(r"\1", image) if image else None
        said = listed.get(where, {})
        label = str(said["label"]) if said else in_path
        try:
            if isinstance(answer, Exception):
                raise answer
            arch = architecture(answer.tensors, SIDES.get(image_set or "", 28), omega, where)
            tensors = fitting.in_order(answer.tensors, arch, where)
            yield Foreign(
                where=where,
                run=image or where,
                net=where,
                step=0,
                arch=arch,
                tensors=tensors | {"head.bias": tensors["head.bias"] + offset},
                activation="sin",
                image_set=image_set,
                values={"label": label},
                metadata={"split": said.get("split"), "label": label},
            )
        except (ValueError, OSError) as error:
            yield LeftOut.of(where, error)
