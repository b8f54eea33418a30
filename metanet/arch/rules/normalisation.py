"""Normalisations whose statistics belong to a channel."""

from torch import nn

from metanet.arch.record import Call, Value

ROLES = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"}


def batch_norm(call: Call) -> Value:
    """aten.batch_norm(input [nets, channels, *grid], weight, bias, running_mean, running_var, training, ..., eps)."""
    x = call.activation("input")
    if call["training"]:
        raise call.unsupported("it normalises by its batch in eval mode too (track_running_stats=False)")
    channels = call.channels(x, 1)
    entries = {role: call.entry(name) for name, role in ROLES.items() if call[name] is not None}
    for entry in entries.values():
        call.equate(entry.axes[0], channels)
    return call.operate(call.vector(x, entries), "batch_norm", eps=call["eps"])


RULES = {"aten.batch_norm": batch_norm}
OPERATIONS = {"batch_norm": ("eps",)}
EXAMPLES = {"aten.batch_norm": ((4, 5), lambda: nn.BatchNorm1d(4))}
