"""Folding: the spaces of one module as one box, so that a network of hundreds of layers can be seen at once."""

from __future__ import annotations

from dataclasses import dataclass

from metanet.arch.template import Block, Link, Template

FEWEST = 4  # boxes of a picture that is worth looking at


@dataclass(frozen=True)
class Fold:
    """A partition of a template's spaces into boxes, in the order of computation, and what leads from box to box."""

    depth: int  # components of the module path that are kept; 0: every space is a box
    names: tuple[str, ...]
    spaces: tuple[tuple[int, ...], ...]  # of each box, its spaces
    joins: dict[tuple[int, int], list[Block | Link]]  # (source, target) -> all between them
    inside: dict[int, list[Block | Link]]  # box -> what stays within it


def folds(template: Template) -> list[Fold]:
    """The ways to fold a template, each with more boxes than the one before; the last has a box for every space."""
    deepest = max(space.name.count(".") for space in template.spaces) + 1
    found: list[Fold] = []
    for depth in range(1, deepest):
        one = fold(template, depth)
        if len(one.names) >= FEWEST and len(one.names) > (len(found[-1].names) if found else 0):
            found.append(one)
    whole = fold(template, 0)
    return [one for one in found if len(one.names) < len(whole.names)] + [whole]


def fold(template: Template, depth: int) -> Fold:
    """One box for every run of spaces whose module paths begin with the same `depth` components; 0: for each space.

    Runs are consecutive in the order of computation, so what leads from box to box has no cycles. A run of one space is
    that space.
    """
    names: list[str] = []
    spaces: list[list[int]] = []
    for i, space in enumerate(template.spaces):
        path = space.name.partition(":")[0].split(".")
        name = ".".join(path[:depth]) if depth and len(path) >= depth else ""
        if not (name and names and names[-1] == name):
            names.append(name)
            spaces.append([])
        spaces[-1].append(i)
    box = {i: number for number, members in enumerate(spaces) for i in members}
    joins: dict[tuple[int, int], list[Block | Link]] = {}
    inside: dict[int, list[Block | Link]] = {}
    for join in (*template.blocks, *template.links):
        ends = box[join.source], box[join.target]
        (inside.setdefault(ends[0], []) if ends[0] == ends[1] else joins.setdefault(ends, [])).append(join)
    titles = [n if n and len(m) > 1 else template.spaces[m[0]].name for n, m in zip(names, spaces, strict=True)]
    return Fold(depth, tuple(titles), tuple(map(tuple, spaces)), joins, inside)
