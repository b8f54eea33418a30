"""Operators that move no number: views, and what eval mode makes an identity."""

from dataclasses import replace

from metanet.arch.axes import fixed, merge
from metanet.arch.record import Call, Value


def identity(call: Call) -> Value:
    """Dropout in eval mode, contiguous, alias, ..."""
    if call.arguments.get("train"):
        raise call.unsupported("it drops values in eval mode too")
    return call.activation("input" if "input" in call.arguments else "self")


def flatten(call: Call) -> Value:
    """aten.flatten, aten.view and aten.reshape, where they merge neighbouring axes or move axes of size 1.

    Positions that are merged with the channels become taps of the layer that reads them.
    """
    x = call.activation("self")
    value, done = x, []
    for old, new in _groups(call, x.shape, call.shape):
        merged = [x.axes[k] for k in old]
        channel = [place for place, k in enumerate(old) if k == x.channel]
        if len(new) == 1:
            done.append(merged[0] if len(merged) == 1 else merge(merged))
        elif not channel and all(f.fixed for one in merged for s in one.segments for f in s.factors):
            done.extend(fixed(size) for size in new)
        else:
            raise call.unsupported(f"it splits the channel axis: {x.shape} to {call.shape}")
        if channel:
            value = replace(value, channel=len(done) - 1)
            beside = [axis.size for place, axis in enumerate(merged) if place != channel[0]]
            if len(beside) > 0 and channel[0] not in (0, len(merged) - 1):
                raise call.unsupported(f"it merges axes on both sides of the channels: {x.shape} to {call.shape}")
            if beside and x.taps:
                raise call.unsupported("it flattens a grid that is flattened already")
            if beside:
                value = replace(value, taps=tuple(beside), taps_first=channel[0] > 0)
    return replace(value, axes=tuple(done))


def _groups(call: Call, old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Shortest runs of old axes (their numbers) and new axes (their sizes) that hold the same values."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right, run = 1, 1, ([], [])
        while not run[0] or not run[1] or left != right:
            if (left <= right or j == len(new)) and i < len(old) and (left != right or not run[0]):
                left, i = left * old[i], run[0].append(i) or i + 1
            elif j < len(new):
                right, j = right * new[j], run[1].append(new[j]) or j + 1
            else:
                break
        groups.append(run)
    return groups


RULES = {
    "aten.dropout": identity,
    "aten.feature_dropout": identity,
    "aten.alpha_dropout": identity,
    "aten.contiguous": identity,
    "aten.alias": identity,
    "aten.detach": identity,
    "aten.flatten": flatten,
    "aten.view": flatten,
    "aten.reshape": flatten,
}
