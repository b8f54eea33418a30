"""Wrappers: the state_dict inside a checkpoint, among an optimizer's state, counters and settings.

An entry that holds weights is found by what it holds, tensors by name, whatever it is called. Where several could be
meant, as the weights of a net and their moving average, nothing is guessed: `weights` says which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from metanet.importers.intake import arrays

MOST_NAMES = 100_000  # tensors of a net
# Names for one net's weights; only in them are weights looked for that lie deeper.
MODELS = (
    *("state_dict", "model_state_dict", "model", "net", "module", "weights", "network", "params", "checkpoint"),
    *("model_state", "model_weights", "network_state_dict", "net_state_dict", "ema", "model_ema", "ema_model"),
)
PREFIXES = ("module.", "_orig_mod.")
AVERAGED = "n_averaged"  # torch's AveragedModel counts so beside module.*


def unwrap(
    found: Any, where: str, plain: Callable[[Any], Any], weights: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state_dict without the prefixes of DataParallel and torch.compile, and what stands beside it as plain JSON.

    `plain` makes such values of others; `weights` names the entry that is meant.

    Raises:
        ValueError: none is there, or several; or its names are none.
    """
    metadata: dict[str, Any] = {}
    path: list[str] = []
    while isinstance(found, Mapping) and not _is_state_dict(found):
        name = _chosen(found, where, weights)
        if name is None:
            break
        metadata |= {str(other): value for other, value in found.items() if other != name}
        path.append(name)
        found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{where}: no state_dict: found {_kinds(found)}, expected tensors by name")
    wrong = [name for name, value in found.items() if not isinstance(name, str) or not arrays.is_array(value)]
    if wrong or len(found) > MOST_NAMES:
        raise ValueError(
            f"{where}: no state_dict: {wrong[0]!r} is no tensor, found {_kinds(found)}" if wrong else where
        )
    if weights is not None and weights not in path:
        there = f"under {path[-1]!r}" if path else "bare"
        raise ValueError(f"{where}: found no weights called {weights!r}, they lie {there}. Leave weights= out for it.")
    tensors = _unprefixed(dict(found), metadata)
    for name in tensors:
        if not name or len(name) > 512 or not name.isprintable():
            raise ValueError(f"{where}: found a tensor named {name[:80]!r}, expected a printable name")
    return tensors, json.loads(json.dumps(metadata, default=plain))


def _is_state_dict(found: Mapping[Any, Any]) -> bool:
    return bool(found) and all(isinstance(name, str) and arrays.is_array(value) for name, value in found.items())


def _chosen(found: Mapping[Any, Any], where: str, weights: str | None) -> str | None:
    """The entry with the weights; None if none has any.

    Raises:
        ValueError: several may be meant.
    """
    names = [name for name, value in found.items() if isinstance(name, str) and _holds_weights(name, value)]
    if weights in names or len(names) < 2:
        return weights if weights in names else next(iter(names), None)
    usual = [name for name in names if name in MODELS] or names
    rivals = [name for name in names if name in usual or _shapes(found[name]) == _shapes(found[usual[0]])]
    if len(rivals) > 1:
        told = " or ".join(f"weights={name}" for name in rivals[:6])
        raise ValueError(f"{where}: found the weights of {len(rivals)} nets. Say which are meant: {told}")
    return usual[0]


def _holds_weights(name: str, value: Any) -> bool:
    """Whether it is a state_dict, with floating-point numbers where its name does not say so, or has one inside."""
    if not isinstance(value, Mapping):
        return False
    if _is_state_dict(value):
        return name in MODELS or any(_is_floating(tensor) for tensor in value.values())
    inner = (_holds_weights(one, other) for one, other in value.items() if isinstance(one, str))
    return name in MODELS and any(inner)


def _is_floating(tensor: Any) -> bool:
    return str(tensor.dtype).removeprefix("torch.").upper().startswith(("F", "BF"))


def _shapes(value: Any) -> dict[str, tuple[int, ...]] | None:
    return {name: tuple(one.shape) for name, one in value.items()} if _is_state_dict(value) else None


def _unprefixed(tensors: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    if AVERAGED in tensors and all(name.startswith("module.") for name in tensors if name != AVERAGED):
        metadata[AVERAGED] = tensors.pop(AVERAGED)
    for prefix in (*PREFIXES, *PREFIXES):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _kinds(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    return (
        "{" + ", ".join(f"{str(name)[:40]!r}: {type(value).__name__}" for name, value in list(found.items())[:6]) + "}"
    )
