"""Convolutions of any dimension: the kernel's positions are taps and never move.

The inputs of a convolution in groups are groups x members; each group has a permutation of its members of its own.
"""

import math
from dataclasses import replace

from torch import Tensor, nn

from metanet.arch.axes import Axis, Factor, axis
from metanet.arch.call import Call
from metanet.arch.layout import Dim, extent
from metanet.arch.rules.arithmetic import join
from metanet.arch.rules.linear import biased, product
from metanet.arch.rules.normalisation import unsqueezed
from metanet.arch.rules.windows import convolved, convolved_back
from metanet.arch.template import Block
from metanet.arch.value import Value

LETTERS = "hwd"


def convolution(call: Call) -> Value:
    """aten.convNd(input [nets, in, *grid], weight [out, in / groups, *kernel], bias [out] | None, ...).

    A kernel that is computed (weight norm, standardised weights, hypernetworks) is multiplied with windows of the grid.
    """
    weight, groups = call["weight"], call["groups"]
    if not _is_kernel(weight):
        padding = _padding(call["padding"], weight.shape[2:], call["dilation"])
        return _per_channel(call, convolved(call, call.activation("input"), weight, padding))
    x = call.activation("input")
    if _is_pointwise(call) and any(x.carries(axis) for axis in range(len(x.axes)) if axis != 1):
        return _between_positions(call, x)
    x = _read(call)
    into, out, inner = call.channels(x, 1), call.axis(weight, 0), call.axis(weight, 1)
    if groups > 1:
        group = Factor(groups)
        members, outputs = Factor(inner.size, keys=[group]), Factor(out.size // groups, keys=[group])
        call.equate(into, axis(group, members))
        call.equate(out, axis(group, outputs))
        call.equate(inner, axis(members))
    else:
        call.equate(into, inner)
    letters = _letters(weight)
    return _written(call, x, out, inner, "conv", f"o i {letters} -> o i ({letters})", {}, ())


def _is_kernel(weight: Value | Tensor) -> bool:
    """Whether it is a parameter, or a range of each of its axes; axes of size 1 may lack, or stand behind them."""
    if not isinstance(weight, Value) or weight.entry is None or len(weight.sizes) < 2:
        return False
    return all(row in ((Dim(axis, 1, extent(row)),), ()) for axis, row in enumerate(weight.axes))


def _per_channel(call: Call, y: Value) -> Value:
    """y plus the bias, if there is one, which may be computed too."""
    bias = call["bias"]
    return y if bias is None else join(call, "add", y, unsqueezed(bias, len(y.axes) - 2))


def _letters(weight: Value) -> str:
    """Names of the axes of the entry's own kernel."""
    return " ".join(LETTERS[: len(weight.sizes) - 2])


def _is_pointwise(call: Call) -> bool:
    kernel, plain = call["weight"].shape[2:], all(step == 1 for step in call["stride"])
    return call["groups"] == 1 and plain and all(size == 1 for size in kernel) and not any(call["padding"])


def _between_positions(call: Call, x: Value) -> Value:
    """A linear layer over positions on axis 1, where the channels stand on the grid (the token mixing of gMLP)."""
    turned = replace(x, axes=(x.axes[0], *x.axes[2:], x.axes[1]))
    weight = call.entry("weight")
    shape = (call.shape[0], *call.shape[2:], call.shape[1])
    y = product(call, turned, replace(weight, axes=weight.axes[:2]), shape)
    y = y if call["bias"] is None else biased(call, y, call["bias"])
    return replace(y, axes=(y.axes[0], y.axes[-1], *y.axes[1:-1]))


def transposed(call: Call) -> Value:
    """aten.conv_transposeNd(input [nets, in, *grid], weight [in, out / groups, *kernel], bias [out] | None, ...)."""
    weight, groups = call["weight"], call["groups"]
    if not _is_kernel(weight):
        return _per_channel(call, convolved_back(call, call.activation("input"), weight))
    x = _read(call)
    into, inner, out = call.channels(x, 1), call.axis(weight, 0), call.axis(weight, 1)
    call.equate(into, inner)
    if groups > 1:
        group = Factor(groups)
        members, outputs = Factor(inner.size // groups, keys=[group]), Factor(out.size, keys=[group])
        call.equate(inner, axis(group, members))
        call.equate(out, axis(outputs))
        out = axis(group, outputs)
    letters = _letters(weight)
    pattern = f"(g i) o {letters} -> (g o) i ({letters})"
    return _written(call, x, out, inner, "conv_transpose", pattern, {"g": groups}, ("output_padding",))


def _read(call: Call) -> Value:
    """The input, whose channels stand on axis 1 in the order of their space; positions there become channels."""
    x = call.alone(call.activation("input"), 1)
    return call.ordered(call.turned(x, [1]) if any(not x.is_node(dim) for dim in x.axes[1]) else x)


def _written(
    call: Call, x: Value, out: Axis, inner: Axis, kind: str, pattern: str, sizes: dict[str, int], more: tuple[str, ...]
) -> Value:
    weight = call.entry("weight")
    kernel, own = weight.shape[2:], (*weight.shape, *[1] * len(weight.sizes))[: len(weight.sizes)]
    slices = tuple((start, start + size) for start, size in zip(weight.starts, own, strict=True))
    call.pin(*(call.axis(weight, 2 + k) for k in range(len(kernel))))
    y = call.write(out, channel=1)
    call.scope(out, inner)
    text = x.layout([row for k, row in enumerate(x.axes) if k != 1])
    attributes = {
        "stride": tuple(call["stride"]),
        "padding": _padding(call["padding"], kernel, call["dilation"]),
        "dilation": tuple(call["dilation"]),
        **{name: tuple(call[name]) for name in more},
        **({"layout": text} if text else {}),
    }
    taps = math.prod(kernel)
    block = Block(
        *(weight.home.name, 0, 0, kind),
        shape=(out.size, math.prod(weight.shape) // taps // out.size, taps),
        taps=kernel,
        pattern=pattern,
        axes=sizes,
        groups=call["groups"],
        attributes=attributes,
        slices=slices if own != weight.sizes else (),
    )
    call.block(block, x, y)
    bias = call["bias"]
    if not isinstance(bias, Value) or bias.entry is None:
        return _per_channel(call, y)
    call.equate(call.axis(bias, 0), call.channels(y, 1))
    return call.operate(call.vector(y, 1, {"bias": bias}), "bias")


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
OPERATIONS: dict[str, tuple[str, ...]] = {}
LINKS = ()
EXAMPLES = {
    "aten.conv1d": ((4, 6), lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2)),
    "aten.conv2d": ((4, 5, 6), lambda: nn.Conv2d(4, 6, (2, 3), stride=2, padding=1, dilation=(1, 2))),
    "aten.conv3d": ((3, 3, 4, 4), lambda: nn.Conv3d(3, 3, 3, padding=1, groups=3)),
    "aten.conv_transpose1d": ((4, 3), lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2)),
    "aten.conv_transpose2d": ((4, 3, 2), lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)),
    "aten.conv_transpose3d": ((3, 2, 2, 2), lambda: nn.ConvTranspose3d(3, 3, 2, groups=3)),
}
