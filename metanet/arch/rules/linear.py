"""y = x W^T + b over the last axis. A flattened grid in front of it becomes the taps of its edges."""

import math

from torch import nn

from metanet.arch.record import Call, Value


def linear(call: Call) -> Value:
    """aten.linear(input [*, in], weight [out, in], bias [out] | None) -> [*, out]."""
    x, weight = call.activation("input"), call.entry("weight")
    into = call.channels(x, -1)
    out, inner = weight.axes
    call.equate(into, inner)
    call.scope(*x.axes[:-1], out, inner)
    y = call.write((*x.axes[:-1], out), channel=len(x.axes) - 1)
    taps = math.prod(x.taps)
    order = "o (t i)" if x.taps_first else "o (i t)"
    call.block(
        weight,
        x,
        y,
        kind="linear" if taps == 1 else "flatten",
        shape=(out.size, inner.size // taps, taps),
        taps=() if taps == 1 else x.taps,
        pattern="o i -> o i 1" if taps == 1 else f"{order} -> o i t",
        axes={} if taps == 1 else {"t": taps},
    )
    return call.bias(y)


RULES = {"aten.linear": linear}
OPERATIONS = {}
EXAMPLES = {"aten.linear": ((4,), lambda: nn.Linear(4, 5))}
