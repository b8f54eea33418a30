"""A table, written once and shown three ways: terminal, Markdown, HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby

import rich.box
import rich.console
import rich.table
from rich.markup import escape as unmarked


@dataclass(frozen=True)
class Cell:
    """One cell: its text, lines in small print below it, and what it stands for.

    `meaning` is one of "" | "best" | "better" | "worse"; `strength` in [0, 1] tints the cell in HTML.
    """

    text: str
    small: tuple[str, ...] = ()
    meaning: str = ""
    strength: float = 0.0


@dataclass(frozen=True)
class Column:
    """A heading, and the group of neighbouring columns that it belongs to; `prose` columns are set left and wrap."""

    name: str
    group: str = ""
    prose: bool = False


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    set_apart: frozenset[int] = field(default_factory=frozenset)  # rows followed by a line, such as a mean

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "a row is as long as the heading"


def to_rich(table: Table, title: str, full: bool = True) -> rich.table.Table:
    """For the terminal; without small print and prose columns if not `full`."""
    shown = rich.table.Table(title=title, title_justify="left", title_style="bold", box=rich.box.SIMPLE_HEAD)
    kept = [place for place, column in enumerate(table.columns) if full or not column.prose]
    grouped = any(column.group.strip() for column in table.columns)
    group = ""
    for place in kept:
        column = table.columns[place]
        heading = f"[dim]{column.group if column.group != group else ''}[/dim]\n" if grouped else ""
        left = column.prose or place == 0
        shown.add_column(
            heading + unmarked(column.name), justify="left" if left else "right", overflow="fold", no_wrap=place == 0
        )
        group = column.group
    styles = {"best": "bold", "better": "green", "worse": "red"}
    for number, row in enumerate(table.rows):
        cells = []
        for cell in (row[place] for place in kept):
            text = unmarked(cell.text)
            text = f"[{styles[cell.meaning]}]{text}[/]" if cell.meaning else text
            cells.append("\n".join([text, *(f"[dim]{unmarked(line)}[/dim]" for line in cell.small if full)]))
        shown.add_row(*cells, end_section=number in table.set_apart)
    return shown


def print_to(console: rich.console.Console, table: Table, title: str) -> None:
    """In full where the console is wide enough for it, and never narrower than its numbers, which would break."""

    def width(shown: rich.table.Table) -> int:
        return console.measure(shown, options=console.options.update(max_width=10**4)).maximum

    shown = to_rich(table, title)
    if width(shown) > console.width:
        shown = to_rich(table, f"{title} (a wider terminal shows more)", full=False)
    before, console.width = console.width, max(console.width, width(shown))
    console.print(shown)
    console.width = before


def to_markdown(table: Table) -> str:
    def plain(text: str) -> str:
        return text.replace("|", "\\|")

    lines = ["| " + " | ".join(plain(column.name) for column in table.columns) + " |"]
    sides = [":---" if place == 0 or column.prose else "---:" for place, column in enumerate(table.columns)]
    lines.append("| " + " | ".join(sides) + " |")
    for row in table.rows:
        cells = []
        for cell in row:
            text = f"**{plain(cell.text)}**" if cell.meaning == "best" else plain(cell.text)
            cells.append(" ".join([text, *(f"<small>{plain(line)}</small>" for line in cell.small)]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """Scrolls sideways within itself on a narrow screen, with the first column staying in sight."""
    groups = [(name, len(list(columns))) for name, columns in groupby(table.columns, key=lambda column: column.group)]
    starts = {sum(length for _, length in groups[:place]) for place, (name, _) in enumerate(groups) if name}

    def classes(place: int, meaning: str = "") -> str:
        names = ["text"] * table.columns[place].prose + ["first"] * (place in starts) + [meaning] * bool(meaning)
        return f' class="{" ".join(names)}"' if names else ""

    head = ""
    if starts:
        cells, place = [], 0
        for name, length in groups:
            cells.append(f'<th colspan="{length}"{classes(place)}>{escape(name)}</th>')
            place += length
        head = f'<tr class="groups">{"".join(cells)}</tr>'
    names = (f"<th{classes(place)}>{escape(column.name)}</th>" for place, column in enumerate(table.columns))
    head += f"<tr>{''.join(names)}</tr>"
    rows = []
    for number, row in enumerate(table.rows):
        cells = []
        for place, cell in enumerate(row):
            tint = f' style="background:rgba(0,114,178,{0.26 * cell.strength:.3f})"' if cell.strength > 0 else ""
            small = "".join(f"<small>{escape(line)}</small>" for line in cell.small)
            kind = 'th scope="row"' if place == 0 else "td"
            cells.append(f"<{kind}{classes(place, cell.meaning)}{tint}>{escape(cell.text)}{small}</{kind[:2]}>")
        rows.append(f"{'<tr class=mean>' if number in table.set_apart else '<tr>'}{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
