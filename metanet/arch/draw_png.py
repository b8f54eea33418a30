"""The picture of a template as a PNG, by matplotlib (the extra `draw`)."""

from __future__ import annotations

import io

from metanet.arch.draw import BOX_HEIGHT, LINE, MARGIN, Picture

COLOURS = {"conv": "#3b82c4", "linear": "#d98324", "flatten": "#4a9d5b", "link": "#8a8f98"}
OTHER_BLOCKS = "#8a63b8"
FILLS = {"input": "#e7ecf3", "hidden": "#ffffff", "output": "#e7ecf3", "folded": "#f3f5f8"}
DPI = 144
MOST_DOTS = 30_000  # of a side: what matplotlib and viewers take
POINT = 0.72  # points per px


def png(picture: Picture, where: str) -> bytes:
    """The file: 100 px an inch, 144 dots per inch, so that text stays sharp; fewer where the picture is very long.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyBboxPatch, PathPatch
        from matplotlib.path import Path as Curve
        from matplotlib.patheffects import withStroke
    except ImportError as error:
        raise ValueError(f"{where}: a PNG needs matplotlib; pip install 'metanet[draw]', or write .html") from error

    dpi = min(DPI, 100 * MOST_DOTS / max(picture.width, picture.height))
    figure = Figure(figsize=(picture.width / 100, picture.height / 100), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.axis("off")
    axes.text(MARGIN, MARGIN, picture.title, fontsize=16 * POINT, weight="bold", va="center")
    for number, note in enumerate(picture.notes, start=1):
        axes.text(MARGIN, MARGIN + 4 + LINE * number, note, fontsize=11.5 * POINT, color="#555b66", va="center")
    for band in picture.bands:
        curve = Curve(list(band.curve), [Curve.MOVETO, *[Curve.CURVE4] * (len(band.curve) - 1)])
        colour = COLOURS.get(band.kind, OTHER_BLOCKS)
        style = {"edgecolor": colour, "linewidth": band.thickness * POINT, "alpha": 0.55, "zorder": 1}
        axes.add_patch(PathPatch(curve, facecolor="none", linestyle=":" if band.kind == "link" else "-", **style))
        halo = [withStroke(linewidth=4 * POINT, foreground="white")]
        style = {"color": "#3d434d", "va": "center", "zorder": 2, "path_effects": halo}
        axes.text(*band.label_at, band.label, fontsize=11 * POINT, **style)
    for box in picture.boxes:
        left = box.x - box.width / 2
        style = {"facecolor": FILLS[box.kind], "edgecolor": "#2d333d", "linewidth": 1.2, "zorder": 3}
        rounded = "round,pad=0,rounding_size=7"
        axes.add_patch(FancyBboxPatch((left, box.y), box.width, BOX_HEIGHT, boxstyle=rounded, **style))
        title_at = box.y + (17 if box.subtitle else BOX_HEIGHT / 2)
        axes.text(box.x, title_at, box.title, fontsize=12 * POINT, weight="bold", ha="center", va="center", zorder=4)
        axes.text(
            box.x, box.y + 33, box.subtitle, fontsize=11 * POINT, color="#3d434d", ha="center", va="center", zorder=4
        )
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()
