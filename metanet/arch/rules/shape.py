"""Operators that move no number: views, and what eval mode makes an identity."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from metanet.arch import layout
from metanet.arch.call import Call
from metanet.arch.layout import REPEAT, Dim, Misaligned
from metanet.arch.rules.comparison import RELATIONS
from metanet.arch.value import Value


def identity(call: Call) -> Value:
    """Dropout in eval mode, contiguous, alias, casts, ..."""
    if call.arguments.get("train"):
        raise call.unsupported("it drops values in eval mode too")
    return call["input"] if "input" in call.arguments else call["self"]


def copy(call: Call) -> Value:
    """aten.clone, lift_fresh_copy: the same numbers in memory of their own."""
    return replace(call["self"], storage=None)


def cast(call: Call) -> Value:
    """aten.to, type_as, ...: a number is truncated where it becomes whole, and compared with zero as a truth value."""
    x, before, after = call["self"], call.dtypes.get("self"), call.dtypes.get("")
    if before is None or after is None or before == torch.bool or after.is_floating_point or after.is_complex:
        return x
    if after == torch.bool:
        return call.operate(call.active(x), "compare", relation=RELATIONS["ne"], value=0.0)
    return call.operate(call.active(x), "trunc") if before.is_floating_point else x


def reshape(call: Call) -> Value | torch.Tensor:
    """aten.flatten, view, reshape, squeeze, unsqueeze, ...: neighbouring axes are merged or cut.

    Positions that are cut where they do not divide are written anew; so are those that share an axis with channels, as
    nodes.
    """
    x = call["self"]
    if isinstance(x, torch.Tensor):  # in the shape of a value
        return x.reshape(call.shape)
    try:
        return replace(x, axes=layout.reshape(x.axes, call.shape))
    except Misaligned:
        x = call.activation("self")
    carrying = [k for k, row in enumerate(x.axes) if x.carries(k)]
    if any(not x.is_node(dim) for k in carrying for dim in x.axes[k]):
        x = call.turned(x, carrying)
    x = call.settled(x)
    try:
        return replace(x, axes=layout.reshape(x.axes, call.shape))
    except Misaligned:
        return _rearranged(call, x)


def _rearranged(call: Call, x: Value) -> Value:
    """The settled value, whose positions are cut where they do not divide, while nodes that are not cut stay."""
    ends = _ends(call.shape)
    carrying = [axis for axis in range(len(x.axes)) if x.carries(axis)]
    nodes = [axis for axis in carrying if _is_whole(x.shape, axis, ends)]
    x = x if nodes == carrying else call.turned(x, nodes)  # what is cut where it does not divide is fixed positions
    sizes: list[int] = []
    written: list[int] = []
    start = 1
    for axis in [*nodes, None]:
        stop = math.prod(x.shape[:axis])
        sizes += [size for size, end in zip(call.shape, ends, strict=True) if start < end <= stop and size > 1]
        if axis is not None:
            written.append(len(sizes))
            sizes.append(x.shape[axis])
            start = stop * x.shape[axis]
    before = [size for axis, size in enumerate(x.shape) if axis not in nodes]
    after = [size for axis, size in enumerate(sizes) if axis not in written]
    while before and after and before[0] == after[0]:
        before, after = before[1:], after[1:]
    y = call.operate(x, "reshape", table=f"{before} {after}")
    y = replace(y, sizes=tuple(sizes), axes=layout.whole(sizes), starts=(0,) * len(sizes), written=tuple(written))
    return replace(y, axes=layout.reshape(y.axes, call.shape))


def _is_whole(shape: Sequence[int], axis: int, ends: Sequence[int]) -> bool:
    """Whether an axis begins and ends where others do, after the products `ends` of their sizes."""
    end = _ends(shape)[axis]
    return {end, end // shape[axis]} <= {1, *ends}


def _ends(shape: Sequence[int]) -> list[int]:
    """The products of the first sizes of a shape."""
    return [math.prod(shape[: axis + 1]) for axis in range(len(shape))]


def permute(call: Call) -> Value:
    """aten.permute(self, dims), transpose(self, dim0, dim1), movedim, t, mT, numpy_T: the axes in another order."""
    x = call["self"]
    order = list(range(len(x.axes)))
    if "dims" in call.arguments:
        order = [dim % len(order) for dim in call["dims"]]
    elif "source" in call.arguments:
        ends = [[one] if isinstance(one, int) else list(one) for one in (call["source"], call["destination"])]
        order = _moved(len(order), *ends)
    elif call.operator == "aten.numpy_T":
        order.reverse()
    elif call.operator == "aten.mT":
        order[-2:] = order[-1], order[-2]
    elif len(order) > 1:
        first, second = call.arguments.get("dim0", 0), call.arguments.get("dim1", 1)
        order[first], order[second] = order[second], order[first]
    return replace(x, axes=tuple(x.axes[k] for k in order))


def _moved(rank: int, source: list[int], destination: list[int]) -> list[int]:
    to = {end % rank: start % rank for start, end in zip(source, destination, strict=True)}
    rest = iter(axis for axis in range(rank) if axis not in to.values())
    return [to[place] if place in to else next(rest) for place in range(rank)]


def channel_shuffle(call: Call) -> Value:
    """aten.channel_shuffle(self, groups): channels (g c) in the order (c g)."""
    x, groups = call.activation("self"), call["groups"]
    axes = layout.reshape(x.axes, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    return replace(x, axes=(axes[0], axes[2] + axes[1], *axes[3:]))


def expand(call: Call) -> Value | torch.Tensor:
    """aten.expand(self, size), aten.expand_as(self, other), of which one may be a constant."""
    if isinstance(call["self"], torch.Tensor):
        return call["self"].expand(call.shape)
    return replace(call["self"], axes=layout.expand(call["self"].axes, call.shape))


def repeat(call: Call) -> Value:
    """aten.repeat(self, repeats): all of an axis again behind itself."""
    return _repeated(call["self"], call["repeats"], whole=True)


def repeat_interleave(call: Call) -> Value:
    """aten.repeat_interleave(self, repeats, dim): every place of an axis several times in a row."""
    x, dim = call["self"], call["dim"]
    if dim is None or not isinstance(call["repeats"], int):
        raise call.unsupported("there is a rule for a number of repeats along one axis only")
    return _repeated(x, [call["repeats"] if k == dim % len(x.axes) else 1 for k in range(len(x.axes))], whole=False)


def _repeated(x: Value, repeats: list[int], whole: bool) -> Value:
    rows = [()] * (len(repeats) - len(x.axes)) + list(x.axes)
    again = [(Dim(REPEAT, 1, number),) if number > 1 else () for number in repeats]
    return replace(x, axes=tuple(a + row if whole else row + a for a, row in zip(again, rows, strict=True)))


class _Repeat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat(1, 1, 2) + x.repeat_interleave(2, 2)


ALPHA = ("aten.alpha_dropout", "aten.feature_alpha_dropout")
RULES = {
    **dict.fromkeys(("aten.dropout", "aten.feature_dropout", *ALPHA), identity),
    **dict.fromkeys(("aten.contiguous", "aten.alias", "aten.detach"), identity),
    **dict.fromkeys(("aten.clone", "aten.lift_fresh_copy"), copy),
    **dict.fromkeys(("aten.to", "aten.type_as", "aten._to_copy"), cast),
    **dict.fromkeys(("aten.permute", "aten.transpose", "aten.movedim", "aten.t", "aten.mT", "aten.numpy_T"), permute),
    **dict.fromkeys(("aten.flatten", "aten.unflatten", "aten.view", "aten.reshape", "aten._unsafe_view"), reshape),
    **dict.fromkeys(("aten.squeeze", "aten.unsqueeze", "aten.reshape_as", "aten.view_as"), reshape),
    "aten.channel_shuffle": channel_shuffle,
    "aten.native_channel_shuffle": channel_shuffle,
    "aten.expand": expand,
    "aten.expand_as": expand,
    "aten.repeat": repeat,
    "aten.repeat_interleave": repeat_interleave,
}
OPERATIONS: dict[str, tuple[str, ...]] = {"reshape": ("table",)}
LINEAR = ("reshape",)
COPIES = ("identity", "flatten")
LINKS = ("identity", "flatten", "turn")
EXAMPLES = {
    "aten.dropout": ((4, 5), lambda: nn.Dropout(0.5)),
    "aten.feature_dropout": ((4, 5, 5), lambda: nn.Dropout2d(0.5)),
    "aten.alpha_dropout": ((4, 5), lambda: nn.AlphaDropout(0.5)),
    "aten.feature_alpha_dropout": ((4, 5), lambda: nn.FeatureAlphaDropout(0.5)),
    "aten.contiguous": ((4, 5), lambda: lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
    "aten.alias": ((4, 5), lambda: torch.ops.aten.alias),
    "aten.detach": ((4, 5), lambda: torch.detach),
    "aten.clone": ((4, 5), lambda: torch.clone),
    "aten.to": ((4, 5), lambda: lambda x: x * ((5 * x).to(torch.int64) + x.bool().to(torch.float64))),
    "aten.type_as": ((4, 5), lambda: lambda x: x.type_as(x)),
    "aten._to_copy": ((4, 5), lambda: lambda x: torch.ops.aten._to_copy(x)),
    "aten.lift_fresh_copy": ((4, 5), lambda: lambda x: torch.ops.aten.lift_fresh_copy(x)),
    "aten.permute": ((4, 3, 5), lambda: lambda x: x.permute(0, 2, 3, 1).flatten(1)),
    "aten.transpose": ((4, 5), lambda: lambda x: x.transpose(1, 2).flatten(1)),
    "aten.movedim": ((4, 5, 3), lambda: lambda x: x.movedim(1, -1).flatten(1)),
    "aten.t": ((4,), lambda: lambda x: x.t().t()),
    "aten.mT": ((4, 5), lambda: lambda x: x.mT.flatten(1)),
    "aten.numpy_T": ((4,), lambda: lambda x: x.T.tanh().T),
    "aten.flatten": ((4, 5, 3), nn.Flatten),
    "aten.unflatten": ((6, 4), lambda: lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2).tanh()),
    "aten.view": ((4, 5, 3), lambda: lambda x: x.view(len(x), -1)),
    "aten.reshape": ((4, 6, 5), lambda: lambda x: x.reshape(len(x), 4, 2, 15).reshape(len(x), 4, 5, 6)),
    "aten.reshape_as": ((4, 6), lambda: lambda x: x.reshape_as(torch.zeros(len(x), 4, 2, 3))),
    "aten.view_as": ((4, 6), lambda: lambda x: x.view_as(torch.zeros(len(x), 4, 2, 3))),
    "aten._unsafe_view": ((4, 6), lambda: lambda x: torch.ops.aten._unsafe_view(x, (len(x), 4, 2, 3))),
    "aten.squeeze": ((4, 1), lambda: lambda x: x.squeeze(-1)),
    "aten.unsqueeze": ((4, 5), lambda: lambda x: x.unsqueeze(1).squeeze(1)),
    "aten.channel_shuffle": ((6, 4, 3), lambda: nn.ChannelShuffle(2)),
    "aten.native_channel_shuffle": ((6, 4, 3), lambda: lambda x: torch.ops.aten.native_channel_shuffle(x, 3)),
    "aten.expand": ((4, 1), lambda: lambda x: x.expand(-1, -1, 3) + x),
    "aten.expand_as": ((4, 1), lambda: lambda x: x.expand_as(x.tanh()).tanh()),
    "aten.repeat": ((4, 3), _Repeat),
    "aten.repeat_interleave": ((4, 3), _Repeat),
}
