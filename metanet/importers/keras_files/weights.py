"""Weights: the arrays of a file as a tree, by layers and their parts.

Keras 3 names a part by the layer's attribute that holds it (`forward_layer`), and says the layer's own name beside the
arrays. Keras 2 names a layer's arrays by a path of layers' names, from which a model inside the model may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LAYERS = ("layers", "_layer_checkpoint_dependencies")  # of Keras 3, and of the last versions of Keras 2


@dataclass
class Weights:
    own: list[np.ndarray] = field(default_factory=list)
    parts: dict[str, Weights] = field(default_factory=dict)
    name: str | None = None  # the layer's, where a file of Keras 3 says it
    by_path: bool = False  # of Keras 2

    def arrays(self) -> list[np.ndarray]:
        """All arrays, in Keras' order."""
        return self.own + [array for part in self.parts.values() for array in part.arrays()]

    def part(self, names: Sequence[str], *attributes: str) -> Weights:
        """The part that one of the attributes holds, or by a path that a layer of one of the names owns.

        Empty where the file has none.

        Raises:
            ValueError: several layers of that name.
        """
        if not self.by_path:
            return next((self.parts[one] for one in attributes if one in self.parts), Weights())
        level = [self]
        while level:
            found = [part for one in level for name, part in one.parts.items() if name in names]
            if len(found) > 1:
                raise ValueError(f"found the arrays of {len(found)} layers called {' or '.join(names)}")
            if found:
                return found[0]
            level = [part for one in level for part in one.parts.values()]
        return Weights(by_path=True)

    def of_layers(self, described: Sequence[Mapping[str, Any]]) -> dict[str, Weights]:
        """Of each layer of a model its weights, by the layer's name.

        Raises:
            ValueError: two layers of one name, or weights of a layer that the model does not have.
        """
        names = [name_of(one) for one in described]
        if len(set(names)) < len(names):
            raise ValueError(f"found two layers called {next(name for name in names if names.count(name) > 1)!r}")
        if self.by_path:
            return {name: self.part([name]) for name in names}
        container = next((self.parts[name] for name in LAYERS if name in self.parts), Weights())
        named = {part.name: part for part in container.parts.values() if part.name}
        placed = {place: part for place, part in container.parts.items() if not part.name}
        found, taken = {}, set()
        for name, place in zip(names, _places(described), strict=True):
            found[name] = named.get(name) or placed.get(place) or Weights()
            taken.add(id(found[name]))
        known = [*named.items(), *placed.items()]
        left = [str(key) for key, part in known if id(part) not in taken and part.arrays()]
        if left:
            raise ValueError(f"found weights of {', '.join(left[:6])}, which the configuration does not have")
        return found


def name_of(one: Mapping[str, Any]) -> str:
    """The name of a layer, by its description."""
    config = one.get("config")
    return str(config.get("name", one.get("name")) if isinstance(config, Mapping) else one.get("name"))


def _places(described: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Keras 3 numbers layers by their kinds: conv2d, conv2d_1, ..."""
    counts: dict[str, int] = {}
    for one in described:
        kind = place(str(one["class_name"]))
        number = counts[kind] = counts.get(kind, -1) + 1
        yield f"{kind}_{number}" if number else kind


def own_names(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of each layer of a model its name in the program, by its name in the file.

    Keras counts the layers that nobody named through all models of a session: conv2d_7. Here they are counted in their
    model, so that nets of one architecture are told by equal names whenever they were made.
    """
    names, counted = [name_of(one) for one in described], list(_places(described))
    unnamed = [re.fullmatch(rf"{place(str(one['class_name']))}(_\d+)?", name_of(one)) for one in described]
    own = [new if is_unnamed else name for name, new, is_unnamed in zip(names, counted, unnamed, strict=True)]
    return dict(zip(names, own if len(set(own)) == len(own) else names, strict=True))


def place(class_name: str) -> str:
    """Keras' name for arrays of a kind of layers: "Conv2D" -> "conv2d", "LeakyReLU" -> "leaky_re_lu"."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
