"""Conversion of DSRL's HDF5 files of logs to Minari datasets.

Liu et al. 2024, "Datasets and Benchmarks for Offline Safe Reinforcement
Learning". The arrays hold the steps of all episodes; an episode ends where
`terminals` or `timeouts` is set, and a timeout is not a termination.
"""

import importlib.metadata
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import locked, sha256
from proco_jax.data.checks import (
    DataError,
    check_sizes,
    to_episode,
    to_flags,
)
from proco_jax.data.collection import slug
from proco_jax.data.download import download
from proco_jax.data.hdf5_checks import (
    DamagedFile,
    damage_explained,
    find_array,
    names,
    open_hdf5,
)
from proco_jax.data.minari_store import DETAILS, check_dataset_id, read_metadata
from proco_jax.data.minari_writer import Origin, write_dataset
from proco_jax.envs.tasks import Task, get_task
from proco_jax.types import Episode

KEYS = (
    "observations",
    "next_observations",
    "actions",
    "rewards",
    "costs",
    "terminals",
    "timeouts",
)
# Largest difference between equal observations, due to rounding.
CLOSE = 1e-3
AGAIN = "fetch it again"


def import_dsrl(
    source: str,
    task: Task | None,
    root: Path,
    log: Callable[[str], None] = print,
    dataset_id: str = "",
    endpoint: str | None = None,
) -> str:
    """Finds the Minari dataset of a DSRL file, or makes it, downloading the file if necessary.

    Args:
      source: a path, or the name of a task whose file is downloaded.
      task: expected task of the data; None for that of the source.
      root: the folder of Minari datasets.
      log: takes lines of text for the user.
      dataset_id: empty for `proco/<task>/dsrl-v0`, or an id with part of the
        content's hash for a local file.
      endpoint: address of the Hugging Face Hub; None for the default.

    Returns:
      The dataset's id.

    Raises:
      DataError: if the source is neither a file nor a task, belongs to another
        task, cannot be downloaded, or is not a valid DSRL file. No incomplete
        dataset remains.
    """
    path, task = _resolve(source, task)
    name = "dsrl-v0" if path is None else f"dsrl-{sha256(path)[:8]}-v0"
    dataset_id = dataset_id or f"proco/{slug(task.name)}/{name}"
    check_dataset_id(dataset_id)
    final = root / dataset_id
    with locked(final.with_name(f".{final.name}.lock"), log):
        if (metadata := read_metadata(root, dataset_id)) is not None:
            _check_same(metadata, dataset_id, path, task)
            log(f"found dataset {dataset_id}")
            return dataset_id
        if path is not None:
            _convert(path, path.name, task, root, dataset_id, log)
        else:
            _download_and_convert(endpoint, task, root, dataset_id, log)
    return dataset_id


def read_dsrl(path: Path, task: Task) -> Iterator[Episode]:
    """Yields the checked episodes of a DSRL file.

    Raises:
      DataError: if the file is damaged or not a DSRL file of the task.
    """
    with open_hdf5(path, AGAIN) as file:
        arrays = _arrays(file, path)
        bounds = _bounds(arrays, task, path)
        for index, (start, end) in enumerate(bounds):
            where = f"{path.name}, episode {index} of {len(bounds)}"
            with damage_explained(where, AGAIN):
                episode = _episode(arrays, start, end, where)
            check_sizes(episode, task.spec.size, task.action_size, where)
            yield episode


def task_of_file(path: Path) -> Task | None:
    """The task in a file name such as `SafetyCarButton1Gymnasium-v0-250-2656.hdf5`."""
    match = re.match(r"(Safety\w+?Gymnasium-v\d+)", path.name)
    try:
        return get_task(match[1]) if match else None
    except ValueError:
        return None


def _resolve(source: str, task: Task | None) -> tuple[Path | None, Task]:
    """The file (None for one to download) and its task."""
    path = Path(source).expanduser()
    if path.is_file():
        named = task_of_file(path)
    elif path.suffix in (".hdf5", ".h5") or "/" in source:
        raise DataError(f"no file {path}; check the path, or give the name of a task")
    else:
        try:
            path, named = None, get_task(source)
        except ValueError as error:
            raise DataError(f"dsrl:{source} is neither a file nor a task: {error}") from error
    if named and task and named.name != task.name:
        raise DataError(f"dsrl:{source} is of the task {named.name}, but the run is of {task.name}")
    if (found := task or named) is None:
        raise DataError(f"{path.name if path else source} does not name its task; give --task=NAME")
    return path, found


def _check_same(metadata: dict[str, Any], dataset_id: str, path: Path | None, task: Task) -> None:
    """Refuses a dataset with that id that was made from another file."""
    recipe = (metadata.get(DETAILS) or {}).get("recipe") or {}
    if path is None:
        same = recipe.get("file") == task.dsrl_file
    else:
        same = recipe.get("sha256") == sha256(path)
    if not same:
        raise DataError(
            f"the dataset {dataset_id} exists and was not made from {path or task.dsrl_file}; "
            "remove it or choose another --dataset_id"
        )


def _download_and_convert(
    endpoint: str | None, task: Task, root: Path, dataset_id: str, log: Callable[[str], None]
) -> None:
    """Removes the download after its conversion, or if it is damaged."""
    final = root / dataset_id
    folder = final.with_name(f".{final.name}.download")
    file = download(task.dsrl_file, folder, log, endpoint)
    try:
        _convert(file, task.dsrl_file, task, root, dataset_id, log)
    except DamagedFile:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _convert(
    path: Path, name: str, task: Task, root: Path, dataset_id: str, log: Callable[[str], None]
) -> None:
    log(f"converting {name} to dataset {dataset_id}")
    origin = Origin(
        task=task.name,
        env_id=task.env_id,
        spec=task.spec,
        source="dsrl",
        recipe={"file": name, "bytes": path.stat().st_size, "sha256": sha256(path)},
        algorithm="DSRL",
        description=f"DSRL's logs of {task.name}, converted from {name}.",
        versions={"h5py": importlib.metadata.version("h5py")},
    )
    write_dataset(root, dataset_id, read_dsrl(path, task), None, origin)


def _arrays(file: Any, path: Path) -> dict[str, Any]:
    """The arrays by name, checked and not read yet."""
    missing = sorted(set(KEYS) - set(names(file)), key=KEYS.index)
    if missing:
        found = ", ".join(names(file)) or "none"
        raise DataError(
            f"{path.name}: missing {', '.join(missing)}; a DSRL file has the arrays "
            f"{', '.join(KEYS)}, found {found}"
        )
    arrays = {key: find_array(file, key, path.name) for key in KEYS}
    lengths = {key: array.shape[0] if array.shape else 0 for key, array in arrays.items()}
    if len(set(lengths.values())) > 1 or not lengths["rewards"]:
        listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise DataError(
            f"{path.name}: all arrays must have the same length above 0, found {listed}"
        )
    return arrays


def _bounds(arrays: dict[str, Any], task: Task, path: Path) -> list[tuple[int, int]]:
    """Start and end of every episode; steps after the last marked end are an episode too."""
    terminals, timeouts = (
        to_flags(np.ravel(arrays[key][:]), f"{path.name}: {key}")
        for key in ("terminals", "timeouts")
    )
    over = terminals | timeouts
    ends = np.unique([*(np.flatnonzero(over) + 1), over.size]).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    longest = int((ends - starts).max())
    if longest > task.episode_steps:
        raise DataError(
            f"{path.name}: an episode has {longest} steps, but {task.name} ends after "
            f"{task.episode_steps}; are `timeouts` missing?"
        )
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _episode(arrays: dict[str, Any], start: int, end: int, where: str) -> Episode:
    obs, following = arrays["observations"][start:end], arrays["next_observations"][start:end]
    if obs.ndim != 2 or following.shape != obs.shape:
        raise DataError(
            f"{where}: observations {obs.shape} and next_observations {following.shape} must "
            "have the same shape [steps, size]"
        )
    with np.errstate(invalid="ignore"):  # `to_episode` reports values that are not finite.
        gap = np.abs(following[:-1].astype(np.float64) - obs[1:])
    apart = gap.max(axis=1, initial=0.0) > CLOSE
    if apart.any():
        step = int(np.argmax(apart))
        raise DataError(
            f"{where}: after {int(apart.sum())} of its {end - start} steps, first after step "
            f"{step}, the next observation differs from that of the following step; is the end "
            "of an episode missing in `terminals` and `timeouts`?"
        )
    terminals = np.asarray(arrays["terminals"][start:end], bool).ravel()
    timeouts = np.asarray(arrays["timeouts"][start:end], bool).ravel()
    raw = {
        "observations": np.concatenate([obs, following[-1:]]),
        "actions": arrays["actions"][start:end],
        "rewards": np.ravel(arrays["rewards"][start:end]),
        "cost": np.ravel(arrays["costs"][start:end]),
        "terminations": terminals & ~timeouts,
        "truncations": timeouts,
    }
    return to_episode(raw, where)
