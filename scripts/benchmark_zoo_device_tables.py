"""What benchmark_zoo_device.py found, as Markdown."""

from __future__ import annotations

from typing import Any

from metanet.reporting.tables import Cell, Column, Table, to_markdown

Found = dict[str, Any]
FACTS = ("nets", "flops", "groups", "evaluation")  # of a group, beside its rates
BY_HAND = ("plain", "plain, fused")


def written(found: Found) -> str:
    """All tables, with what was not measured."""
    sgemm = found["sgemm"]
    lines = [
        f"{found['device']}. Limits in this run: {sgemm / 1e12:,.1f} TFLOP/s in sgemm"
        f"{' (tf32)' if found['options']['tf32'] else ''}, {found['memcpy'] / 1e9:,.0f} GB/s in memcpy.",
        f"`{found['command']}`",
    ]
    if found["left_out"]:
        lines.append("Not measured, for want of time: " + ", ".join(found["left_out"]))
    lines += [f"Failed: {what}: {why}" for what, why in found["failed"].items()]
    for name, each in found.get("whole", {}).items():
        lines += [f"## All of {name}, from the groups measured", to_markdown(_whole(each))]
    for section, title in (("spec", "by group of the spec"), ("families", "by family")):
        if section in found:
            lines += [f"## Steps of one net per second, {title}", to_markdown(_rates(found[section], sgemm))]
    if found.get("right"):
        title = "Largest relative difference from the CPU after three steps in float64"
        lines += [f"## {title}", to_markdown(_by_measure(found["right"], "{:.1e}".format))]
    if found.get("shapes"):
        lines += ["## Microseconds of a convolution, by shape and way", to_markdown(_shapes(found["shapes"]))]
    return "\n\n".join(lines) + "\n"


def best(each: Found) -> float:
    """The highest rate of a population."""
    return max(value or 0.0 for way, value in each.items() if way not in (*BY_HAND, *FACTS))


def _whole(each: Found) -> Table:
    """Hours by way of training all nets, beside the plain loop."""
    columns = [Column(name) for name in ("trained by", "hours", "of them in evaluations", "over plain", "TFLOP/s")]
    rows = []
    for way, hours in each["hours"].items():
        flops = each["flops"] / (3600 * hours["steps"])
        cells = [f"{hours['steps'] + hours['evaluations']:,.2f}", f"{hours['evaluations']:,.2f}"]
        cells += [f"{each['hours']['plain']['steps'] / hours['steps']:.1f}x", f"{flops / 1e12:.2f}"]
        rows.append([Cell(way), *map(Cell, cells)])
    return Table(columns, rows)


def _rates(section: dict[str, Found], sgemm: float) -> Table:
    """Every rate, and of the best one its gain and its share of the machine."""
    table = _by_measure(
        {name: {key: value for key, value in each.items() if key not in FACTS[1:]} for name, each in section.items()},
        "{:,.0f}".format,
    )
    best_flops = [each["flops"] * best(each) for each in section.values()]
    more = {
        "best over plain": [f"{best(each) / each['plain']:.1f}x" for each in section.values()],
        "best, TFLOP/s": [f"{flops / 1e12:.2f}" for flops in best_flops],
        "of sgemm": [f"{flops / sgemm:.0%}" for flops in best_flops],
    }
    rows = [[Cell(name), *map(Cell, cells)] for name, cells in more.items()]
    return Table(table.columns, [*table.rows, *rows])


def _by_measure(section: dict[str, Found], shown: Any) -> Table:
    """A row per measure, a column per group or family."""
    measures = list(dict.fromkeys(measure for each in section.values() for measure in each))
    rows = []
    for measure in measures:
        values = [each.get(measure) for each in section.values()]
        rows.append([Cell(measure), *(Cell("–" if value is None else shown(value)) for value in values)])
    return Table([Column(""), *map(Column, section)], rows)


def _shapes(shapes: list[Found]) -> Table:
    names = list(dict.fromkeys(name for shape in shapes for name in shape["seconds"]))
    rows = []
    for shape in shapes:
        seconds = shape["seconds"]
        least = min(value for value in seconds.values() if value is not None)
        cells = ["–" if seconds.get(name) is None else f"{1e6 * seconds[name]:,.0f}" for name in names]
        rows.append([Cell(shape["case"]), *map(Cell, cells), Cell(f"{shape['flops'] / least / 1e12:.2f}")])
    return Table([Column("convolution"), *map(Column, names), Column("best, TFLOP/s")], rows)
