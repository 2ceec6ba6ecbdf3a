"""Atomic writes, file locks and hashes of files."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

# What stays free on a disk when something large is written.
SPARE_BYTES = 4 << 20


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it.

    A reader finds the old file or the new one, also if the process is killed.

    Raises:
      OSError: if the file cannot be written; names it and the remedy if the disk is full.
    """
    # The suffix stays, because some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with disk_full_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Adds the path and the remedy to the error of a full disk or an exceeded quota.

    Raises:
      OSError: in place of such an error; all others pass.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        # HDF5 states the number of the system's error in its message only, TensorStore its text.
        stated = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(stated[1]) if stated else None)
        if number is None and os.strerror(errno.ENOSPC) in str(error):
            number = errno.ENOSPC
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            number,
            f"{os.strerror(number)} while writing {path}; free space on that disk, then run the "
            "same command again, which resumes",
        ) from error


def check_space(path: Path, size: int) -> None:
    """Checks that the disk has room, before a library writes that crashes where there is none.

    Args:
      path: to be written; its folder, or one above, exists.
      size: in bytes.

    Raises:
      OSError: if less than that and SPARE_BYTES are free.
    """
    folder = next(p for p in path.absolute().parents if p.exists())
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)} for {path}: {free:,} bytes are free, {size:,} and a "
            f"reserve of {SPARE_BYTES:,} are needed; free space on that disk, then run the same "
            "command again, which resumes",
        )


def read_npz(path: Path, names: Sequence[str], remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file.

    Raises:
      ValueError: if the file is damaged or lacks one of them.
    """
    try:
        # Opened here, because NumPy does not close a file that it cannot parse.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except FileNotFoundError:
        raise
    # Damaged archives raise errors of zipfile, zlib, struct and NumPy.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged ({reason}); {remedy}") from error


@contextlib.contextmanager
def locked(path: Path, log: Callable[[str], None], what: str = "dataset") -> Iterator[None]:
    """Holds an exclusive lock on a file; waits while another process holds it.

    The kernel releases the lock when its process ends, also by a kill. The
    file has no content and is not removed.

    Args:
      path: of the lock file.
      log: takes a line of text if there is a wait.
      what: the locked thing, for that line.
    """
    with try_locked(
        path, log, f"another process works on the same {what} ({path}); waiting until it ends"
    ):
        yield


@contextlib.contextmanager
def try_locked(path: Path, log: Callable[[str], None], waiting: str | None) -> Iterator[bool]:
    """Holds an exclusive lock on a file, as `locked`, if no other process holds it.

    Args:
      waiting: a line for `log` before it waits for the other process; None never waits.

    Yields:
      Whether the lock is held.

    Raises:
      OSError: if the file system has no locks, or the disk is full.
    """
    with disk_full_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "w")  # noqa: SIM115
    with handle:
        held = _lock(handle, wait=False)
        if not held and waiting is not None:
            log(waiting)
            held = _lock(handle, wait=True)
        yield held


def _lock(handle: IO[str], wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)} for {handle.name}: this file system has no locks, without "
            "which two processes could write the same file; use a folder on a local disk or a "
            "shared file system with locks (NFS 4, EFS, Filestore, Lustre mounted with flock)",
        ) from error
    return True


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, by its path relative to the folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}
