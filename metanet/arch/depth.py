"""How far each space of a template is from the network's input and output, in steps (blocks or links)."""

from __future__ import annotations

from metanet.arch.template import Template


def depths(template: Template) -> list[int]:
    """The number of steps on the longest way from the network's input to each space."""
    depth = [0] * len(template.spaces)
    for step in sorted((*template.blocks, *template.links), key=lambda step: step.target):
        depth[step.target] = max(depth[step.target], depth[step.source] + 1)
    return depth


def heights(template: Template) -> list[int]:
    """The number of steps on the longest way from each space to the network's output."""
    height = [0] * len(template.spaces)
    for step in sorted((*template.blocks, *template.links), key=lambda step: -step.source):
        height[step.source] = max(height[step.source], height[step.target] + 1)
    return height
