"""What becomes of an injected fault, and how files are damaged."""

import dataclasses
import enum
from pathlib import Path

import numpy as np

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


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damages a file in place; returns what was done, in words."""
    content, kind = bytearray(path.read_bytes()), str(rng.choice(DAMAGES))
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
