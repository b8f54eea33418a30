"""Operators that change the size of the grid and treat every channel alike: pads and upsampling."""

from torch import nn
from torch.nn import functional as F

from metanet.arch.record import Call, Example, Rule, Value

PADS = {"constant": "pad", "reflect": "pad_reflect", "replicate": "pad_replicate", "circular": "pad_circular"}
OPERATIONS = {
    "pad": ("before", "after", "value"),
    **dict.fromkeys(("pad_reflect", "pad_replicate", "pad_circular"), ("before", "after")),
    **dict.fromkeys(("upsample_nearest", "upsample_nearest_exact"), ("output", "factor")),
    **dict.fromkeys(("upsample_linear", "upsample_cubic"), ("output", "factor", "align_corners")),
}


def pad(call: Call) -> Value:
    """aten.pad(self, pad, mode, value): rows and columns before and after each axis, the last axis first."""
    x, sides = call.activation("self"), list(call["pad"])
    call.channels(x, 1)
    x = call.settled(x)
    rank = len(x.axes) - 2
    sides += [0] * (2 * rank - len(sides))
    if any(sides[2 * rank :]):
        raise call.unsupported(f"it pads more than the {rank} axes behind the channels")
    before, after = (tuple(sides[side : 2 * rank : 2][::-1]) for side in (0, 1))
    numbers = {"value": float(call["value"] or 0)} if call["mode"] == "constant" else {}
    padded = call.operate(x, PADS[call["mode"]], before=before, after=after, **numbers)
    return call.resized(padded)


def _upsample(kind: str) -> Rule:
    """Of aten.upsample_MODE(input, output_size | None, (align_corners,) scale_factors | None)."""

    def upsample(call: Call) -> Value:
        x = call.activation("input")
        call.channels(x, 1)
        x = call.settled(x)
        factor = tuple(call["scale_factors"] or [])
        numbers = {"align_corners": call["align_corners"]} if "align_corners" in call.arguments else {}
        return call.resized(call.operate(x, kind, output=() if factor else call.shape[2:], factor=factor, **numbers))

    return upsample


LINKS = ()
RULES: dict[str, Rule] = {
    "aten.pad": pad,
    **{f"aten.upsample_nearest{n}d": _upsample("upsample_nearest") for n in (1, 2, 3)},
    **{f"aten._upsample_nearest_exact{n}d": _upsample("upsample_nearest_exact") for n in (1, 2, 3)},
    "aten.upsample_linear1d": _upsample("upsample_linear"),
    "aten.upsample_bilinear2d": _upsample("upsample_linear"),
    "aten.upsample_trilinear3d": _upsample("upsample_linear"),
    "aten.upsample_bicubic2d": _upsample("upsample_cubic"),
}
_GRIDS = {1: (3, 4), 2: (3, 4, 5), 3: (3, 2, 3, 2)}
EXAMPLES: dict[str, Example] = {
    "aten.pad": ((3, 4, 5), lambda: lambda x: F.pad(F.pad(x, (1, 2), value=0.5), (1, 0, 0, 1), mode="reflect")),
    **{f"aten.upsample_nearest{n}d": (_GRIDS[n], lambda: nn.Upsample(scale_factor=2)) for n in (1, 2, 3)},
    **{
        f"aten._upsample_nearest_exact{n}d": (_GRIDS[n], lambda: nn.Upsample(scale_factor=1.5, mode="nearest-exact"))
        for n in (1, 2, 3)
    },
    "aten.upsample_linear1d": ((3, 4), lambda: nn.Upsample(7, mode="linear")),
    "aten.upsample_bilinear2d": ((3, 4, 5), lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    "aten.upsample_trilinear3d": ((3, 2, 3, 2), lambda: nn.Upsample(4, mode="trilinear")),
    "aten.upsample_bicubic2d": ((3, 4, 5), lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
}
