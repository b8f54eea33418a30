"""Operators that move numbers: views, parts, and what is put together of parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metanet.importers.onnx_files.call import Active, Call, Fixed, Value


def _both(x: Active) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(x.metas[0].shape), tuple(x.metas[1].shape)


def flatten(call: Call) -> Value:
    x = call.active(0)
    axis = int(call.get("axis", 1))
    axis += x.rank if axis < 0 else 0
    if axis == 1 and x.rank > 1:
        return x if x.rank == 2 else call.step("flatten", x, start=1)
    shapes = [(math.prod(shape[:axis]), math.prod(shape[axis:])) for shape in _both(x)]
    return call.reshaped(x, *shapes)


def reshape(call: Call) -> Value:
    x = call.active(0)
    targets = call.fixed(1)
    shapes = [_target(call, was, target.tolist()) for was, target in zip(_both(x), targets, strict=True)]
    if len(shapes[0]) != len(shapes[1]):
        raise call.refuse("the number of axes depends on the number of samples")
    if x.weight or _both(x)[0] == _both(x)[1]:
        return call.step("reshape", x, shape=list(shapes[0]))
    if call.lowering.fixed_samples:
        shapes[1] = _of_more_samples(call, *_both(x), shapes[0]) or shapes[1]
    if math.prod(shapes[1]) != math.prod(_both(x)[1]):
        raise call.refuse(f"it makes {list(shapes[1])} of {list(_both(x)[1])}")
    if len(shapes[0]) == 2 and shapes[0][0] == _both(x)[0][0] and shapes[1][0] == _both(x)[1][0] and x.rank > 2:
        return call.step("flatten", x, start=1)
    return call.reshaped(x, *shapes)


def _of_more_samples(
    call: Call, one: tuple[int, ...], other: tuple[int, ...], target: tuple[int, ...]
) -> tuple[int, ...] | None:
    """What a reshape of `one` to `target` makes of `other`, whose axis of samples is longer; None if that is not known.

    A file that was exported for a fixed number of samples says that number wherever it reshapes. Numbers keep their
    order, so where that axis begins and ends, an axis of the target begins or ends too; often two do, one that it is
    merged into from the left and one from the right, and the lowering has to guess.
    """
    longer = [axis for axis, sizes in enumerate(zip(one, other, strict=True)) if sizes[0] != sizes[1]]
    if len(longer) != 1:
        return None
    (axis,) = longer
    before, upto = math.prod(one[:axis]), math.prod(one[: axis + 1])
    found = [
        (*target[:place], size * other[axis] // one[axis], *target[place + 1 :])
        for place, size in enumerate(target)
        if (math.prod(target[:place]) == before or math.prod(target[: place + 1]) == upto)
        and size * other[axis] % one[axis] == 0
    ]
    if len(target) >= len(one):
        found.reverse()  # heads that are split off are merged with the samples on their left
    return found[call.lowering.guess(len(found))] if found else None


def _target(call: Call, was: tuple[int, ...], target: list[int]) -> tuple[int, ...]:
    """The shape that a reshape asks for, with 0 and -1 filled in."""
    if not call.get("allowzero", 0):
        if any(size == 0 and place >= len(was) for place, size in enumerate(target)):
            raise call.refuse(f"found the shape {target} for {list(was)}")
        target = [was[place] if size == 0 else size for place, size in enumerate(target)]
    known = math.prod(size for size in target if size != -1)
    if target.count(-1) > 1 or (-1 in target and (known == 0 or math.prod(was) % known)):
        raise call.refuse(f"found the shape {target} for {list(was)}")
    return tuple(math.prod(was) // known if size == -1 else size for size in target)


def transpose(call: Call) -> Value:
    x = call.active(0)
    axes = [int(one) for one in call.get("perm", range(x.rank)[::-1])]
    return x if axes == list(range(x.rank)) else call.step("permute", x, axes=axes)


def squeeze(call: Call) -> Value:
    x, axes = call.active(0), call.axes()
    axes = [axis for axis, size in enumerate(x.shape) if size == 1] if axes is None else [a % x.rank for a in axes]
    for axis in sorted(axes, reverse=True):
        x = call.step("squeeze", x, axis=axis)
    return x


def unsqueeze(call: Call) -> Value:
    x, axes = call.active(0), call.axes() or []
    rank = x.rank + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = call.step("unsqueeze", x, axis=axis)
    return x


def expand(call: Call) -> Value:
    x, (one, other) = call.active(0), call.fixed(1)
    shapes = [np.broadcast_shapes(shape, tuple(t.tolist())) for shape, t in zip(_both(x), (one, other), strict=True)]
    missing = len(shapes[0]) - x.rank
    if x.rank < len(shapes[0]):
        x = call.step("reshape", x, shape=[1] * missing + [s if s == t else -1 for s, t in zip(*_both(x), strict=True)])
    if shapes[0] == tuple(x.shape) and shapes[1] == tuple(x.metas[1].shape):
        return x
    return _expanded(call, x, shapes[0], shapes[1])


def _expanded(call: Call, x: Active, one: tuple[int, ...], other: tuple[int, ...]) -> Active:
    """x with axes of size 1 repeated; the number of samples is taken from the input."""
    sizes = [-1 if size == was else int(size) for size, was in zip(one, x.shape, strict=True)]
    both = zip(one, other, *_both(x), strict=True)
    open_ = [axis for axis, (a, b, was, then) in enumerate(both) if a != b and was == then]
    if open_ not in ([], [0]):
        raise call.refuse("another axis than the first becomes as long as there are samples")
    if not open_:
        return call.step("expand", x, shape=sizes)
    like = next(value for value in call.lowering.values.values() if isinstance(value, Active) and value.name == "input")
    return call.step("expand", x, like, shape=[0, *sizes[1:]])


def concat(call: Call) -> Value:
    parts = [call.active(place) for place in range(len(call.inputs))]
    axis = int(call.get("axis", 0)) % parts[0].rank
    batched = next((one for one in parts if one.metas[0].shape[:1] != one.metas[1].shape[:1]), None)
    if batched is not None and axis != 0:
        firsts = [tuple(meta.shape[:1]) for meta in batched.metas]
        parts = [_for_samples(call, one, firsts[0], firsts[1]) for one in parts]
    return call.step("cat", *parts, axis=axis)


def _for_samples(call: Call, part: Active, one: tuple[int, ...], other: tuple[int, ...]) -> Active:
    """A part that was repeated for as many samples as the file is exported for, repeated for any number."""
    if part.metas[0].shape[0] != part.metas[1].shape[0] or part.shape[0] not in (1, *one):
        return part
    first = part if part.shape[0] == 1 else call.step("narrow", part, axis=0, start=0, end=1)
    return _expanded(call, first, (*one, *part.shape[1:]), (*other, *part.shape[1:]))


def split(call: Call) -> list[Value]:
    x = call.active(0)
    axis = int(call.get("axis", 0)) % x.rank
    sizes = call.axes("split", 1)
    if sizes is None:
        count = int(call.get("num_outputs", call.outputs))
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - start) for start in range(0, x.shape[axis], each)]
    if sum(sizes) != x.shape[axis] or x.metas[1].shape[axis] != x.shape[axis]:
        raise call.refuse(f"found parts of {sizes} along axis {axis} of {list(x.shape)}, or parts of the samples")
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [
        call.step("narrow", x, axis=axis, start=start, end=start + size)
        for start, size in zip(starts, sizes, strict=True)
    ]


def slice_(call: Call) -> Value:
    x = call.active(0)
    if "starts" in call.attributes:
        starts, ends = list(call.get("starts", [])), list(call.get("ends", []))
        axes, steps = list(call.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = call.numbers(1), call.numbers(2)
        axes = call.numbers(3) if call.given(3) else list(range(len(starts)))
        steps = call.numbers(4) if call.given(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _part(call, x, axis % x.rank, slice(start, end, step))
    return x


def _part(call: Call, x: Active, axis: int, part: slice) -> Active:
    size = x.shape[axis]
    start, end, step = part.indices(size)
    if step == -1 and start == size - 1 and end == -1:
        return call.step("flip", x, axes=[axis])
    if x.metas[0].shape[axis] != x.metas[1].shape[axis]:
        if part.indices(size) == (0, size, 1):
            return x
        raise call.refuse("it takes some of the samples")
    if (start, end, step) == (0, size, 1):
        return x
    if step < 1 or start >= end:
        raise call.refuse(
            f"it takes nothing, or backwards in steps, of axis {axis}: {start} to {end} in steps of {step}"
        )
    return call.step("narrow", x, axis=axis, start=start, end=end, step=step)


def gather(call: Call) -> Value:
    """Places of an axis that the file fixes, or rows of a weight that the input chooses."""
    axis, places = int(call.get("axis", 0)), call.inputs[1] if call.given(1) else None
    x = call.active(0)
    axis %= x.rank
    if isinstance(places, Active):
        if axis or x.rank != 2:
            raise call.refuse("there is a rule for rows of a matrix of weights only, where the input chooses")
        return call.step("embedding", places, x)
    one, other = call.fixed(1)
    if one.shape != other.shape or (one != other).any():
        raise call.refuse("the places depend on the number of samples")
    if one.ndim == 0:
        return call.step("select", x, axis=axis, place=int(one))
    flat = np.where(one < 0, one + x.shape[axis], one).reshape(-1)
    chosen = call.lowering.active(Fixed((flat, flat)), call.where)
    y = call.step("index_select", x, chosen, axis=axis)
    if one.ndim == 1:
        return y
    return call.reshaped(y, *((*shape[:axis], *one.shape, *shape[axis + 1 :]) for shape in _both(x)))


def tile(call: Call) -> Value:
    x = call.active(0)
    for axis, count in enumerate(call.numbers(1)):
        if count != 1:
            if not 1 < count <= 64 or (axis == 0 and not x.weight):
                raise call.refuse(f"it repeats axis {axis} {count} times")
            x = call.step("cat", *[x] * count, axis=axis)
    return x


def depth_to_space(call: Call) -> Value:
    x, side = call.active(0), int(call.get("blocksize", 1))
    channels, height, width = x.shape[1:]
    if call.get("mode", "DCR") == "CRD":
        return call.step("pixel_shuffle", x, factor=side)
    y = call.step("reshape", x, shape=[-1, side, side, channels // side**2, height, width])
    y = call.step("permute", y, axes=[0, 3, 4, 1, 5, 2])
    return call.step("reshape", y, shape=[-1, channels // side**2, height * side, width * side])


def space_to_depth(call: Call) -> Value:
    x, side = call.active(0), int(call.get("blocksize", 1))
    channels, height, width = x.shape[1:]
    y = call.step("reshape", x, shape=[-1, channels, height // side, side, width // side, side])
    y = call.step("permute", y, axes=[0, 3, 5, 1, 2, 4])
    return call.step("reshape", y, shape=[-1, channels * side**2, height // side, width // side])


RULES: dict[str, Any] = {
    "Flatten": flatten,
    "Reshape": reshape,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
