"""Keras in NumPy, from its documentation: what layers compute on [samples, *grid, channels], by their configuration."""

import itertools
import math
from typing import Any

import numpy as np

Arrays = list[np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
    "swish": lambda x: x * _sigmoid(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softmax": _softmax,
}


def _each(value: Any, rank: int) -> list[int]:
    return [value] * rank if isinstance(value, int) else list(value)


def _padded(x: np.ndarray, kernel: list[int], stride: list[int], gap: list[int], how: str, fill: float) -> np.ndarray:
    sides = [(0, 0)]
    for size, width, step, dilation in zip(x.shape[1:-1], kernel, stride, gap, strict=True):
        total = max((math.ceil(size / step) - 1) * step + (width - 1) * dilation + 1 - size, 0)
        sides.append((total // 2, total - total // 2) if how == "same" else (0, 0))
        if how == "causal":
            sides[-1] = ((width - 1) * dilation, 0)
    return np.pad(x, [*sides, (0, 0)], constant_values=fill)


def _windows(x: np.ndarray, kernel: list[int], stride: list[int], gap: list[int]) -> np.ndarray:
    """[samples, *grid, channels, *kernel]."""
    reach = [(width - 1) * dilation + 1 for width, dilation in zip(kernel, gap, strict=True)]
    rank = len(kernel)
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(1, rank + 1)))
    steps = tuple(slice(None, None, step) for step in stride)
    inner = tuple(slice(None, None, dilation) for dilation in gap)
    return windows[(slice(None), *steps, slice(None), *inner)]


def _conv(x: np.ndarray, kernel: np.ndarray, config: dict[str, Any], groups: int = 1) -> np.ndarray:
    sizes = list(kernel.shape[:-2])
    stride, gap = (_each(config.get(name, 1), len(sizes)) for name in ("strides", "dilation_rate"))
    windows = _windows(_padded(x, sizes, stride, gap, config.get("padding", "valid"), 0.0), sizes, stride, gap)
    grid = windows.shape[1 : 1 + len(sizes)]
    parts = []
    for number, own in enumerate(np.split(kernel, groups, axis=-1)):
        inner = own.shape[-2]
        taken = windows[(slice(None),) * (1 + len(sizes)) + (slice(number * inner, (number + 1) * inner),)]
        flat = taken.reshape(len(x), *grid, -1)
        parts.append(flat @ np.moveaxis(own, -2, 0).reshape(-1, own.shape[-1]))
    return np.concatenate(parts, -1)


def _depthwise(x: np.ndarray, kernel: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    every = [_conv(x[..., c : c + 1], kernel[..., c : c + 1, :], config) for c in range(x.shape[-1])]
    return np.concatenate(every, -1)


def _transposed(x: np.ndarray, kernel: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Every number of x adds a kernel to the output; "same" cuts it to size * stride, less in front."""
    sizes = list(kernel.shape[:-2])
    stride = _each(config.get("strides", 1), len(sizes))
    grid = [n * step + max(width - step, 0) for n, width, step in zip(x.shape[1:-1], sizes, stride, strict=True)]
    y = np.zeros((len(x), *grid, kernel.shape[-2]))
    for place in itertools.product(*map(range, x.shape[1:-1])):
        at = tuple(slice(p * s, p * s + k) for p, s, k in zip(place, stride, sizes, strict=True))
        y[(slice(None), *at)] += np.tensordot(x[(slice(None), *place)], kernel, (-1, -1))
    if config.get("padding") == "same":
        for axis, (n, width, step) in enumerate(zip(x.shape[1:-1], sizes, stride, strict=True), 1):
            start = max(width - step, 0) // 2
            y = y.take(range(start, start + n * step), axis)
    return y


def _pool(x: np.ndarray, config: dict[str, Any], largest: bool) -> np.ndarray:
    rank = x.ndim - 2
    size = _each(config["pool_size"], rank)
    stride = size if config.get("strides") is None else _each(config["strides"], rank)
    padded = _padded(x, size, stride, [1] * rank, config.get("padding", "valid"), np.nan)
    windows = _windows(padded, size, stride, [1] * rank)
    return (np.nanmax if largest else np.nanmean)(windows, tuple(range(-rank, 0)))


def _recurrent(kind: str, x: np.ndarray, arrays: Arrays, config: dict[str, Any]) -> np.ndarray:
    kernel, recurrent, bias = arrays
    h = c = np.zeros((len(x), recurrent.shape[0]))
    states = []
    for step in range(x.shape[1]):
        if kind == "LSTM":
            i, f, g, o = np.split(x[:, step] @ kernel + h @ recurrent + bias, 4, -1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
        elif kind == "GRU":
            xz, xr, xh = np.split(x[:, step] @ kernel + bias[0], 3, -1)
            hz, hr, hh = np.split(h @ recurrent + bias[1], 3, -1)
            z, r = _sigmoid(xz + hz), _sigmoid(xr + hr)
            h = z * h + (1 - z) * np.tanh(xh + r * hh)
        else:
            h = np.tanh(x[:, step] @ kernel + h @ recurrent + bias)
        states.append(h)
    return np.stack(states, 1) if config.get("return_sequences") else h


def layer(kind: str, config: dict[str, Any], arrays: Arrays, *inputs: np.ndarray) -> np.ndarray:
    """What a layer gives, before its activation."""
    x, bias = inputs[0], arrays[-1] if arrays and config.get("use_bias", True) else 0.0
    grid = tuple(range(1, x.ndim - 1))
    if kind == "Dense":
        return x @ arrays[0] + bias
    if kind in ("Conv1D", "Conv2D", "Conv3D"):
        return _conv(x, arrays[0], config, config.get("groups", 1)) + bias
    if kind.startswith("DepthwiseConv"):
        return _depthwise(x, arrays[0], config) + bias
    if kind.startswith("SeparableConv"):
        return _conv(_depthwise(x, arrays[0], config), arrays[1], {}) + bias
    if kind.endswith("Transpose"):
        return _transposed(x, arrays[0], config) + bias
    if kind == "BatchNormalization":
        gamma, beta, mean, variance = arrays
        return (x - mean) / np.sqrt(variance + config["epsilon"]) * gamma + beta
    if kind == "LayerNormalization":
        rest = x - x.mean(-1, keepdims=True)
        return rest / np.sqrt((rest**2).mean(-1, keepdims=True) + config["epsilon"]) * arrays[0] + arrays[1]
    if kind == "GroupNormalization":
        parts = np.split(x, config["groups"], -1)
        rest = [p - p.mean((*grid, -1), keepdims=True) for p in parts]
        scaled = [r / np.sqrt((r**2).mean((*grid, -1), keepdims=True) + config["epsilon"]) for r in rest]
        return np.concatenate(scaled, -1) * arrays[0] + arrays[1]
    if kind == "Embedding":
        return arrays[0][x.astype(int)]
    if kind in ("LSTM", "GRU", "SimpleRNN"):
        return _recurrent(kind, x, arrays, config)
    if kind.startswith(("MaxPooling", "AveragePooling")):
        return _pool(x, config, kind.startswith("Max"))
    if kind.startswith("Global"):
        return (x.max if "Max" in kind else x.mean)(grid, keepdims=config.get("keepdims", False))
    if kind.startswith("ZeroPadding"):
        return np.pad(x, [(0, 0), *config["padding"], (0, 0)])
    if kind.startswith("UpSampling"):
        for axis, times in enumerate(_each(config["size"], x.ndim - 2), 1):
            x = x.repeat(times, axis)
        return x
    merged = {"Add": sum, "Average": lambda v: sum(v) / len(v), "Multiply": np.prod, "Subtract": lambda v: v[0] - v[1]}
    if kind in merged:
        return merged[kind](np.broadcast_arrays(*inputs)) if kind != "Multiply" else inputs[0] * inputs[1]
    rest = {
        "Flatten": lambda: x.reshape(len(x), -1),
        "Reshape": lambda: x.reshape(len(x), *config["target_shape"]),
        "Permute": lambda: x.transpose(0, *config["dims"]),
        "Concatenate": lambda: np.concatenate(inputs, config["axis"]),
        "Rescaling": lambda: x * config["scale"] + config["offset"],
        "LeakyReLU": lambda: np.where(x > 0, x, config["negative_slope"] * x),
        "ReLU": lambda: np.clip(x, 0, config.get("max_value")),
        "Dropout": lambda: x,
        "Activation": lambda: x,
        "Softmax": lambda: _softmax(x),
    }
    return rest[kind]()


def activated(kind: str, config: dict[str, Any], arrays: Arrays, *inputs: np.ndarray) -> np.ndarray:
    y = layer(kind, config, arrays, *inputs)
    return ACTIVATIONS[config.get("activation", "linear")](y) if kind not in ("LSTM", "GRU", "SimpleRNN") else y
