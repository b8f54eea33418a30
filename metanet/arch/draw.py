"""The picture of a template: spaces as boxes from the input down, weight tensors as bands, thicker with more weights.

`draw` writes an HTML page (self-contained: pan, zoom, folding, the facts of whatever is pointed at) or a PNG.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from metanet.arch.draw_fold import Fold, folds
from metanet.arch.draw_layout import place
from metanet.arch.draw_text import CHARACTER, band_texts, box_texts, notes
from metanet.arch.template import Block, Link, Template
from metanet.zoo import disk

PITCH, BOX_HEIGHT, MARGIN, LINE = 104.0, 46.0, 36.0, 20.0  # px
MOST_BOXES = 40  # of the picture that is seen first
_LINK_WIDTH = 2.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A space or a folded module: its place in px (x is the centre), two lines of text, and all that is known of it."""

    x: float
    y: float
    width: float
    kind: str  # "input" | "hidden" | "output" | "folded"
    title: str
    subtitle: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Band:
    """What leads from box to box: cubic curves [start, control, control, end, control, ...] in px, thickness, label."""

    source: int
    target: int
    curve: tuple[Point, ...]
    thickness: float
    kind: str  # of the block, or "link"
    label: str
    label_at: Point
    facts: dict[str, str]


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn, in px."""

    title: str
    notes: tuple[str, ...]  # lines under the title
    depth: int  # of the fold; 0 where every space is a box
    width: float
    height: float
    boxes: list[Box]
    bands: list[Band]


def draw(template: Template, path: Path, title: str, fold: int | None = None) -> None:
    """Writes the picture of `template` to `path`; its ending, .html or .png, chooses the form.

    `fold` keeps so many components of the module paths, 0 keeps every space a box; without it, the finest fold of at
    most MOST_BOXES boxes. A page holds all folds and shows this one first.

    Raises:
        ValueError: another ending, or a fold that the template does not have.
    """
    if path.suffix not in (".html", ".png"):
        raise ValueError(
            f"{path}: a picture is written as .html or .png, not as {path.suffix or 'a file without ending'}"
        )
    found = folds(template)
    first = _chosen(found, fold)
    if path.suffix == ".html":
        from metanet.arch.draw_html import page

        drawn = page([picture(template, title, one) for one in found], first).encode()
    else:
        from metanet.arch.draw_png import png  # needs matplotlib

        drawn = png(picture(template, title, found[first]), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_atomically(path, drawn)


def _chosen(found: list[Fold], depth: int | None) -> int:
    if depth is None:
        small = [k for k, one in enumerate(found) if len(one.names) <= MOST_BOXES]
        return small[-1] if small else 0
    depths = [one.depth for one in found]
    if depth not in depths:
        raise ValueError(
            f"fold={depth}: this network can be folded to {', '.join(map(str, sorted(depths)))} components"
        )
    return depths.index(depth)


def picture(template: Template, title: str, fold: Fold | None = None) -> Picture:
    """The picture of a fold, by default of the one in which every space is a box."""
    fold = folds(template)[-1] if fold is None else fold
    texts = [box_texts(template, fold, k) for k in range(len(fold.names))]
    widths = [max(CHARACTER * max(map(len, text[1:3])) + 28, 70.0) for text in texts]
    edges = list(fold.joins)
    labels = [band_texts(fold.joins[edge])[0] for edge in edges]
    meeting = Counter(target for _, target in edges)
    beside = [0.0] * len(widths)  # the labels of the bands that end here stand right of them
    for (_, target), label in zip(edges, labels, strict=True):
        spread = 0.4 * widths[target] * (meeting[target] > 1)
        beside[target] = max(beside[target], 24 + spread + 0.92 * CHARACTER * len(label))
    halves = [width / 2 for width in widths]
    places = place(halves, [max(pair) for pair in zip(halves, beside, strict=True)], edges)

    lines = notes(template)
    top = MARGIN + 40.0 + LINE * len(lines)
    boxes = [
        Box(MARGIN + places.x[k], top + PITCH * places.row[k], widths[k], *texts[k]) for k in range(len(fold.names))
    ]
    ports = _ports(boxes, edges, places.passing, [_thickness(fold.joins[edge]) for edge in edges])
    heavy = Counter(target for (_, target), joins in fold.joins.items() if any(isinstance(j, Block) for j in joins))
    bands = []
    for edge, passing, (start, end) in zip(edges, places.passing, ports, strict=True):
        through = [(MARGIN + x, top + PITCH * row) for x, row in passing]
        bands.append(_band(edge, fold.joins[edge], boxes, start, through, end, alone=heavy[edge[1]] == 1))
    bands = [_beside_all(band, [other for other in bands if other.target == band.target]) for band in bands]
    heading = max(MARGIN + CHARACTER * len(text) for text in (*lines, title + title[: len(title) // 3]))
    right = max([heading, *(box.x + box.width / 2 for box in boxes), *map(_right_end, bands)])
    bottom = max(box.y for box in boxes) + BOX_HEIGHT
    return Picture(title, lines, fold.depth, right + MARGIN, bottom + MARGIN, boxes, bands)


def _ports(
    boxes: list[Box], edges: list[tuple[int, int]], passing: list[list[tuple[float, int]]], thickness: list[float]
) -> list[tuple[float, float]]:
    """The x at which each band leaves its source and meets its target: side by side, in the order of their ways."""
    found = [[0.0, 0.0] for _ in edges]
    for end in (0, 1):
        by_box: dict[int, list[int]] = {}
        for number, edge in enumerate(edges):
            by_box.setdefault(edge[end], []).append(number)
        for box, numbers in by_box.items():
            ways = {n: MARGIN + passing[n][-end][0] if passing[n] else boxes[edges[n][1 - end]].x for n in numbers}
            numbers.sort(key=ways.__getitem__)
            room = 0.8 * boxes[box].width
            wide = [thickness[n] + 8 for n in numbers]
            scale = min(1.0, room / sum(wide))
            x = boxes[box].x - scale * sum(wide) / 2
            for n, width in zip(numbers, wide, strict=True):
                found[n][end] = x + scale * width / 2
                x += scale * width
    return [(start, stop) for start, stop in found]


def _band(
    edge: tuple[int, int],
    joins: list[Block | Link],
    boxes: list[Box],
    start: float,
    through: list[Point],
    end: float,
    alone: bool,
) -> Band:
    """Down from the foot of one box, straight past the rows in between, to the head of the other.

    The label of weights that come `alone` stands above the box that they write, where room is kept for it.
    """
    source, target = boxes[edge[0]], boxes[edge[1]]
    stops = [(start, source.y + BOX_HEIGHT)]
    for x, y in through:
        stops += [(x, y), (x, y + BOX_HEIGHT)]
    stops.append((end, target.y))
    curve = [stops[0]]
    for (x, y), (next_x, next_y) in itertools.pairwise(stops):
        middle = (y + next_y) / 2
        curve += [(x, middle), (next_x, middle), (next_x, next_y)]
    label, facts = band_texts(joins)
    blocks = [join for join in joins if isinstance(join, Block)]
    thickness = _thickness(joins)
    label_at = ((stops[-2][0] + end) / 2 + thickness / 2 + 6, (stops[-2][1] + target.y) / 2)
    if blocks and alone:
        label_at = (end + thickness / 2 + 6, target.y - (14 if stops[-2][0] != end else 29))
    kind = blocks[0].kind if blocks else "link"
    return Band(*edge, tuple(curve), thickness, kind, label, label_at, facts)


def _beside_all(band: Band, meeting: list[Band]) -> Band:
    """The band, whose label stands right of those of `meeting`, all that end at its box, that would run through it.

    Links are thin: labels of their own may lie on them.
    """
    if band.kind == "link":
        return band
    x, y = band.label_at
    width = 0.92 * CHARACTER * len(band.label)
    for other in sorted(meeting, key=lambda one: one.curve[-1]):
        first, last = sorted((_crossing(other, y - 8), _crossing(other, y + 8)))  # head and foot of the letters
        reach = other.thickness / 2 * math.hypot(1, (last - first) / 16) + 6
        if first - reach < x + width and x < last + reach:
            x = last + reach
    return replace(band, label_at=(x, y))


def _crossing(band: Band, y: float) -> float:
    """The x at which the last piece of a band comes by height y, or its end if it begins below."""
    first, _, _, last = band.curve[-4:]
    for step in range(33):
        t = step / 32
        if first[1] + (last[1] - first[1]) * (1.5 * t * (1 - t) + t**3) >= y:
            return first[0] + (last[0] - first[0]) * (3 * t**2 - 2 * t**3)
    return last[0]


def _thickness(joins: list[Block | Link]) -> float:
    weights = sum(math.prod(join.shape) for join in joins if isinstance(join, Block))
    return 2 + 3.5 * math.log10(weights) if weights > 1 else _LINK_WIDTH


def _right_end(band: Band) -> float:
    return max(band.label_at[0] + 0.92 * CHARACTER * len(band.label), max(x for x, _ in band.curve) + band.thickness)
