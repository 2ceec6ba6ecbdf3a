"""What becomes of an injected fault, and how files are damaged."""

import dataclasses
import enum
import resource
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from proco_jax.common.commands import REPORTED_ERRORS

MOST_BYTES = 1_500_000_000
LONGEST_MESSAGE = 2500
DAMAGES = ("flip", "flip", "flip", "truncate", "delete", "empty", "zero", "garbage", "append")


class Outcome(enum.StrEnum):
    """What became of a fault, see `faults.py`."""

    REFUSED = "refused"
    MENDED = "mended"
    HARMLESS = "harmless"
    OTHER = "other input"
    SILENT = "SILENT CHANGE"
    TRACEBACK = "TRACEBACK"
    HANG = "HANG"


SURVIVORS = (Outcome.SILENT, Outcome.TRACEBACK, Outcome.HANG)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
      number: of the fault in the stream of its seed; negative for kills.
      kind: of fault.
      fault: what was done, in words.
      outcome: what became of it.
      note: the error, or what differs.
      seconds: that it took.
    """

    number: int
    kind: str
    fault: str
    outcome: Outcome
    note: str
    seconds: float


Found = tuple[Outcome, str]
# What was done, the check that follows, and texts one of which an error must contain.
Fault = tuple[str, Callable[[], Found], tuple[str, ...]]


class Remade(Exception):
    """What was damaged is not found, so that a run makes it anew."""


def observe(
    make: Callable[[np.random.Generator], Fault], rng: np.random.Generator
) -> tuple[str, Outcome, str]:
    """Injects a fault: what was done, what became of it, and the error or the difference."""
    fault, words, before = "", ("",), _peak_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fault, check, words = make(rng)
            outcome, note = check()
    except Remade as made:
        outcome, note = Outcome.MENDED, f"made anew: {made}"
    except REPORTED_ERRORS as error:
        outcome, note = judge(error, words)
    except Exception:
        outcome, note = Outcome.TRACEBACK, traceback.format_exc()[-1500:]
    taken = _peak_bytes() - before
    if taken > MOST_BYTES:
        outcome, note = Outcome.HANG, f"took {taken / 1e9:.1f} GB; {note}"
    return fault, outcome, note


def judge(error: Exception, words: tuple[str, ...]) -> Found:
    """Whether an error of `REPORTED_ERRORS` explains itself, and names one of the words."""
    text = str(error)
    if not text or len(text) > LONGEST_MESSAGE or "Traceback" in text:
        return Outcome.TRACEBACK, f"no message for people: {type(error).__name__}: {text[:1000]}"
    if not any(word in text for word in words):
        return Outcome.TRACEBACK, f"names none of {words}: {type(error).__name__}: {text[:1000]}"
    return Outcome.REFUSED, text


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damages a file in place; returns what was done, in words."""
    content, kind = path.read_bytes(), str(rng.choice(DAMAGES))
    if kind == "delete":
        path.unlink()
        return f"{path.name} deleted"
    spoiled, words = damaged(content, kind, rng)
    path.write_bytes(spoiled)
    return f"{path.name}: {words}"


def damaged(content: bytes, kind: str, rng: np.random.Generator) -> tuple[bytes, str]:
    """Content with damage of a kind, and what was done, in words."""
    spoiled = bytearray(content)
    if kind == "append":
        more = rng.bytes(int(rng.integers(1, 50)))
        return bytes(spoiled + more), f"{len(more)} bytes appended"
    if not spoiled:
        return bytes(spoiled), "already empty"
    if kind == "flip":
        at, bit = int(rng.integers(len(spoiled))), int(rng.integers(8))
        spoiled[at] ^= 1 << bit
        return bytes(spoiled), f"bit {bit} of byte {at} flipped"
    if kind == "truncate":
        at = int(rng.integers(len(spoiled)))
        return bytes(spoiled[:at]), f"truncated to {at} of {len(spoiled)} bytes"
    if kind == "empty":
        return b"", "emptied"
    at = int(rng.integers(len(spoiled)))
    end = min(len(spoiled), at + int(rng.integers(1, 600)))
    spoiled[at:end] = bytes(end - at) if kind == "zero" else rng.bytes(end - at)
    return bytes(spoiled), f"bytes {at} to {end}: {kind}"


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
