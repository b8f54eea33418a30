"""Normalisations. Their scale and shift belong to a channel; what they normalise over may move as a whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from metanet.arch import layout
from metanet.arch.call import Call, Rule
from metanet.arch.combine import combine
from metanet.arch.rules.arithmetic import join
from metanet.arch.value import Value

AFFINE = {"weight": "scale", "bias": "shift"}
STATISTICS = {"running_mean": "mean", "running_var": "variance"}


def batch_norm(call: Call) -> Value:
    """aten.batch_norm(input [nets, channels, *grid], weight, bias, running_mean, running_var, training, ..., eps)."""
    if call["training"] and call["input"].shape[0] == 1:
        return _by_itself(call)
    x = call.alone(call.activation("input"), 1)
    if call["training"]:
        raise call.unsupported("it normalises by its batch in eval mode too (track_running_stats=False)")
    return call.operate(_affine(call, x, 1, AFFINE | STATISTICS), "batch_norm", eps=call["eps"])


def _by_statistics(call: Call) -> list[Value]:
    """aten._native_batch_norm_legit_no_training(input, weight, bias, running_mean, running_var, momentum, eps)."""
    return [
        call.operate(
            _affine(call, call.alone(call.activation("input"), 1), 1, AFFINE | STATISTICS),
            "batch_norm",
            eps=call["eps"],
        )
    ]


def _by_itself(call: Call) -> Value:
    """A batch norm of a single sample by its own statistics, as weights are standardised: every channel by itself."""
    x = call.activation("input")
    call.guess(x)
    y = _over(call, "layer_norm", x, range(2, len(x.axes)), call["eps"])
    entries = [(kind, call[name]) for name, kind in (("weight", "mul"), ("bias", "add")) if call[name] is not None]
    letters = "abcdefgh"[: len(y.axes)]
    for kind, entry in entries:
        y = combine(call, [kind, kind], [y, entry], [letters, letters[1]], letters)
    return y


def instance_norm(call: Call) -> Value:
    """aten.instance_norm(input [nets, channels, *grid], weight, bias, running_mean, ..., use_input_stats, ..., eps)."""
    x = call.alone(call.activation("input"), 1)
    roles = AFFINE if call["use_input_stats"] else AFFINE | STATISTICS
    kind = "instance_norm" if call["use_input_stats"] else "batch_norm"  # by running statistics it is a batch norm
    return call.operate(_affine(call, x, 1, roles), kind, eps=call["eps"])


def layer_norm(call: Call) -> Value:
    """aten.layer_norm(input [..., channels], normalized_shape, weight, bias, eps)."""
    return _over_channels(call, "layer_norm", AFFINE, eps=call["eps"])


def rms_norm(call: Call) -> Value:
    """aten.rms_norm(input [..., channels], normalized_shape, weight, eps)."""
    eps = torch.finfo(torch.float32).eps if call["eps"] is None else call["eps"]
    return _over_channels(call, "rms_norm", {"weight": "scale"}, eps=eps)


def group_norm(call: Call) -> Value:
    """aten.group_norm(input [nets, channels, *grid], num_groups, weight, bias, eps): groups x members."""
    x, groups = call.alone(call.activation("input"), 1), call["num_groups"]
    channels = call.channels(x, 1).size
    if 1 < groups < channels:
        shape = (x.shape[0], groups, channels // groups, *x.shape[2:])
        try:
            axes = layout.reshape(x.axes, shape)
        except layout.Misaligned:  # other groups than those that its channels were shuffled by
            x = call.settled(x)
            axes = layout.reshape(x.axes, shape)
        y = within(call, replace(x, axes=axes), [2])
        x = replace(y, axes=layout.reshape(y.axes, x.shape))
    else:
        call.scope()  # the statistics belong to no channel
    return call.operate(_affine(call, x, 1, AFFINE), "group_norm", num_groups=groups, eps=call["eps"])


def _in_parts(norm: Callable[[Call], Value], channel: int | None = None) -> Rule:
    """The norm, whose scale and shift may be computed (from one on, by a hypernetwork): then they are joined to it.

    They belong to axis `channel`, by default to the last ones.
    """

    def rule(call: Call) -> Value:
        given = [name for name in AFFINE if call.arguments.get(name) is not None]
        first = next((k for k, name in enumerate(given) if not _is_entry(call[name])), len(given))
        later = given[first:]  # a shift comes after the scale, whatever it is
        y = norm(replace(call, arguments={**call.arguments, **dict.fromkeys(later)}) if later else call)
        for name in later:
            value = call[name] if channel is None else unsqueezed(call[name], len(y.axes) - channel - 1)
            y = join(call, {"weight": "mul", "bias": "add"}[name], y, value)
        return y

    return rule


def _is_entry(value: Value | Tensor) -> bool:
    return isinstance(value, Value) and value.entry is not None


def unsqueezed(value: Value | Tensor, times: int) -> Value | Tensor:
    """The value with axes of size 1 behind its own."""
    if isinstance(value, Tensor):
        return value.reshape(*value.shape, *[1] * times)
    return replace(value, axes=(*value.axes, *[()] * times))


def within(call: Call, x: Value, axes: Sequence[int]) -> Value:
    """The value in a space of its own, whose nodes are linked from a node for all places along `axes`.

    What an operation then does over the nodes it does over those that share such a node, the members of a group.
    """
    letters = "abcdefghijklmnop"[: len(x.axes)]
    rest = "".join(letter for axis, letter in enumerate(letters) if axis not in axes)
    group = combine(call, ["group"], [x], [letters], rest)
    return combine(call, ["identity", "group"], [x, group], [letters, rest], letters)


def _over_channels(call: Call, kind: str, roles: Mapping[str, str], eps: float) -> Value:
    """The value after a norm over the last axes: the channels or the members of groups of them, positions or not."""
    x, rank = call.activation("input"), len(call["normalized_shape"])
    over = range(len(x.axes) - rank, len(x.axes))
    call.decide(x, [dim.axis for dim in x.axes[max(over[0], 1)] if dim.size == x.sizes[dim.axis]])
    if rank == 1 and x.carries(-1) and not any(x.carries(k) for k in range(over[0])):
        call.scope()
        return call.operate(_affine(call, x, over[0], roles), kind, eps=eps)
    return _affine_of_members(call, _over(call, kind, x, over, eps), roles)


def _over(call: Call, kind: str, x: Value, over: Sequence[int], eps: float) -> Value:
    """The value after a norm over the last axes, where nodes may stand on others as well."""
    if any(x.carries(k) for k in range(over[0])) and any(x.carries(k) for k in over):
        x = within(call, x, over)
        if all(x.is_node(dim) for k in over for dim in x.axes[k]):
            return call.operate(x, kind, eps=eps)
    return _over_grid(call, kind, x, over, eps)


def _over_grid(call: Call, kind: str, x: Value, over: Sequence[int], eps: float) -> Value:
    """The value after a norm over positions, and over channels if they stand on these axes."""
    channels = any(x.carries(axis) for axis in over)
    x, ranks = call.ranked(x, over)
    if channels:
        call.scope()
    return call.operate(x, f"{kind}_over", axes=ranks, channels=channels, eps=eps)


def _affine_of_members(call: Call, y: Value, roles: Mapping[str, str]) -> Value:
    """The normalised value times a scale and plus a shift that are no numbers per node alone."""
    for name, kind in (("weight", "mul"), ("bias", "add")):
        if name in roles and call[name] is not None:
            y = combine(call, [kind, kind], [y, call.entry(name)])
    return y


def _affine(call: Call, x: Value, axis: int, roles: Mapping[str, str]) -> Value:
    """The value in a space that carries the arguments `roles` (name -> role) of the call, those that are given."""
    channels = call.channels(x, axis)
    entries = {role: call.entry(name) for name, role in roles.items() if call[name] is not None}
    for entry in entries.values():
        call.equate(call.axis(entry, 0), channels)
    return call.vector(x, axis, entries)


class _Norms(nn.Module):
    """Norms over channels, over positions, and over both."""

    def __init__(self, norm: Callable[..., nn.Module]):
        super().__init__()
        self.channels, self.positions, self.both = norm(6), norm(5), norm((6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(x.mT).mT + self.positions(x) * self.both(x)


class _FromOne(nn.LayerNorm):
    """A layer norm whose scale counts from one."""

    def forward(self, input: Tensor) -> Tensor:
        x = functional.layer_norm(input, self.normalized_shape, self.weight + 1, self.bias, self.eps)
        return super().forward(x.tanh())


class _Written(nn.Module):
    """A module, of whose input one place is overwritten."""

    def __init__(self, inside: nn.Module):
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :, 0] = 1
        return self.inside(x)


RULES = {
    "aten.batch_norm": _in_parts(batch_norm, 1),
    "aten._native_batch_norm_legit_no_training": _by_statistics,
    "aten.instance_norm": _in_parts(instance_norm, 1),
    "aten.layer_norm": _in_parts(layer_norm),
    "aten.rms_norm": _in_parts(rms_norm),
    "aten.group_norm": _in_parts(group_norm, 1),
}
OPERATIONS = {
    "batch_norm": ("eps",),
    "instance_norm": ("eps",),
    "layer_norm": ("eps",),
    "rms_norm": ("eps",),
    **dict.fromkeys(("layer_norm_over", "rms_norm_over"), ("axes", "channels", "eps")),
    "group_norm": ("num_groups", "eps"),
}
LINKS = ("group",)
EXAMPLES = {
    "aten.batch_norm": ((4, 5), lambda: nn.BatchNorm1d(4)),
    "aten._native_batch_norm_legit_no_training": ((4, 5), lambda: _Written(nn.BatchNorm1d(4))),
    "aten.instance_norm": ((4, 5), lambda: nn.InstanceNorm1d(4, affine=True)),
    "aten.layer_norm": ((6, 5), lambda: _Norms(_FromOne)),
    "aten.rms_norm": ((6, 5), lambda: _Norms(nn.RMSNorm)),
    "aten.group_norm": ((6, 5), lambda: nn.GroupNorm(3, 6)),
}
