"""A cache of paid replies: JSON lines, looked up by the content of the request.

Each line holds the SHA-256 of its other entries, so a damaged line is asked again, not believed.
Appends are single writes under a lock, so runs may share a file, and a killed
run loses no reply that had arrived.
"""

import fcntl
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any


def content_key(content: dict[str, Any]) -> str:
    """A hash of everything that a reply depends on."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class ReplyCache:
    """A file of replies.

    Attributes:
      path: the JSON lines file; it is made at the first `put`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._records: dict[str, dict[str, Any]] = {}
        self._read_to = 0

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of that key, also if another run has just written it."""
        if key not in self._records:
            self._refresh()
        return self._records.get(key)

    def put(self, record: dict[str, Any]) -> None:
        """Appends a record, which holds its `key`, and waits until it is on disk."""
        record = {**record, "sha256": content_key(record)}
        line = json.dumps(record, ensure_ascii=True).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            # A run killed in the middle of a write leaves a line without an end.
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            _write_all(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        self._records[record["key"]] = record

    def records(self) -> list[dict[str, Any]]:
        """All records, in the order of the file."""
        self._refresh()
        return list(self._records.values())

    def _refresh(self) -> None:
        if not self.path.exists() or self.path.stat().st_size <= self._read_to:
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._read_to += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            record = json.loads(line)
            if not isinstance(record["key"], str) or not isinstance(record["reply"], str):
                raise TypeError("key and reply must be text")
            # Lines of earlier versions have no digest.
            if record.pop("sha256", None) not in (None, content_key(record)):
                raise ValueError("it differs from what was written")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            warnings.warn(
                f"{self.path}: skipped a line that is no reply ({error}); it will be asked again",
                stacklevel=2,
            )
            return
        self._records[record["key"]] = record


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
