"""Nets of the library transformers: a model class of it by name, and the configuration that makes its net.

`config` is JSON with everything that the class reads, as `architecture(config)` settles it; `vocabulary` is how many
words it knows, 0 where it reads images. Only classes of transformers itself are made, from their configuration alone:
nothing is downloaded, and code that a configuration names (`auto_map`) is refused. Attention is the "eager" one, which
can be traced. The net gives logits, or the last hidden state where its class has none.

Examples, to trace nets with: `LENGTH` words, or fewer where the net has fewer positions; images of the size that the
configuration says, or else of `SIDE` pixels a side. Only imported nets are of this family.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metanet.zoo import pretrained
from metanet.zoo.distributions import Check, integer
from metanet.zoo.fields import Arch, Field, Layers

LENGTH, SIDE = 8, 64
FIELDS = {
    "model": Field("-", Check(str, "a class of transformers", lambda name: bool(re.fullmatch(r"[A-Z]\w+", str(name))))),
    "vocabulary": Field("-v", integer(0)),
    "config": Field("-", Check(str, "a configuration as JSON", lambda text: isinstance(text, str)), digest=True),
}
OWN_ACTIVATION = True
LAYER = "net"
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


class Output(nn.Module):
    """What a class of transformers gives -> its logits, or the first tensor of it."""

    def forward(self, found: Any) -> Tensor:
        return found.logits if "logits" in found else found[0]


def expects(arch: Arch) -> str | None:
    said = _architecture(arch["model"], arch["config"])
    wrong = [name for name in ("vocabulary", "image_shape", "num_classes") if arch[name] != said[name]]
    return f"{wrong[0]} {said[wrong[0]]}, as its configuration says" if wrong else None


def input_shape(arch: Arch) -> list[int]:
    return [arch["image_shape"][2]] if arch["vocabulary"] else list(arch["image_shape"])


def vocabulary(arch: Arch) -> int:
    return arch["vocabulary"]


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    """The module of transformers, called net, and what takes its output out of the object around it.

    Raises:
        RefusedError, ValueError: as `architecture`; or transformers is not installed.
    """
    yield LAYER, pretrained.built(arch["model"], pretrained.parse(arch["config"]))
    yield "output", Output()


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture that a config.json says; equal for all that say the same net.

    Raises:
        RefusedError: it names code outside transformers, or something to download.
        ValueError: no such class, or none that reads either words or images; no net; transformers is not installed.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not FIELDS["model"].check.accepts(names[0]):
        raise ValueError(f"config: found architectures {names!r}, expected one class of transformers")
    return dict(_architecture(names[0], json.dumps(pretrained.settled(config), sort_keys=True)))


@functools.lru_cache(maxsize=256)
def _architecture(model: str, text: str) -> dict[str, Any]:
    config = pretrained.parse(text)
    with torch.device("meta"):  # claimed sizes allocate nothing
        module: Any = pretrained.built(model, config)
    settled = pretrained.settled(module.config.to_dict() | {"num_labels": module.config.num_labels})
    reads = str(getattr(module, "main_input_name", None))
    if settled.get("is_encoder_decoder") or (settled.get("text_config") and settled.get("vision_config")):
        reads = "two inputs"
    if reads not in ("input_ids", "pixel_values"):
        raise ValueError(f"config: {model} reads {reads}, expected input_ids alone or pixel_values alone")
    words = int(_setting(settled, "vocab_size")) if reads == "input_ids" else 0
    return {
        "family": "huggingface",
        "model": model,
        "vocabulary": words,
        "config": json.dumps(settled, sort_keys=True, separators=(",", ":"), allow_nan=False),
        "image_shape": [1, 1, _length(settled)] if words else _image_shape(settled),
        "num_classes": _num_classes(model, module, settled),
    }


def config_of(arch: Arch) -> dict[str, Any]:
    """A config.json that `from_pretrained` of transformers reads."""
    return {**pretrained.parse(arch["config"]), "architectures": [arch["model"]], "dtype": "float32"}


def complete(tensors: Mapping[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """A checkpoint's tensors under the names of the module, with those that are tied to others and were not saved.

    Where names are not those of the module, transformers loads them as it loads the checkpoints of other versions.

    Raises:
        ValueError: tensors that the architecture ties differ; or they are missing, left over or of another shape.
    """
    names, tied = _facts(arch["model"], arch["config"])
    found = _filled(tensors, tied)
    if found.keys() == names:
        return found
    return _filled(pretrained.loaded(arch["model"], pretrained.parse(arch["config"]), tensors), tied)


def untied(tensors: Mapping[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """The tensors without those that `complete` would make of others."""
    again = {name for group in _facts(arch["model"], arch["config"])[1] for name in group[1:]}
    return {name: tensor for name, tensor in tensors.items() if name not in again}


def _filled(tensors: Mapping[str, Tensor], tied: tuple[tuple[str, ...], ...]) -> dict[str, Tensor]:
    found = dict(tensors)
    for group in tied:
        there = [name for name in group if name in found]
        for name in there[1:]:
            if not torch.equal(found[name], found[there[0]]):
                raise ValueError(f"found {name} and {there[0]} with other values, but the architecture ties them")
        found |= {name: found[there[0]] for name in group if there}
    return found


@functools.lru_cache(maxsize=64)
def _facts(model: str, config: str) -> tuple[frozenset[str], tuple[tuple[str, ...], ...]]:
    """Of a module: the names of its tensors, and groups of them that are tied."""
    with torch.device("meta"):
        module = pretrained.built(model, pretrained.parse(config))
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    tied = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    return frozenset(module.state_dict()), tied


def _setting(config: Mapping[str, Any], name: str) -> Any:
    """A setting of the configuration, or of the part of it that has it."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    found = next((part[name] for part in parts if part.get(name)), None)
    if found is None:
        raise ValueError(f"config: found no {name}")
    return found


def _length(config: Mapping[str, Any]) -> int:
    return min([LENGTH, *(config[name] for name in POSITIONS if type(config.get(name)) is int and config[name] > 0)])


def _image_shape(config: Mapping[str, Any]) -> list[int]:
    size = config.get("image_size") or SIDE
    sides = list(size) if isinstance(size, list) else [size, size]
    return [config.get("num_channels") or 3, *sides]


def _num_classes(model: str, module: Any, config: Mapping[str, Any]) -> int:
    """The numbers on the last axis of the output."""
    head = module.get_output_embeddings()
    if head is not None:
        return head.weight.shape[0]
    if "Classification" in model:
        return config["num_labels"]
    sizes = config.get("hidden_size") or config.get("hidden_sizes") or 1
    return sizes[-1] if isinstance(sizes, list) else sizes
