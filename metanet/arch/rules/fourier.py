"""Fourier transforms along positions: an operation whose table says which; channels there become fixed positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metanet.arch.call import Call, Example, Rule
from metanet.arch.layout import whole
from metanet.arch.rules.arithmetic import join
from metanet.arch.rules.ranking import laid
from metanet.arch.rules.windows import windows
from metanet.arch.value import Value


def transformed(call: Call, x: Value, dims: Sequence[int], name: str, shape: Sequence[int]) -> Value:
    """The transform of this name along `dims`, whose result has this shape."""
    over = [dim % len(x.axes) for dim in dims]
    channels = next((axis for axis in (1, len(x.axes) - 1) if axis not in over and len(x.axes) > 2), None)
    call.decide(x, [] if channels is None else [dim.axis for dim in x.axes[channels]])
    x = call.settled(laid(call, x, over))
    nodes = tuple(axis for axis in range(len(x.axes)) if x.carries(axis))
    x = replace(x, sizes=x.shape, axes=whole(x.shape), starts=(0,) * len(x.shape), written=nodes)
    ranks = tuple(x.positions.index(axis) for axis in over)
    y = call.operate(x, "fourier", axes=ranks, table=name)
    return replace(y, sizes=tuple(shape), axes=whole(shape), starts=(0,) * len(shape))


def real_to_complex(call: Call) -> Value:
    """aten._fft_r2c(self, dim, normalization, onesided)."""
    name = f"real to complex {call['normalization']} {call['onesided']}"
    return transformed(call, call.activation("self"), call["dim"], name, call.shape)


def complex_to_complex(call: Call) -> Value:
    """aten._fft_c2c(self, dim, normalization, forward)."""
    name = f"complex to complex {call['normalization']} {call['forward']}"
    return transformed(call, call.activation("self"), call["dim"], name, call.shape)


def complex_to_real(call: Call) -> Value:
    """aten._fft_c2r(self, dim, normalization, last_dim_size)."""
    name = f"complex to real {call['normalization']} {call['last_dim_size']}"
    return transformed(call, call.activation("self"), call["dim"], name, call.shape)


def short_time(call: Call) -> Value:
    """aten.stft(self [*, places], n_fft, hop_length, win_length, window, normalized, onesided, ...).

    Windows of the places, weighed and transformed, -> [*, frequencies, windows].
    """
    size, width = call["n_fft"], call["win_length"] or call["n_fft"]
    if call.arguments.get("center") or not call["return_complex"] or call.arguments.get("align_to_window"):
        raise call.unsupported("there is a rule for what torch.stft makes of it, with return_complex=True, only")
    x = call.activation("self")
    axis, window = len(x.axes) - 1, call["window"]
    seen = windows(call, laid(call, x, [axis]), [axis], [size], [call["hop_length"] or size // 4], [1])
    if window is None:
        window = torch.ones(width)
    if width < size:
        if not isinstance(window, Tensor):
            raise call.unsupported("its window is shorter than its transform, and an entry of the state_dict")
        left = (size - width) // 2
        window = torch.nn.functional.pad(window, (left, size - width - left))
    seen = join(call, "mul", seen, window)
    onesided = call["onesided"] is not False
    shape = (*seen.shape[:-1], size // 2 + 1 if onesided else size)
    y = transformed(call, seen, [-1], f"real to complex {int(bool(call['normalized']))} {onesided}", shape)
    return replace(y, axes=(*y.axes[:-2], y.axes[-1], y.axes[-2]))


def _spectrum(x: Tensor) -> Tensor:
    """A layer over frequencies: kept, turned and damped."""
    waves = torch.fft.rfft2(x, norm="ortho")
    return torch.fft.irfft2(waves * waves.abs().tanh(), s=x.shape[2:], norm="ortho")


def _sounds(x: Tensor) -> Tensor:
    waves = torch.stft(x.mean(1), 4, 2, window=torch.hann_window(4, dtype=x.dtype), return_complex=True)
    return x * waves.abs().sum((1, 2))[:, None, None]


RULES: dict[str, Rule] = {
    "aten._fft_r2c": real_to_complex,
    "aten._fft_c2c": complex_to_complex,
    "aten._fft_c2r": complex_to_real,
    "aten.stft": short_time,
}
OPERATIONS = {"fourier": ("axes", "table")}
LINEAR = ("fourier",)
LINKS = ()
EXAMPLES: dict[str, Example] = {
    "aten._fft_r2c": ((4, 5, 6), lambda: _spectrum),
    "aten._fft_c2c": ((4, 6), lambda: lambda x: torch.fft.ifft(torch.fft.fft(x).exp()).real),
    "aten._fft_c2r": ((4, 5, 6), lambda: _spectrum),
    "aten.stft": ((4, 8), lambda: _sounds),
}
