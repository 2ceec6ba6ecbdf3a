"""The finished episodes of a collection that isn't complete yet, one file each."""

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
    """Makes the folder, or keeps what is there if it was begun under the same header.

    Args:
      folder: of the episodes.
      header: the recipe, and the versions and backend that decide the numbers.
      log: takes lines for the user.
    """
    path = folder / "header.json"
    # Through JSON, because tuples come back as lists.
    wanted = json.loads(json.dumps(header))
    if path.exists() and json.loads(path.read_text()) != wanted:
        log("the unfinished collection there was begun otherwise; starting anew")
        shutil.rmtree(folder)
    write_text(path, json.dumps(wanted, indent=2))


def missing_episodes(folder: Path, count: int) -> list[int]:
    """Which of the first `count` episodes are not recorded yet."""
    return [i for i in range(count) if not episode_path(folder, i).exists()]


def save_episode(folder: Path, index: int, episode: Episode) -> None:
    """Writes one episode, whole or not at all."""

    def write(path: Path) -> None:
        np.savez(path, allow_pickle=False, **episode._asdict())

    write_atomic(episode_path(folder, index), write)


def load_episode(folder: Path, index: int) -> Episode:
    """Reads what `save_episode` wrote.

    Raises:
      OSError: if the file is damaged; it is removed, so that the next run
        records the episode again.
    """
    path = episode_path(folder, index)
    try:
        # Opened here, because NumPy leaves a file open that isn't what it expected.
        with open(path, "rb") as file, np.load(file) as arrays:
            parts = {name: arrays[name] for name in Episode._fields}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        path.unlink()
        raise OSError(
            f"the recorded episode {path} was damaged ({error}) and is removed; "
            "run the same command again to record it anew"
        ) from error
    return Episode(**{**parts, "terminated": bool(parts["terminated"])})


def episode_path(folder: Path, index: int) -> Path:
    """The file of one episode."""
    return folder / f"episode_{index:06d}.npz"
