"""Functions of one value, with the numbers that shape them: attribute name -> name of the operator's argument."""

from functools import partial

import torch
from torch import nn

from metanet.arch.call import Call, Example, Rule
from metanet.arch.rules.arithmetic import join
from metanet.arch.value import Value

PLAIN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("relu", "relu6", "selu", "silu", "mish", "sigmoid", "log_sigmoid", "tanh"), ()),
    **dict.fromkeys(("hardsigmoid", "hardswish", "sin", "cos", "exp", "expm1", "log", "log1p", "erf", "atan"), ()),
    **dict.fromkeys(("asinh", "sinh", "cosh", "abs", "neg", "sign", "square", "sqrt", "rsqrt", "reciprocal"), ()),
    **dict.fromkeys(("floor", "round", "trunc"), ()),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha", "scale", "input_scale"),
    "celu": ("alpha",),
    "gelu": ("approximate",),
    "hardtanh": ("min_val", "max_val"),
    "softplus": ("beta", "threshold"),
    "softshrink": ("lambd",),
    "hardshrink": ("lambd",),
    "threshold": ("threshold", "value"),
}
LINEAR = ("neg",)
HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "abs")
ODD = ("tanh", "sin", "softshrink", "hardshrink", "erf", "atan", "asinh", "sinh", "sign", "round", "trunc")
EVEN = ("abs", "square", "cos", "cosh")
OPERATIONS = PLAIN | {"clamp_min": ("min",), "clamp_max": ("max",), "prelu": ()}


def _rule(kind: str, numbers: tuple[str, ...]) -> Rule:
    def activation(call: Call) -> Value:
        return call.operate(call.activation("self"), kind, **{name: call[name] for name in numbers})

    return activation


def clamp(call: Call) -> Value:
    """aten.clamp(self, min | None, max | None), aten.clamp_min and aten.clamp_max: numbers, or values."""
    x = call["self"]
    if call.arguments.get("min") is not None:
        x = join(call, "maximum", x, call["min"])
    return x if call.arguments.get("max") is None else join(call, "minimum", x, call["max"])


def rrelu(call: Call) -> Value:
    """aten.rrelu(self, lower, upper, training): in eval mode a leaky relu with the mean of its slopes."""
    if call["training"]:
        raise call.unsupported("it draws its slopes in eval mode too")
    return call.operate(call.activation("self"), "leaky_relu", negative_slope=(call["lower"] + call["upper"]) / 2)


def prelu(call: Call) -> Value:
    """aten.prelu(self [nets, channels, ...], weight [channels] or [1]): a slope per channel, or one for all."""
    x, weight = call.activation("self"), call.entry("weight")
    axis = 1 if len(x.axes) > 1 else 0
    if weight.shape != (1,):
        x = call.alone(x, axis)
        call.equate(call.axis(weight, 0), call.channels(x, axis))
    else:
        axis = next((k for k in range(len(x.axes)) if x.carries(k)), axis)
    return call.operate(call.vector(x, axis, {"slope": weight}), "prelu")


LINKS = ()
RULES: dict[str, Rule] = {
    **{f"aten.{kind}": _rule(kind, numbers) for kind, numbers in PLAIN.items()},
    **dict.fromkeys(("aten.clamp", "aten.clamp_min", "aten.clamp_max"), clamp),
    "aten.rrelu": rrelu,
    "aten.prelu": prelu,
}
EXAMPLES: dict[str, Example] = {
    **{f"aten.{kind}": ((4, 5), partial(getattr, torch.ops.aten, kind)) for kind in PLAIN},
    **{
        f"aten.{kind}": ((4, 5), partial(lambda function: lambda x: function(x.abs() + 0.1), getattr(torch, kind)))
        for kind in ("sqrt", "rsqrt", "reciprocal", "log", "log1p")
    },
    "aten.threshold": ((4, 5), lambda: partial(torch.threshold, threshold=0.1, value=-2.0)),
    "aten.clamp_min": ((4, 5), lambda: lambda x: x.clamp_min(0.1)),
    "aten.clamp_max": ((4, 5), lambda: lambda x: x.clamp_max(0.1)),
    "aten.clamp": ((4, 5), lambda: lambda x: x.clamp(-0.5, 0.5)),
    "aten.rrelu": ((4, 5), nn.RReLU),
    "aten.prelu": ((4, 5), lambda: nn.PReLU(4)),
}
