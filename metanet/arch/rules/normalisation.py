"""Normalisations. Their scale and shift belong to a channel; what they normalise over may move as a whole."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from metanet.arch import layout
from metanet.arch.combine import combine
from metanet.arch.record import Call
from metanet.arch.value import Value

AFFINE = {"weight": "scale", "bias": "shift"}
STATISTICS = {"running_mean": "mean", "running_var": "variance"}


def batch_norm(call: Call) -> Value:
    """aten.batch_norm(input [nets, channels, *grid], weight, bias, running_mean, running_var, training, ..., eps)."""
    x = call.activation("input")
    if call["training"]:
        raise call.unsupported("it normalises by its batch in eval mode too (track_running_stats=False)")
    return call.operate(_affine(call, x, 1, AFFINE | STATISTICS), "batch_norm", eps=call["eps"])


def instance_norm(call: Call) -> Value:
    """aten.instance_norm(input [nets, channels, *grid], weight, bias, running_mean, ..., use_input_stats, ..., eps)."""
    x = call.activation("input")
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
    x, groups = call.activation("input"), call["num_groups"]
    channels = call.channels(x, 1).size
    if 1 < groups < channels:
        cut = replace(x, axes=layout.reshape(x.axes, (x.shape[0], groups, channels // groups, *x.shape[2:])))
        y = within(call, cut, 2)
        x = replace(y, axes=layout.reshape(y.axes, x.shape))
    else:
        call.scope()  # the statistics belong to no channel
    return call.operate(_affine(call, x, 1, AFFINE), "group_norm", num_groups=groups, eps=call["eps"])


def within(call: Call, x: Value, axis: int) -> Value:
    """The value in a space of its own, whose nodes are linked from a node for all places along `axis`.

    What an operation then does over the nodes it does over those that share such a node, the members of a group.
    """
    letters = "abcdefghijklmnop"[: len(x.axes)]
    rest = letters.replace(letters[axis % len(letters)], "")
    group = combine(call, ["group"], [x], [letters], rest)
    return combine(call, ["identity", "group"], [x, group], [letters, rest], letters)


def _over_channels(call: Call, kind: str, roles: Mapping[str, str], eps: float) -> Value:
    """The value after a norm over the last axis, the channels or the members of groups of them."""
    x = call.activation("input")
    if len(call["normalized_shape"]) != 1:
        raise call.unsupported(f"it normalises over {len(call['normalized_shape'])} axes; there is a rule for one")
    if any(x.carries(k) for k in range(len(x.axes) - 1)) and x.carries(-1):
        return _affine_of_members(call, call.operate(within(call, x, -1), kind, eps=eps), roles)
    call.channels(x, -1)
    call.scope()
    return call.operate(_affine(call, x, len(x.axes) - 1, roles), kind, eps=eps)


def _affine_of_members(call: Call, y: Value, roles: Mapping[str, str]) -> Value:
    """The normalised value times a scale and plus a shift, which all groups share."""
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


RULES = {
    "aten.batch_norm": batch_norm,
    "aten.instance_norm": instance_norm,
    "aten.layer_norm": layer_norm,
    "aten.rms_norm": rms_norm,
    "aten.group_norm": group_norm,
}
OPERATIONS = {
    "batch_norm": ("eps",),
    "instance_norm": ("eps",),
    "layer_norm": ("eps",),
    "rms_norm": ("eps",),
    "group_norm": ("num_groups", "eps"),
}
LINKS = ("group",)
EXAMPLES = {
    "aten.batch_norm": ((4, 5), lambda: nn.BatchNorm1d(4)),
    "aten.instance_norm": ((4, 5), lambda: nn.InstanceNorm1d(4, affine=True)),
    "aten.layer_norm": ((6,), lambda: nn.LayerNorm(6)),
    "aten.rms_norm": ((6,), lambda: nn.RMSNorm(6)),
    "aten.group_norm": ((6, 5), lambda: nn.GroupNorm(3, 6)),
}
