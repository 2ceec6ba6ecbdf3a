"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]
LINE_EVERY_S = 30.0


@contextlib.contextmanager
def progress(
    label: str, total: int, log: Callable[[str], None], done: int = 0
) -> Iterator[Advance]:
    """Shows the completed share of a long piece of work, and the time left.

    Args:
      label: name of the work.
      total: units of work in all.
      log: takes a line of text, where standard error is not a terminal.
      done: units completed earlier, which the estimate of the speed excludes.

    Yields:
      A function to call with the number of units completed since its last call.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(label, total, log, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(label, total=total, completed=done)
        yield lambda units: bars.advance(task, units)


def _lines(label: str, total: int, log: Callable[[str], None], done: int) -> Advance:
    """An `Advance` that logs a line at most every `LINE_EVERY_S` seconds.

    The time left follows from the speed since the end of the first call, which
    often includes compilation; before the second call there is no estimate.
    """
    last = time.monotonic()
    count = done
    first: tuple[float, int] | None = None

    def advance(units: int) -> None:
        nonlocal count, last, first
        if units <= 0:
            return
        count += units
        now = time.monotonic()
        estimate = ""
        if first is None:
            first = now, count
        else:
            left = (now - first[0]) * max(total - count, 0) / (count - first[1])
            estimate = f", about {left:,.0f} s left"
        if now - last >= LINE_EVERY_S:
            last = now
            log(f"{label}: {count / max(total, 1):.0%}{estimate}")

    return advance
