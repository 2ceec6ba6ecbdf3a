"""Reads and checks Minari datasets on disk.

The files may come from anyone. Minari's own reader builds the environment that the metadata name,
which runs whatever code they point at, and follows links of HDF5 into other files. Here the arrays
are read without Minari, after the checks of `hdf5_checks`, and nothing is ever built from metadata.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
# Key of the metadata, in memory, of a dataset that has no costs.
NO_COST = "no_cost"
ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


class Stored(NamedTuple):
    """A dataset in memory.

    Attributes:
      dataset_id: Minari's id.
      episodes: all of them, in order.
      metadata: Minari's, with entries under `proco` if this package wrote the dataset.
      unread_cost: for each episode, costs in the logs that none of its steps has; empty for none.
    """

    dataset_id: str
    episodes: list[Episode]
    metadata: dict[str, Any]
    unread_cost: Sequence[float] = ()

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


def read_dataset(
    root: Path, dataset_id: str, cost_key: str = "cost", cost_optional: bool = False
) -> Stored:
    """Reads and checks a Minari dataset with costs in its infos.

    Args:
      cost_key: entry of the infos with the cost of each step.
      cost_optional: whether costs are 0 where no episode has that entry.

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
            f"{dataset_id} is stored in the format {kind!r:.60}, expected hdf5; convert it "
            "with Minari"
        )
    episodes, costless = [], ""
    for where, raw in _raw_episodes(folder, dataset_id, metadata, cost_key):
        if "cost" not in raw:
            problem = _no_cost(where, cost_key, raw["infos"])
            if not cost_optional or (episodes and not costless):
                raise DataError(problem)
            costless = costless or problem
            raw["cost"] = np.zeros(np.shape(raw["rewards"])[:1], np.float32)
        elif costless:
            raise DataError(costless)
        episodes.append(to_episode(raw, where))
    if costless:
        metadata = {**metadata, NO_COST: True}
    steps, stated = sum(len(e.reward) for e in episodes), metadata.get("total_steps")
    if stated is not None and stated != steps:
        raise DataError(
            f"{dataset_id}: found {steps:,} steps, but its metadata state {stated!r:.60}; "
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
    folder: Path, dataset_id: str, metadata: dict[str, Any], cost_key: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The arrays of each episode, with a name for errors."""
    again = _again(folder)
    with open_hdf5(folder / "main_data.hdf5", again) as file:
        present = {name for name in names(file) if name.startswith("episode_")}
        count = metadata.get("total_episodes", len(present))
        if type(count) is not int or count < len(present):
            raise DataError(
                f"{dataset_id}: found {len(present)} episodes, but its metadata state "
                f"{count!r:.60}; {again}"
            )
        for index in range(count):
            where = f"{dataset_id}, episode {index} of {count}"
            if f"episode_{index}" not in present:
                raise DataError(f"{where}: a key is missing: episode_{index}; {again}")
            with damage_explained(where, again):
                raw = _arrays(find_group(file, f"episode_{index}", where), where, cost_key)
            yield where, raw


def _arrays(episode: Any, where: str, cost_key: str) -> dict[str, Any]:
    """The arrays of an episode: all are checked before the first one is read.

    `infos` are the names of its infos; `cost` is missing if they have no such entry.
    """
    infos: Any = {}
    if "infos" in names(episode):
        infos = find_group(episode, "infos", where)
    missing = [key for key in ARRAYS if key not in names(episode)]
    if missing:
        raise DataError(f"{where}: a key is missing: {', '.join(missing)}")
    for key in ("observations", "actions"):
        _check_flat(episode, key, where)
    arrays = {key: find_array(episode, key, where) for key in ARRAYS}
    if cost_key in names(infos):
        arrays["cost"] = find_array(infos, cost_key, where)
    return {key: array[()] for key, array in arrays.items()} | {"infos": list(names(infos))}


def _no_cost(where: str, cost_key: str, infos: list[str]) -> str:
    found = ", ".join(infos) or "none"
    return (
        f"{where}: no cost: expected infos[{cost_key!r}], one number per step; found the infos "
        f"{found}. Store the cost of every step when you make the dataset"
    )


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
