"""Operators that change the grid and treat every channel alike: pads, upsampling, rolls, pixel shuffles."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from metanet.arch.axes import Factor, axis, fixed, merge
from metanet.arch.call import Call, Example, Rule
from metanet.arch.rules.parts import cat_of
from metanet.arch.rules.ranking import laid
from metanet.arch.value import Value, draft_of

PADS = {"constant": "pad", "reflect": "pad_reflect", "replicate": "pad_replicate", "circular": "pad_circular"}
OPERATIONS = {
    "pad": ("before", "after", "value"),
    **dict.fromkeys(("pad_reflect", "pad_replicate", "pad_circular"), ("before", "after")),
    **dict.fromkeys(("upsample_nearest", "upsample_nearest_exact"), ("output", "factor")),
    "roll": ("axes", "shifts"),
    **dict.fromkeys(
        ("upsample_linear", "upsample_cubic", "upsample_linear_smooth", "upsample_cubic_smooth"),
        ("output", "factor", "align_corners"),
    ),
}

LINEAR = tuple(kind for kind in OPERATIONS if kind != "pad")


def pad(call: Call) -> Value:
    """aten.pad(self, pad, mode, value), aten.constant_pad_nd: places around each axis, the last axis first."""
    x, sides, mode = call.activation("self"), list(call["pad"]), call.arguments.get("mode", "constant")
    sides += [0] * (2 * len(x.axes) - len(sides))
    ends = list(zip(sides[::2], sides[1::2], strict=True))[::-1]  # per axis
    if not any(sides):
        return x
    if draft_of(x).undecided is not None:
        call.channels(x, 1)
    places = [place for place, end in enumerate(ends) if any(end)]
    if len(places) == 1 and x.carries(places[0]) and mode == "constant":
        return _channels(call, x, places[0], ends[places[0]])
    x = call.settled(x)
    grid = [place for place in range(len(x.axes)) if not x.carries(place)]
    grid = grid if 0 in places or grid[:1] != [0] else grid[1:]  # the first axis counts samples otherwise
    grid = grid[-max(3, len(grid) - grid.index(places[0])) :] if places[0] in grid else grid
    if any(place not in grid for place in places):
        raise call.unsupported("it pads channels together with positions")
    before, after = (tuple(ends[place][side] for place in grid) for side in (0, 1))
    numbers = {"value": float(call["value"] or 0)} if mode == "constant" else {}
    padded = call.operate(x, PADS[mode], before=before, after=after, **numbers)
    return call.resized(padded)


def _channels(call: Call, x: Value, dim: int, ends: tuple[int, int]) -> Value:
    """Channels that always have one value, before and behind those of x."""
    if min(ends) < 0:
        raise call.unsupported("it takes channels away")
    shapes = [[*x.shape[:dim], size, *x.shape[dim + 1 :]] for size in ends]
    first, last = (torch.full(shape, float(call["value"] or 0)) for shape in shapes)
    return cat_of(call, [first, x, last], dim)


def pixel_shuffle(call: Call) -> Value:
    """aten.pixel_shuffle(self, upscale_factor): channels (c r r) become the pixels of r x r squares."""
    x, side = call.alone(call.activation("self"), 1), call["upscale_factor"]
    channels, count = Factor(x.shape[1] // side**2), x.shape[1]
    call.equate(call.channels(x, 1), axis(channels, Factor(side**2, fixed=True)))
    x = call.ordered(x)
    y = call.write(axis(channels), 1)
    _squares(call, "pixel_shuffle", x, y, side, targets=tuple(node // side**2 for node in range(count)))
    return y


def pixel_unshuffle(call: Call) -> Value:
    """aten.pixel_unshuffle(self, downscale_factor): the pixels of r x r squares become channels (c r r)."""
    x, side = call.alone(call.activation("self"), 1), call["downscale_factor"]
    type_ = merge([call.channels(x, 1), fixed(side**2)])
    x = call.ordered(x)
    y = call.write(type_, 1)
    _squares(call, "pixel_unshuffle", x, y, side, sources=tuple(node // side**2 for node in range(y.shape[1])))
    return y


def _squares(call: Call, kind: str, x: Value, y: Value, side: int, **ends: Any) -> None:
    places = tuple(node % side**2 for node in range(max(x.shape[1], y.shape[1])))
    text = x.layout([row for k, row in enumerate(x.axes) if k != 1])
    call.link(kind, x, y, attributes={"taps": (side, side), "places": places, "layout": text}, **ends)


def roll(call: Call) -> Value:
    """aten.roll(self, shifts, dims) of positions; channels become fixed ones."""
    x = call.activation("self")
    if not call["dims"]:
        raise call.unsupported("there is a rule for axes of their own only, not for all of them as one")
    dims = [dim % len(x.axes) for dim in call["dims"]]
    x, ranks = call.ranked(laid(call, x, dims), dims)
    return call.operate(x, "roll", axes=ranks, shifts=tuple(call["shifts"]))


def _upsample(kind: str) -> Rule:
    """Of aten.upsample_MODE(input, output_size | None, (align_corners,) scale_factors | None)."""

    def upsample(call: Call) -> Value:
        x = call.settled(call.alone(call.activation("input"), 1))
        factor = tuple(call["scale_factors"] or [])
        numbers = {"align_corners": call["align_corners"]} if "align_corners" in call.arguments else {}
        return call.resized(call.operate(x, kind, output=() if factor else call.shape[2:], factor=factor, **numbers))

    return upsample


LINKS = ("pixel_shuffle", "pixel_unshuffle")
RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten.pad", "aten.constant_pad_nd"), pad),
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.roll": roll,
    **{f"aten.upsample_nearest{n}d": _upsample("upsample_nearest") for n in (1, 2, 3)},
    **{f"aten._upsample_nearest_exact{n}d": _upsample("upsample_nearest_exact") for n in (1, 2, 3)},
    "aten.upsample_linear1d": _upsample("upsample_linear"),
    "aten.upsample_bilinear2d": _upsample("upsample_linear"),
    "aten.upsample_trilinear3d": _upsample("upsample_linear"),
    "aten.upsample_bicubic2d": _upsample("upsample_cubic"),
    "aten._upsample_bilinear2d_aa": _upsample("upsample_linear_smooth"),
    "aten._upsample_bicubic2d_aa": _upsample("upsample_cubic_smooth"),
}
_GRIDS = {1: (3, 4), 2: (3, 4, 5), 3: (3, 2, 3, 2)}
EXAMPLES: dict[str, Example] = {
    "aten.pixel_shuffle": ((8, 2, 3), lambda: nn.PixelShuffle(2)),
    "aten.pixel_unshuffle": ((3, 4, 2), lambda: nn.PixelUnshuffle(2)),
    "aten.roll": ((3, 4, 5), lambda: lambda x: x.roll((1, 2), (2, 3))),
    "aten.pad": ((3, 4, 5), lambda: lambda x: F.pad(F.pad(x, (1, 2), value=0.5), (1, 0, 0, 1), mode="reflect")),
    "aten.constant_pad_nd": ((3, 4, 5), lambda: lambda x: torch.ops.aten.constant_pad_nd(x, (1, 2), 0.5)),
    **{f"aten.upsample_nearest{n}d": (_GRIDS[n], lambda: nn.Upsample(scale_factor=2)) for n in (1, 2, 3)},
    **{
        f"aten._upsample_nearest_exact{n}d": (_GRIDS[n], lambda: nn.Upsample(scale_factor=1.5, mode="nearest-exact"))
        for n in (1, 2, 3)
    },
    "aten.upsample_linear1d": ((3, 4), lambda: nn.Upsample(7, mode="linear")),
    "aten.upsample_bilinear2d": ((3, 4, 5), lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    "aten.upsample_trilinear3d": ((3, 2, 3, 2), lambda: nn.Upsample(4, mode="trilinear")),
    "aten.upsample_bicubic2d": ((3, 4, 5), lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    **{
        f"aten._upsample_{mode}2d_aa": (
            (3, 4, 5),
            partial(lambda mode: lambda x: F.interpolate(x, (3, 4), mode=mode, antialias=True), mode),
        )
        for mode in ("bilinear", "bicubic")
    },
}
