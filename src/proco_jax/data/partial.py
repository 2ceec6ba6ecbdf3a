"""The finished episodes of an incomplete collection, one file each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import check_space, read_npz, write_atomic, write_text
from proco_jax.types import Episode


def open_partial(folder: Path, header: dict[str, Any], log: Callable[[str], None]) -> None:
    """Makes the folder; keeps existing episodes only if they were begun with the same header.

    Args:
      folder: of the episodes.
      header: the recipe, and the versions and backend that determine the episodes.
      log: takes lines of text for the user.
    """
    path = folder / "header.json"
    # Through JSON, which turns tuples into lists.
    wanted = json.loads(json.dumps(header))
    if folder.exists() and _header(path) != wanted:
        log("the unfinished collection was begun with other settings or versions; starting again")
        shutil.rmtree(folder)
    write_text(path, json.dumps(wanted, indent=2))


def _header(path: Path) -> Any:
    """The content of a header; None if it is damaged or missing."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return None


def missing_episodes(folder: Path, count: int) -> list[int]:
    """Indices below `count` of the episodes that are not recorded yet."""
    return [i for i in range(count) if not episode_path(folder, i).exists()]


def save_episode(folder: Path, index: int, episode: Episode) -> None:
    """Writes one episode atomically.

    Raises:
      OSError: if the disk is full.
    """
    check_space(folder, sum(np.asarray(x).nbytes for x in episode))

    def write(path: Path) -> None:
        np.savez(path, allow_pickle=False, **episode._asdict())

    write_atomic(episode_path(folder, index), write)


def load_episode(folder: Path, index: int) -> Episode:
    """Reads what `save_episode` wrote.

    Raises:
      ValueError: if the file is damaged; it is then removed, and the next
        collection records the episode again.
    """
    path = episode_path(folder, index)
    remedy = "it is removed; run the same command again to record it again"
    try:
        parts: dict[str, Any] = read_npz(path, Episode._fields, remedy)
    except ValueError:
        path.unlink()
        raise
    return Episode(**{**parts, "terminated": bool(parts["terminated"])})


def episode_path(folder: Path, index: int) -> Path:
    """The file of one episode."""
    return folder / f"episode_{index:06d}.npz"
