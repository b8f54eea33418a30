"""Layers of the foreign frameworks in NumPy, in their own layout: the oracle of every import."""

import numpy as np

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def integers(count: int, seed: int) -> np.ndarray:
    """Distinct integers in random order over a power of two, in (-1, 1): exact in float32."""
    order = np.random.default_rng(seed).permutation(count) + 1
    return (order - count // 2 - 0.5) / 2 ** (count - 1).bit_length()


def conv_nhwc(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int, same: bool) -> np.ndarray:
    """TensorFlow's convolution: x [batch, h, w, in], kernel [kh, kw, in, out]."""
    kh, kw = kernel.shape[:2]
    if same:
        x = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwikl,klio->bhwo", windows, kernel, optimize=True) + bias


def max_pool_nhwc(x: np.ndarray) -> np.ndarray:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def norm(x: np.ndarray, shift: np.ndarray, scale: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Batch norm with running statistics, channels last."""
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift
