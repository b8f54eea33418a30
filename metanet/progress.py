"""One progress bar for everything that takes more than a few seconds: count, rate and time left."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 15.0  # without a terminal a line is printed this often, so that a log stays short


class _Rate(ProgressColumn):
    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.1f} {self.unit}/s", style="cyan")


@contextlib.contextmanager
def progress(description: str, total: int | float, unit: str = "nets") -> Iterator[Callable[..., None]]:
    """A bar on stderr; the yielded function is called `advance(count, note="")` as work gets done."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total, note="")

            def advance(count: int | float = 1, note: str | None = None) -> None:
                bar.update(task, advance=count)
                if note is not None:
                    bar.update(task, note=note)

            yield advance
        return

    start = printed = time.monotonic()
    done = 0.0

    def advance_line(count: int | float = 1, note: str | None = None) -> None:
        nonlocal done, printed
        done += count
        now = time.monotonic()
        if now - printed >= LINE_SECONDS or done >= total > done - count:
            printed = now
            rate = done / max(now - start, 1e-9)
            left = f"{max(total - done, 0) / max(rate, 1e-9):,.0f} s left" if done < total else f"{now - start:,.1f} s"
            print(
                f"{description}: {done:,.0f}/{total:,.0f} {unit}, {rate:,.1f}/s, {left} {note or ''}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    yield advance_line
