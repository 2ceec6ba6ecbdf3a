"""Reads and checks Minari datasets on disk."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from proco_jax.common.files import write_text
from proco_jax.data.checks import DataError, to_episode
from proco_jax.observation import ObservationSpec
from proco_jax.types import Episode

# Key of this package's entries in Minari's metadata.
DETAILS = "proco"


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
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the metadata {path} is damaged ({error}); {_again(path)}") from error


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
    episodes = [
        to_episode(_with_cost(raw, where), where)
        for where, raw in _raw_episodes(root / dataset_id / "data", dataset_id, metadata)
    ]
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


def check_dataset_id(dataset_id: str) -> None:
    """Checks that an id has the form that Minari accepts.

    Raises:
      DataError: if it does not.
    """
    quiet_minari()
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"malformed dataset id {dataset_id!r}, expected namespace/name-v0, "
            "of letters, digits, - and _"
        ) from error


def quiet_minari() -> None:
    """Imports Minari without the notices that one of its dependencies prints."""
    import farama_notifications

    farama_notifications.notifications.pop("gymnasium_robotics", None)
    import minari  # noqa: F401


def _raw_episodes(
    path: Path, dataset_id: str, metadata: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each episode as Minari returns it, with a name for errors."""
    quiet_minari()
    from minari.dataset.minari_storage import MinariStorage

    count = int(metadata.get("total_episodes", 0))
    storage: MinariStorage | None = None
    for index in range(count):
        where = f"{dataset_id}, episode {index} of {count}"
        try:
            storage = storage or MinariStorage.read(path)
            raw = next(iter(storage.get_episodes([index])))
        except KeyError as error:
            raise DataError(f"{where}: a key is missing: {error}") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{where}: the file is damaged or truncated ({error}); {_again(path)}"
            ) from error
        yield where, raw


def _with_cost(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    infos = raw.get("infos") or {}
    if "cost" not in infos:
        found = ", ".join(sorted(infos)) or "none"
        raise DataError(
            f"{where}: no cost: expected infos['cost'], one number per step; found the infos "
            f"{found}. Store the cost of every step when you make the dataset"
        )
    for key in ("observations", "actions"):
        if isinstance(raw[key], (dict, tuple)):
            raise DataError(
                f"{where}: {key} are a {type(raw[key]).__name__} of parts, expected one flat "
                "array; flatten the space before recording (gymnasium.wrappers.FlattenObservation)"
            )
    return {**raw, "cost": infos["cost"]}


def _again(path: Path) -> str:
    return f"remove {path.parent} and make, import or download it again"
