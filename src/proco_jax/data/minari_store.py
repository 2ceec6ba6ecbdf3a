"""Reads and checks Minari datasets on disk.

The files may come from anyone. Minari's own reader builds the environment that the metadata name,
which runs whatever code they point at, and follows links of HDF5 into other files. Here the arrays
are read without Minari, after the checks of `hdf5_checks`, and nothing is ever built from metadata.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from proco_jax.common.files import write_text
from proco_jax.data.checks import DataError, to_episode
from proco_jax.data.hdf5_checks import (
    damage_explained,
    find_array,
    find_group,
    names,
    open_hdf5,
)
from proco_jax.data.manifest import update_manifest
from proco_jax.observation import ObservationSpec
from proco_jax.types import Episode

# Key of this package's entries in Minari's metadata.
DETAILS = "proco"
ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


class Stored(NamedTuple):
    """A dataset in memory.

    Attributes:
      dataset_id: Minari's id.
      episodes: all of them, in order.
      metadata: Minari's, with entries under `proco` if this package wrote the dataset.
    """

    dataset_id: str
    episodes: list[Episode]
    metadata: dict[str, Any]

    @property
    def details(self) -> dict[str, Any]:
        """The entries of this package; empty if another program wrote the dataset."""
        return self.metadata.get(DETAILS) or {}


def dataset_root(root: str) -> Path:
    """The folder of datasets: `root`, or Minari's default if it is empty."""
    default = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    return Path(root or default).expanduser()


def list_datasets(root: Path) -> list[str]:
    """The ids of the complete datasets under a root."""
    found = root.glob("**/data/metadata.json")
    ids = (path.parent.parent.relative_to(root) for path in found)
    return sorted(i.as_posix() for i in ids if not any(p.startswith(".") for p in i.parts))


def read_metadata(root: Path, dataset_id: str) -> dict[str, Any] | None:
    """The metadata of a dataset; None if there is no such dataset.

    Raises:
      DataError: if the metadata cannot be read.
    """
    path = root / dataset_id / "data" / "metadata.json"
    if not path.exists():
        return None
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(metadata, dict):
            raise TypeError(f"found a {type(metadata).__name__}, expected an object")
        _check_details(metadata)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"the metadata {path} is damaged ({error}); {_again(path.parent)}"
        ) from error
    return metadata


def read_dataset(root: Path, dataset_id: str) -> Stored:
    """Reads and checks a Minari dataset with costs in its infos.

    Raises:
      DataError: if there is no such dataset, a file is damaged, a key is
        missing, or an episode is malformed.
    """
    metadata = read_metadata(root, dataset_id)
    if metadata is None:
        known = ", ".join(list_datasets(root)) or "none"
        raise DataError(
            f"no Minari dataset {dataset_id!r} under {root} (found: {known}); check the id, "
            f"name another folder with --config.data.root, or fetch it with "
            f"`minari download {dataset_id}`"
        )
    folder = root / dataset_id / "data"
    kind = metadata.get("data_format", "hdf5")
    if kind != "hdf5":
        raise DataError(
            f"{dataset_id} is stored in the format {kind!r}, expected hdf5; convert it with Minari"
        )
    episodes = [
        to_episode(raw, where) for where, raw in _raw_episodes(folder, dataset_id, metadata)
    ]
    steps, stated = sum(len(e.reward) for e in episodes), metadata.get("total_steps")
    if stated is not None and stated != steps:
        raise DataError(
            f"{dataset_id}: found {steps:,} steps, but its metadata state {stated!r}; "
            f"{_again(folder)}"
        )
    return Stored(dataset_id, episodes, metadata)


def set_observation_spec(root: Path, dataset_id: str, spec: ObservationSpec) -> None:
    """Stores the description of the observations with an existing dataset.

    Raises:
      DataError: if there is no such dataset.
    """
    metadata = read_metadata(root, dataset_id)
    if metadata is None:
        raise DataError(f"no Minari dataset {dataset_id!r} under {root}")
    metadata[DETAILS] = {**(metadata.get(DETAILS) or {}), "observation": spec.to_json()}
    write_text(root / dataset_id / "data" / "metadata.json", json.dumps(metadata))
    update_manifest(root / dataset_id, "data/metadata.json")


def check_dataset_id(dataset_id: str) -> None:
    """Checks that an id has the form that Minari accepts.

    Raises:
      DataError: if it does not.
    """
    if not re.fullmatch(r"([-_\w][-_\w/]*[-_\w]/)?[-_\w]+-v\d+", dataset_id):
        raise DataError(
            f"malformed dataset id {dataset_id!r}, expected namespace/name-v0, "
            "of letters, digits, - and _"
        )


def _check_details(metadata: dict[str, Any]) -> None:
    """Checks the types of this package's entries; raises TypeError."""
    details = metadata.get(DETAILS)
    if not isinstance(details, dict | None):
        raise TypeError(f"{DETAILS}: found a {type(details).__name__}, expected an object")
    kinds = {"task": str, "env_id": str, "source": str, "observation": str}
    for name, kind in (kinds | {"recipe": dict, "versions": dict}).items():
        found = (details or {}).get(name)
        if not isinstance(found, kind | None):
            raise TypeError(f"{DETAILS}.{name}: found {found!r:.40}, expected {kind.__name__}")


def _raw_episodes(
    folder: Path, dataset_id: str, metadata: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The arrays of each episode, with a name for errors."""
    again = _again(folder)
    with open_hdf5(folder / "main_data.hdf5", again) as file:
        present = {name for name in names(file) if name.startswith("episode_")}
        count = metadata.get("total_episodes", len(present))
        if type(count) is not int or count < len(present):
            raise DataError(
                f"{dataset_id}: found {len(present)} episodes, but its metadata state {count!r}; "
                f"{again}"
            )
        for index in range(count):
            where = f"{dataset_id}, episode {index} of {count}"
            if f"episode_{index}" not in present:
                raise DataError(f"{where}: a key is missing: episode_{index}; {again}")
            with damage_explained(where, again):
                raw = _arrays(find_group(file, f"episode_{index}", where), where)
            yield where, raw


def _arrays(episode: Any, where: str) -> dict[str, Any]:
    """The arrays of an episode: all are checked before the first one is read."""
    infos: Any = {}
    if "infos" in names(episode):
        infos = find_group(episode, "infos", where)
    missing = [key for key in ARRAYS if key not in names(episode)]
    if missing:
        raise DataError(f"{where}: a key is missing: {', '.join(missing)}")
    if "cost" not in names(infos):
        found = ", ".join(names(infos)) or "none"
        raise DataError(
            f"{where}: no cost: expected infos['cost'], one number per step; found the infos "
            f"{found}. Store the cost of every step when you make the dataset"
        )
    for key in ("observations", "actions"):
        _check_flat(episode, key, where)
    arrays = {key: find_array(episode, key, where) for key in ARRAYS}
    arrays["cost"] = find_array(infos, "cost", where)
    return {key: array[()] for key, array in arrays.items()}


def _check_flat(episode: Any, key: str, where: str) -> None:
    """Refuses observations and actions of several parts."""
    try:
        parts = find_group(episode, key, where)
    except DataError:
        return  # An array, or something that `find_array` refuses.
    kind = "tuple" if all(name.startswith("_index_") for name in names(parts)) else "dict"
    raise DataError(
        f"{where}: {key} are a {kind} of parts, expected one flat array; flatten the space before "
        "recording (gymnasium.wrappers.FlattenObservation)"
    )


def _again(folder: Path) -> str:
    return f"remove {folder.parent} and make, import or download it again"
