"""Units of a sweep, one after the other, in this process; other processes may do so beside it.

A unit is worked on under a lock that the kernel releases when its process ends, however it ends.
What another process holds is put off until the rest is done. A unit that fails leaves
`failure.json` and does not stop the others; a full disk does.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from proco_jax.common.files import try_locked, write_text
from proco_jax.sweeps.description import Unit
from proco_jax.sweeps.folder import FAILURE, Root

# A run in the same folder has a lock of its own.
LOCK = ".unit.lock"
_HOLDER = "holder.json"


class Work(Protocol):
    """What is done with each unit; it can be sent to other processes."""

    @property
    def root(self) -> Root:
        """Of the sweep."""
        ...

    def prepare(self) -> None:
        """Called once in each process, before the first unit."""

    def is_done(self, unit: Unit) -> bool:
        """Whether nothing is left to do for a unit."""
        ...

    def is_trained(self, unit: Unit) -> bool:
        """Whether the policies of a unit are there, so that it can be evaluated."""
        ...

    def __call__(self, unit: Unit, log: Callable[[str], None]) -> None:
        """Does the work on a unit, or resumes it."""


class Outcome(NamedTuple):
    """What became of the units.

    Attributes:
      done: units that this process finished.
      skipped: units that were finished before, or by another process meanwhile.
      failed: error messages by unit.
    """

    done: int
    skipped: int
    failed: dict[str, str]

    def plus(self, other: "Outcome") -> "Outcome":
        """Both together."""
        return Outcome(
            self.done + other.done, self.skipped + other.skipped, self.failed | other.failed
        )


def run_units(
    root: Root,
    units: Sequence[Unit],
    is_done: Callable[[Unit], bool],
    work: Callable[[Unit, Callable[[str], None]], None],
    log: Callable[[str], None],
) -> Outcome:
    """Works on every unit that is not done and that no other process works on.

    Args:
      is_done: whether nothing is left to do for a unit.
      work: does it, or resumes it; takes the unit and `log`.
      log: takes lines for the user.

    Raises:
      OSError: if the disk is full; whatever was finished stays.
    """
    done, skipped, failed = 0, 0, {}
    begun = time.monotonic()
    waiting, wait = list(units), False
    while waiting:
        busy = []
        for unit in waiting:
            if is_done(unit):
                skipped += 1
                continue
            folder = root.unit(unit.name)
            note = _busy_message(root, unit) if wait else None
            with try_locked(folder / LOCK, log, note) as mine:
                if not mine:
                    busy.append(unit)
                    continue
                # Another process may have finished it before the lock was taken.
                if is_done(unit):
                    skipped += 1
                    continue
                write_text(folder / _HOLDER, json.dumps(_who()) + "\n")
                log(f"\n#### {unit.name} ({done + skipped + len(failed) + 1} of {len(units)})")
                error = _attempt(root, unit, work, log)
                if error:
                    failed[unit.name] = error
                    log(f"   {unit.name} failed: {error}")
                    continue
                done += 1
                left = len(units) - done - skipped - len(failed)
                hours = (time.monotonic() - begun) / done * left / 3600
                log(f"   {unit.name}: done; {left} units left, about {hours:.1f} h")
        if busy and not wait:
            log(f"{len(busy)} units are worked on by other processes; waiting for them")
        waiting, wait = busy, True
    return Outcome(done, skipped, failed)


def _attempt(
    root: Root,
    unit: Unit,
    work: Callable[[Unit, Callable[[str], None]], None],
    log: Callable[[str], None],
) -> str:
    """Works on a unit; returns the message of its failure, or an empty text."""
    path = root.unit(unit.name) / FAILURE
    try:
        work(unit, log)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{type(error).__name__}: {error}"
        write_text(path, json.dumps({"error": message, **_who()}) + "\n")
        return message
    path.unlink(missing_ok=True)
    return ""


def _busy_message(root: Root, unit: Unit) -> str:
    path = root.unit(unit.name) / _HOLDER
    try:
        found = json.loads(path.read_text())
        who = f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return f"{unit.name}: {who} works on it; waiting until it ends"


def _who() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "process": os.getpid()}
