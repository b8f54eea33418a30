"""Normalisations. Their scale and shift belong to a channel; what they normalise over may move as a whole."""

from collections.abc import Mapping

import torch
from torch import nn

from metanet.arch.axes import Axis, Factor, axis
from metanet.arch.record import Call, Value

AFFINE = {"weight": "scale", "bias": "shift"}
STATISTICS = {"running_mean": "mean", "running_var": "variance"}


def batch_norm(call: Call) -> Value:
    """aten.batch_norm(input [nets, channels, *grid], weight, bias, running_mean, running_var, training, ..., eps)."""
    x = call.activation("input")
    if call["training"]:
        raise call.unsupported("it normalises by its batch in eval mode too (track_running_stats=False)")
    y = _affine(call, x, call.channels(x, 1), AFFINE | STATISTICS)
    return call.operate(y, "batch_norm", eps=call["eps"])


def instance_norm(call: Call) -> Value:
    """aten.instance_norm(input [nets, channels, *grid], weight, bias, running_mean, ..., use_input_stats, ..., eps)."""
    x = call.activation("input")
    roles = AFFINE if call["use_input_stats"] else AFFINE | STATISTICS
    kind = "instance_norm" if call["use_input_stats"] else "batch_norm"  # by running statistics it is a batch norm
    return call.operate(_affine(call, x, call.channels(x, 1), roles), kind, eps=call["eps"])


def layer_norm(call: Call) -> Value:
    """aten.layer_norm(input [..., channels], normalized_shape, weight, bias, eps)."""
    return call.operate(_over_channels(call, AFFINE), "layer_norm", eps=call["eps"])


def rms_norm(call: Call) -> Value:
    """aten.rms_norm(input [..., channels], normalized_shape, weight, eps)."""
    eps = torch.finfo(torch.float32).eps if call["eps"] is None else call["eps"]
    return call.operate(_over_channels(call, {"weight": "scale"}), "rms_norm", eps=eps)


def group_norm(call: Call) -> Value:
    """aten.group_norm(input [nets, channels, *grid], num_groups, weight, bias, eps): groups x members."""
    x, groups = call.activation("input"), call["num_groups"]
    channels, group = call.channels(x, 1), Factor(groups)
    call.equate(channels, axis(group, Factor(channels.size // groups, keys=[group])))
    call.scope(x.axes[0], axis(group))
    return call.operate(_affine(call, x, channels, AFFINE), "group_norm", num_groups=groups, eps=call["eps"])


def _over_channels(call: Call, roles: Mapping[str, str]) -> Value:
    """The value with the norm's vectors, checked to normalise over the last axis, the channels, alone."""
    x = call.activation("input")
    if len(call["normalized_shape"]) != 1:
        raise call.unsupported(f"it normalises over {len(call['normalized_shape'])} axes; there is a rule for one")
    channels = call.channels(x, -1)
    call.scope(*x.axes[:-1])
    return _affine(call, x, channels, roles)


def _affine(call: Call, x: Value, channels: Axis, roles: Mapping[str, str]) -> Value:
    """The value in a space that carries the arguments `roles` (name -> role) of the call, those that are given."""
    entries = {role: call.entry(name) for name, role in roles.items() if call[name] is not None}
    for entry in entries.values():
        call.equate(entry.axes[0], channels)
    return call.vector(x, entries)


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
EXAMPLES = {
    "aten.batch_norm": ((4, 5), lambda: nn.BatchNorm1d(4)),
    "aten.instance_norm": ((4, 5), lambda: nn.InstanceNorm1d(4, affine=True)),
    "aten.layer_norm": ((6,), lambda: nn.LayerNorm(6)),
    "aten.rms_norm": ((6,), lambda: nn.RMSNorm(6)),
    "aten.group_norm": ((6, 5), lambda: nn.GroupNorm(3, 6)),
}
