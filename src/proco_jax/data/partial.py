"""The finished episodes of an incomplete collection, one file each."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import write_atomic, write_text
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
    if path.exists() and json.loads(path.read_text()) != wanted:
        log("the unfinished collection was begun with other settings or versions; starting again")
        shutil.rmtree(folder)
    write_text(path, json.dumps(wanted, indent=2))


def missing_episodes(folder: Path, count: int) -> list[int]:
    """Indices below `count` of the episodes that are not recorded yet."""
    return [i for i in range(count) if not episode_path(folder, i).exists()]


def save_episode(folder: Path, index: int, episode: Episode) -> None:
    """Writes one episode atomically."""

    def write(path: Path) -> None:
        np.savez(path, allow_pickle=False, **episode._asdict())

    write_atomic(episode_path(folder, index), write)


def load_episode(folder: Path, index: int) -> Episode:
    """Reads what `save_episode` wrote.

    Raises:
      OSError: if the file is damaged; it is then removed, and the next
        collection records the episode again.
    """
    path = episode_path(folder, index)
    try:
        # Opened here, because NumPy does not close a file that it cannot parse.
        with open(path, "rb") as file, np.load(file) as arrays:
            parts = {name: arrays[name] for name in Episode._fields}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        path.unlink()
        raise OSError(
            f"the recorded episode {path} was damaged ({error}) and is removed; "
            "run the same command again to record it again"
        ) from error
    return Episode(**{**parts, "terminated": bool(parts["terminated"])})


def episode_path(folder: Path, index: int) -> Path:
    """The file of one episode."""
    return folder / f"episode_{index:06d}.npz"
