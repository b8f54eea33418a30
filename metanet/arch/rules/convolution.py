"""Convolutions of any dimension: the kernel's positions are taps and never move.

The inputs of a convolution in groups are groups x members; each group has a permutation of its members of its own.
"""

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
        shape=(out.size, inner.size, weight.size // (out.size * inner.size)),
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


RULES = {"aten.conv1d": convolution, "aten.conv2d": convolution, "aten.conv3d": convolution}
OPERATIONS = {}
EXAMPLES = {
    "aten.conv1d": ((4, 6), lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2)),
    "aten.conv2d": ((4, 5, 6), lambda: nn.Conv2d(4, 6, (2, 3), stride=2, padding=1, dilation=(1, 2))),
    "aten.conv3d": ((3, 3, 4, 4), lambda: nn.Conv3d(3, 3, 3, padding=1, groups=3)),
}
