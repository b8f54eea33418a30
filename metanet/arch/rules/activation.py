"""Functions of one value, with the numbers that shape them: attribute name -> name of the operator's argument."""

from functools import partial

import torch

from metanet.arch.record import Call, Example, Rule, Value

OPERATIONS: dict[str, tuple[str, ...]] = {
    "relu": (),
    "relu6": (),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha", "scale", "input_scale"),
    "celu": ("alpha",),
    "selu": (),
    "gelu": ("approximate",),
    "silu": (),
    "mish": (),
    "sigmoid": (),
    "log_sigmoid": (),
    "tanh": (),
    "hardtanh": ("min_val", "max_val"),
    "hardsigmoid": (),
    "hardswish": (),
    "softplus": ("beta", "threshold"),
    "softshrink": ("lambd",),
    "hardshrink": ("lambd",),
    "threshold": ("threshold", "value"),
    "sin": (),
    "cos": (),
    "exp": (),
    "abs": (),
    "neg": (),
    "square": (),
    "sqrt": (),
}


def _rule(kind: str, numbers: tuple[str, ...]) -> Rule:
    def activation(call: Call) -> Value:
        return call.operate(call.activation("self"), kind, **{name: call[name] for name in numbers})

    return activation


RULES = {f"aten.{kind}": _rule(kind, numbers) for kind, numbers in OPERATIONS.items()}
EXAMPLES: dict[str, Example] = {f"aten.{kind}": ((4, 5), partial(getattr, torch.ops.aten, kind)) for kind in OPERATIONS}
EXAMPLES["aten.sqrt"] = ((4, 5), lambda: lambda x: torch.sqrt(x.abs()))
EXAMPLES["aten.threshold"] = ((4, 5), lambda: partial(torch.threshold, threshold=0.1, value=-2.0))
