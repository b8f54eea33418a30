"""The picture of a template: spaces as boxes from the input down, weight tensors as bands, thicker with more weights.

`draw` writes an HTML page (self-contained, with the facts of whatever is pointed at) or a PNG.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metanet.arch.depth import depths
from metanet.arch.template import Block, Link, Operation, Template

CHARACTER = 7.2  # width of a character of the 12 px labels, in px
PITCH, BOX_HEIGHT, GAP, MARGIN, LINE = 104.0, 46.0, 220.0, 36.0, 20.0  # px


@dataclass(frozen=True)
class Box:
    """A space: its place in px (x is the centre), two lines of text, and all that is known of it."""

    x: float
    y: float
    width: float
    kind: str  # "input" | "hidden" | "output"
    title: str
    subtitle: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Band:
    """A block or link: a cubic curve [start, control, control, end] in px, its thickness and label."""

    source: int
    target: int
    curve: tuple[tuple[float, float], ...]
    thickness: float
    kind: str
    label: str
    label_at: tuple[float, float]
    facts: dict[str, str]


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn, in px."""

    title: str
    notes: tuple[str, ...]  # lines under the title
    width: float
    height: float
    boxes: list[Box]
    bands: list[Band]


def draw(template: Template, path: Path, title: str) -> None:
    """Writes the picture of `template` to `path`; its ending, .html or .png, chooses the form.

    Raises:
        ValueError: another ending.
    """
    if path.suffix not in (".html", ".png"):
        raise ValueError(
            f"{path}: a picture is written as .html or .png, not as {path.suffix or 'a file without ending'}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        from metanet.arch.draw_html import page

        path.write_text(page(picture(template, title)), encoding="utf-8")
    else:
        from metanet.arch.draw_png import save  # needs matplotlib

        save(picture(template, title), path)


def picture(template: Template, title: str) -> Picture:
    """Boxes in rows by their distance from the input; bands straight down, or around the side where they skip a row."""
    depth, notes = depths(template), _notes(template)
    rows = [[i for i, d in enumerate(depth) if d == row] for row in range(max(depth) + 1)]
    boxes = [_box(template, i) for i in range(len(depth))]
    reach = max(_row_width([boxes[i] for i in row]) for row in rows) / 2
    top = MARGIN + 40.0 + LINE * len(notes)
    for number, row in enumerate(rows):
        left = MARGIN + reach - _row_width([boxes[i] for i in row]) / 2
        for i in row:
            boxes[i] = replace(boxes[i], x=left + boxes[i].width / 2, y=top + number * PITCH)
            left += boxes[i].width + GAP

    joins = (*template.blocks, *template.links)
    bands = [_band(join, boxes, None) for join in joins]
    side = max(MARGIN + 2 * reach, *(_right_end(band) for band in bands))
    skipping = [k for k, join in enumerate(joins) if depth[join.target] - depth[join.source] > 1]
    for lane, k in enumerate(skipping):
        bands[k] = _band(joins[k], boxes, side + 24 + 40 * lane)
    heading = max(MARGIN + CHARACTER * len(text) for text in (*notes, title + title[: len(title) // 3]))
    width = MARGIN + max(side, heading, *(_right_end(band) for band in bands))
    height = top + (len(rows) - 1) * PITCH + BOX_HEIGHT + MARGIN
    return Picture(title, notes, width, height, boxes, bands)


def _box(template: Template, number: int) -> Box:
    """The box of a space, not placed yet; wider with more nodes, and wide enough for its text."""
    space = template.spaces[number]
    title = f"{space.name} · {space.size:,}"
    operations = " → ".join(_operation_text(o) for o in space.operations if o.kind != "bias")
    width = max(CHARACTER * max(len(title), len(operations)) + 28, 60 + 22 * math.log2(space.size + 1))
    return Box(0.0, 0.0, width, space.role, title, operations, _space_facts(template, number))


def _row_width(boxes: list[Box]) -> float:
    return sum(box.width for box in boxes) + GAP * (len(boxes) - 1)


def _band(join: Block | Link, boxes: list[Box], lane: float | None) -> Band:
    """From the foot of one box to the head of the other; or out to `lane`, a place right of everything, and back."""
    source, target = boxes[join.source], boxes[join.target]
    if lane is None:
        start, end = (source.x, source.y + BOX_HEIGHT), (target.x, target.y)
        middle = (start[1] + end[1]) / 2
        curve = (start, (start[0], middle), (end[0], middle), end)
    else:
        start, end = ((box.x + box.width / 2, box.y + BOX_HEIGHT / 2) for box in (source, target))
        out = lane + (lane - (start[0] + end[0]) / 2) / 3  # a cubic goes three quarters of the way to its controls
        curve = (start, (out, start[1]), (out, end[1]), end)
    middle = sum(weight * y for weight, (_, y) in zip((1, 3, 3, 1), curve, strict=True)) / 8
    across = sum(weight * x for weight, (x, _) in zip((1, 3, 3, 1), curve, strict=True)) / 8
    if isinstance(join, Link):
        return Band(join.source, join.target, curve, 2.0, "link", join.kind, (across + 9, middle), _link_facts(join))
    thickness = 3 + 5 * math.log10(math.prod(join.shape))
    label_at = (across + thickness / 2 + 8, middle)
    return Band(join.source, join.target, curve, thickness, join.kind, _block_label(join), label_at, _block_facts(join))


def _right_end(band: Band) -> float:
    return band.label_at[0] + 0.92 * CHARACTER * len(band.label)


def _notes(template: Template) -> tuple[str, ...]:
    nodes = sum(space.size for space in template.spaces)
    edges = sum(block.shape[0] * block.shape[1] for block in template.blocks)
    return (
        f"{template.num_params:,} parameters · {nodes:,} nodes · {edges:,} edges",
        f"10^{template.symmetry.log10_order:,.1f} permutations leave the function unchanged",
    )


def _operation_text(operation: Operation) -> str:
    size = operation.attributes.get("kernel") or operation.attributes.get("output")
    return operation.kind.replace("_", " ") + (f" {_times(size)}" if size else "")


def _space_facts(template: Template, number: int) -> dict[str, str]:
    space = template.spaces[number]
    facts = {"space": space.name, "nodes": f"{space.size:,}", "role": space.role}
    facts["exchangeable"] = "no" if space.fixed else "yes"
    for place, operation in enumerate(space.operations, start=1):
        settings = ", ".join(f"{name} {_value(value)}" for name, value in operation.attributes.items())
        facts[f"step {place}"] = operation.kind + (f" ({settings})" if settings else "")
    return facts | dict(space.vectors)


def _block_label(block: Block) -> str:
    kernel = f" {_times(block.taps)}" if block.taps else ""
    groups = f" in {block.groups} groups" if block.groups > 1 else ""
    return f"{block.kind}{kernel}{groups} · {math.prod(block.shape):,} weights"


def _block_facts(block: Block) -> dict[str, str]:
    out, inputs, taps = block.shape
    facts = {
        "block": block.name,
        "kind": block.kind,
        "edges": f"{out:,} out × {inputs:,} in = {out * inputs:,}",
        "taps of an edge": f"{taps:,}" + (f" ({_times(block.taps)})" if block.taps else ""),
        "weights": f"{math.prod(block.shape):,}",
        "weight axes": block.pattern,
    }
    if block.groups > 1:
        facts["groups"] = str(block.groups)
    return facts | {name: _value(value) for name, value in block.attributes.items()}


def _link_facts(link: Link) -> dict[str, str]:
    return {"link": link.kind, "weights": "none"} | {name: _value(value) for name, value in link.attributes.items()}


def _times(sizes: Any) -> str:
    return "×".join(str(size) for size in sizes)


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
