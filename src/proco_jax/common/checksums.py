"""SHA-256 of the files of a folder, kept in `checksums.json` beside them.

The digest of a new content is recorded before the file is replaced and the old one is kept, so a
process that is killed in between leaves a file that still agrees. Files without a record are taken
as they are.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proco_jax.common.files import write_text

NAME = "checksums.json"
# The entry of a report with the digest of what it reports on.
MADE_OF = "made_of"


def write_recorded(path: Path, text: str) -> None:
    """Writes a text file atomically and records its digest."""
    old = _digest(path.read_bytes()) if path.exists() else None
    _record(path, [old, _digest(text.encode())])
    write_text(path, text)


def record(path: Path) -> None:
    """Records the digest of a file as it is."""
    _record(path, [_digest(path.read_bytes())])


def forget(path: Path) -> bool:
    """Removes the record of a file that is no longer there; returns whether there was one."""
    known = path.name in _read_or_nothing(path.parent)
    if known:
        _record(path, [])
    return known


def read_recorded(path: Path, remedy: str, grows: bool = False) -> str:
    """The text of a file, compared with its record if there is one.

    Args:
      path: of the file.
      remedy: what to do if the file is damaged.
      grows: lines may have been appended since it was recorded.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it differs from what was written, or is no text.
    """
    content = path.read_bytes()
    known = _read(path.parent).get(path.name)
    if known and _digest(content) not in known and not (grows and _begins(content, known)):
        raise ValueError(f"{path} is damaged: it differs from what was written; {remedy}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file of a run, compared with its record; None if there is no such file.

    Raises:
      ValueError: if the file is damaged.
    """
    if not path.exists():
        return None
    remedy = "remove it, then the same command writes it anew"
    text = read_recorded(path, remedy)
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"found a {type(content).__name__}, expected an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    return content


def sealed_json(content: Mapping[str, Any]) -> str:
    """The text of a JSON object and, as its entry `sha256`, the digest of the rest.

    A file that was changed in any way differs from the sealed text of what it holds.
    """
    digest = _digest(json.dumps(content).encode())
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def _record(path: Path, digests: list[str | None]) -> None:
    known = _read_or_nothing(path.parent)
    known[path.name] = list(dict.fromkeys(digest for digest in digests if digest))
    if not known[path.name]:
        del known[path.name]
    write_text(path.parent / NAME, json.dumps(known, indent=1) + "\n")


def _read(folder: Path) -> dict[str, list[str]]:
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_bytes().decode())
        if not isinstance(known, dict) or not all(
            isinstance(digests, list)
            and digests
            and all(isinstance(x, str) and len(x) == 64 for x in digests)
            for digests in known.values()
        ):
            raise TypeError("expected lists of SHA-256 by file")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, then the other files are taken as they are"
        ) from error
    return known


def _read_or_nothing(folder: Path) -> dict[str, list[str]]:
    try:
        return _read(folder)
    except ValueError:
        return {}


def _begins(content: bytes, known: list[str]) -> bool:
    """Whether a file begins with whole lines, or none, that have one of these digests."""
    found = hashlib.sha256()
    if found.hexdigest() in known:
        return True
    for line in content.splitlines(keepends=True):
        found.update(line)
        if found.hexdigest() in known:
            return True
    return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
