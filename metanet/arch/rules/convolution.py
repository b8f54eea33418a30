"""Convolutions of any dimension: the kernel's positions are taps and never move.

The inputs of a convolution in groups are groups x members; each group has a permutation of its members of its own.
"""

import math

from torch import nn

from metanet.arch.axes import Factor, axis
from metanet.arch.record import Call, Value

LETTERS = "hwd"


def convolution(call: Call) -> Value:
    """aten.convNd(input [nets, in, *grid], weight [out, in / groups, *kernel], bias [out] | None, ...)."""
    x, weight, groups = call.activation("input"), call.entry("weight"), call["groups"]
    into = call.channels(x, 1)
    out, inner = weight.axes[:2]
    kernel = weight.shape[2:]
    call.pin(*weight.axes[2:])
    if groups > 1:
        group = Factor(groups)
        members, outputs = Factor(inner.size, keys=[group]), Factor(out.size // groups, keys=[group])
        call.equate(into, axis(group, members))
        call.equate(out, axis(group, outputs))
        call.equate(inner, axis(members))
    else:
        call.equate(into, inner)
    y = call.write((x.axes[0], out, *call.spatial(2)), channel=1)
    call.scope(*y.axes, inner)
    letters = " ".join(LETTERS[: len(kernel)])
    call.block(
        weight,
        x,
        y,
        kind="conv",
        shape=(out.size, inner.size, math.prod(kernel)),
        taps=kernel,
        pattern=f"o i {letters} -> o i ({letters})",
        groups=groups,
        attributes={
            "stride": tuple(call["stride"]),
            "padding": _padding(call["padding"], kernel, call["dilation"]),
            "dilation": tuple(call["dilation"]),
        },
    )
    return call.bias(y)


def transposed(call: Call) -> Value:
    """aten.conv_transposeNd(input [nets, in, *grid], weight [in, out / groups, *kernel], bias [out] | None, ...)."""
    x, weight, groups = call.activation("input"), call.entry("weight"), call["groups"]
    into = call.channels(x, 1)
    inner, outer = weight.axes[:2]
    kernel = weight.shape[2:]
    call.pin(*weight.axes[2:])
    call.equate(into, inner)
    out = outer
    if groups > 1:
        group = Factor(groups)
        members, outputs = Factor(inner.size // groups, keys=[group]), Factor(outer.size, keys=[group])
        call.equate(inner, axis(group, members))
        call.equate(outer, axis(outputs))
        out = axis(group, outputs)
    y = call.write((x.axes[0], out, *call.spatial(2)), channel=1)
    call.scope(*y.axes, inner)
    letters = " ".join(LETTERS[: len(kernel)])
    call.block(
        weight,
        x,
        y,
        kind="conv_transpose",
        shape=(out.size, inner.size // groups, math.prod(kernel)),
        taps=kernel,
        pattern=f"(g i) o {letters} -> (g o) i ({letters})",
        axes={"g": groups},
        groups=groups,
        attributes={
            "stride": tuple(call["stride"]),
            "padding": _padding(call["padding"], kernel, call["dilation"]),
            "output_padding": tuple(call["output_padding"]),
            "dilation": tuple(call["dilation"]),
        },
    )
    return call.bias(y)


def _padding(padding: str | list[int], kernel: tuple[int, ...], dilation: list[int]) -> tuple[int, ...]:
    """Rows and columns of zeros added (before, after) each grid axis: (top, bottom, left, right, ...).

    "same" puts the odd one after the grid, as torch does.
    """
    if padding == "valid":
        return (0, 0) * len(kernel)
    if isinstance(padding, str):  # "same"
        total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return tuple(part for each in total for part in (each // 2, each - each // 2))
    return tuple(part for each in padding for part in (each, each))


RULES = {
    **{f"aten.conv{n}d": convolution for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": transposed for n in (1, 2, 3)},
}
OPERATIONS = {}
EXAMPLES = {
    "aten.conv1d": ((4, 6), lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2)),
    "aten.conv2d": ((4, 5, 6), lambda: nn.Conv2d(4, 6, (2, 3), stride=2, padding=1, dilation=(1, 2))),
    "aten.conv3d": ((3, 3, 4, 4), lambda: nn.Conv3d(3, 3, 3, padding=1, groups=3)),
    "aten.conv_transpose1d": ((4, 3), lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2)),
    "aten.conv_transpose2d": ((4, 3, 2), lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)),
    "aten.conv_transpose3d": ((3, 2, 2, 2), lambda: nn.ConvTranspose3d(3, 3, 2, groups=3)),
}
