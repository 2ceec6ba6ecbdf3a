"""One progress bar with the time left: drawn on a terminal, in plain lines elsewhere."""

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
    """Shows how far a long piece of work is, and for how long it will go on.

    Args:
      label: what is being done.
      total: units of all the work.
      log: takes plain lines where standard error is no terminal.
      done: units that were done before, which don't count for the speed.

    Yields:
      A function to call with the number of units that were just done.
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
    """An `Advance` that logs a line at most every `LINE_EVERY_S` seconds."""
    start = last = time.monotonic()
    first = count = done

    def advance(units: int) -> None:
        nonlocal count, last
        count += units
        now = time.monotonic()
        if now - last < LINE_EVERY_S or count <= first:
            return
        last = now
        left = (now - start) * max(total - count, 0) / (count - first)
        log(f"{label}: {count / max(total, 1):.0%}, about {left:.0f} s left")

    return advance
