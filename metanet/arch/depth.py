"""How far each space of a template is from the network's input and output."""

from __future__ import annotations

from metanet.arch.template import Template


def depths(template: Template) -> list[int]:
    """The number of steps (blocks or links) on the longest way from the network's input to each space."""
    return _longest(template, [(c.source, c.target) for c in (*template.blocks, *template.links)])


def heights(template: Template) -> list[int]:
    """The number of steps on the longest way from each space to the network's output."""
    return _longest(template, [(c.target, c.source) for c in (*template.blocks, *template.links)])


def _longest(template: Template, steps: list[tuple[int, int]]) -> list[int]:
    longest = [0] * len(template.spaces)
    for _ in template.spaces:  # a longest way has fewer steps than there are spaces
        before = list(longest)
        for source, target in steps:
            longest[target] = max(longest[target], longest[source] + 1)
        if longest == before:
            return longest
    raise ValueError(f"the blocks and links between the spaces form a cycle: {sorted(set(steps))}")
