"""Attention. Keras' projections are [channels, heads, width]; those of the result are [heads, width, channels]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metanet.importers.keras_files.building import Builder, Layer, Value


def _values(layer: Layer) -> tuple[Value, Value, Value]:
    """Query, value and key, by place or by name; the key is the value where none is given."""
    places = [one for one in layer.operands if isinstance(one, Value)]
    found = dict(zip(("query", "value", "key"), places, strict=False))
    for name, values in layer.named.items():
        if name not in ("query", "value", "key") or name in found or len(values) != 1:
            raise ValueError(f"is called with {name}, which is not supported")
        found[name] = values[0]
    if len(places) > 3 or len(places) < len(layer.operands) or not {"query", "value"} <= set(found):
        raise ValueError(f"found {len(layer.operands)} inputs, expected query, value, and key or none")
    return found["query"], found["value"], found.get("key", found["value"])


def _is_causal(layer: Layer) -> bool:
    wrong = {name: value for name, value in layer.arguments.items() if name != "use_causal_mask"}
    if wrong:
        raise ValueError(f"is called with {', '.join(wrong)}, which is not supported")
    return bool(layer.arguments.get("use_causal_mask", False))


def _tokens(build: Builder, layer: Layer, x: Value) -> Value:
    """A value as [tokens, channels]: attention goes over all axes but the last."""
    x, axes = build.to_last(x), layer.get("attention_axes")
    rank = len(x.shape)
    own = list(range(1, rank)) if axes is None else [axes] if type(axes) is int else axes
    if rank < 2 or not isinstance(own, list) or own != list(range(1, rank)):
        raise ValueError(f"found attention_axes {axes} of a value of the shape {x.shape}, expected all but the last")
    count = math.prod(x.shape[:-1])
    if rank == 2:
        return x
    return Value(build.step("reshape", [x.name], shape=[-1, count, x.shape[-1]]), (count, x.shape[-1]))


@dataclass(frozen=True)
class _Projections:
    """The arrays of an attention, taken part by part."""

    build: Builder
    layer: Layer

    def heads(self, x: Value, name: str, heads: int, width: int) -> str:
        """x [tokens, channels] as [heads, tokens, width]."""
        bias = [(heads, width)] if self.layer.get("use_bias", True) else []
        kernel, *more = self._arrays(name, f"{name}_dense", [(x.shape[-1], heads, width), *bias])
        weight = self.build.tensor(self.layer.name, f"{name}.weight", kernel.reshape(x.shape[-1], -1).T)
        biases = [self.build.tensor(self.layer.name, f"{name}.bias", one.reshape(-1)) for one in more]
        projected = self.build.step("linear", [x.name, weight, *biases])
        split = self.build.step("reshape", [projected], shape=[-1, x.shape[0], heads, width])
        return self.build.step("permute", [split], axes=[0, 2, 1, 3])

    def joined(self, name: str, tokens: int, heads: int, width: int, out: int) -> str:
        """[heads, tokens, width] as [tokens, out]."""
        merged = self.build.step("permute", [name], axes=[0, 2, 1, 3])
        merged = self.build.step("reshape", [merged], shape=[-1, tokens, heads * width])
        bias = [(out,)] if self.layer.get("use_bias", True) else []
        kernel, *more = self._arrays("attention_output", "output_dense", [(heads, width, out), *bias])
        weight = self.build.tensor(self.layer.name, "attention_output.weight", kernel.reshape(-1, out).T)
        biases = [self.build.tensor(self.layer.name, "attention_output.bias", one) for one in more]
        return self.build.step("linear", [merged, weight, *biases])

    def _arrays(self, name: str, attribute: str, wanted: list[tuple[int, ...]]) -> list[np.ndarray]:
        found = self.layer.tree.part([name], attribute, f"_{attribute}").arrays()
        if [array.shape for array in found] != wanted or any(array.dtype.kind != "f" for array in found):
            shapes = [array.shape for array in found]
            raise ValueError(f"{name}: found arrays of the shapes {shapes}, expected {wanted}")
        return found


def _multi_head(build: Builder, layer: Layer) -> Value:
    layer.only(use_gate=False, sliding_window=None, flash_attention=None)
    (heads,), (width,) = layer.sizes("num_heads", 1), layer.sizes("key_dim", 1)
    (of_values,) = layer.sizes("value_dim", 1) if layer.get("value_dim") else (width,)
    is_causal, (query, value, key) = _is_causal(layer), _values(layer)
    out, lead = layer.get("output_shape") or query.shape[-1], query.shape[:-1]
    out = out[0] if isinstance(out, list) and len(out) == 1 else out
    if type(out) is not int:
        raise ValueError(f"found output_shape {out}, expected one number")
    made, q = _Projections(build, layer), _tokens(build, layer, query)
    names = [made.heads(q, "query", heads, width)]
    names.append(made.heads(_tokens(build, layer, key), "key", heads, width))
    names.append(made.heads(_tokens(build, layer, value), "value", heads, of_values))
    y = build.step("attention", names, is_causal=is_causal, scale=width**-0.5)
    y = made.joined(y, q.shape[0], heads, of_values, out)
    return Value(y if len(lead) == 1 else build.step("reshape", [y], shape=[-1, *lead, out]), (*lead, out))


def _grouped(build: Builder, layer: Layer) -> Value:
    """Several heads of the query share one of the key and the value."""
    layer.only(use_gate=False, sliding_window=None, flash_attention=None)
    (heads,), (fewer,) = layer.sizes("num_query_heads", 1), layer.sizes("num_key_value_heads", 1)
    (width,), is_causal = layer.sizes("head_dim", 1), _is_causal(layer)
    query, value, key = _values(layer)
    made, q, times = _Projections(build, layer), _tokens(build, layer, query), heads // fewer
    if heads % fewer or len(query.shape) != 2:
        raise ValueError(f"found {heads} heads for {fewer}, and a query of the shape {query.shape}")
    names = [made.heads(q, "query", heads, width)]
    for name, one in (("key", key), ("value", value)):
        x = _tokens(build, layer, one)
        own = build.step("unsqueeze", [made.heads(x, name, fewer, width)], axis=2)
        own = build.step("expand", [own], shape=[-1, fewer, times, x.shape[0], width])
        names.append(build.step("reshape", [own], shape=[-1, heads, x.shape[0], width]))
    y = build.step("attention", names, is_causal=is_causal, scale=width**-0.5)
    return Value(made.joined(y, q.shape[0], heads, width, q.shape[-1]), q.shape)


def _dot(build: Builder, layer: Layer) -> Value:
    """Attention without weights, by products that are not scaled."""
    layer.only(use_scale=False, score_mode="dot", seed=None)
    is_causal, values = _is_causal(layer), [build.to_last(one) for one in _values(layer)]
    if any(len(one.shape) != 2 for one in values):
        raise ValueError(f"reads the shapes {[one.shape for one in values]}, expected tokens and channels")
    query, value, key = values
    name = build.step("attention", [query.name, key.name, value.name], is_causal=is_causal, scale=1.0)
    return Value(name, (query.shape[0], value.shape[1]))


KINDS: dict[str, Callable[[Builder, Layer], Value]] = {
    "MultiHeadAttention": _multi_head,
    **dict.fromkeys(("GroupQueryAttention", "GroupedQueryAttention"), _grouped),
    "Attention": _dot,
}
