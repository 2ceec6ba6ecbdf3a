"""Writes Minari datasets atomically."""

import contextlib
import dataclasses
import importlib.metadata
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import check_space, disk_full_explained, write_text
from proco_jax.data.checks import DataError
from proco_jax.data.manifest import write_manifest
from proco_jax.data.minari_store import DETAILS
from proco_jax.envs.simulator import import_mujoco
from proco_jax.observation import ObservationSpec
from proco_jax.types import Episode


@dataclasses.dataclass(frozen=True)
class Origin:
    """The provenance of a dataset, stored in its metadata.

    Attributes:
      task: the name of the task.
      env_id: the Gymnasium id of the environment.
      spec: the fields of an observation.
      source: `collect` or `dsrl`.
      recipe: settings that determine the content.
      algorithm: name of the policies that acted.
      description: one sentence.
      versions: of the packages that made the dataset.
    """

    task: str
    env_id: str
    spec: ObservationSpec
    source: str
    recipe: dict[str, Any]
    algorithm: str
    description: str
    versions: dict[str, str]


def write_dataset(
    root: Path,
    dataset_id: str,
    episodes: Iterable[Episode],
    seeds: list[int] | None,
    origin: Origin,
) -> None:
    """Writes a dataset with its manifest under a hidden name, then renames it.

    Args:
      root: the folder of datasets.
      dataset_id: Minari's id, which must not exist yet.
      episodes: consumed one at a time, so they need not fit into memory.
      seeds: of each episode's reset, if known.
      origin: provenance, stored under `proco` in the metadata.

    Raises:
      DataError: if the id is malformed or taken.
      OSError: if the files cannot be written.
    """
    final = root / dataset_id
    if final.exists():
        raise DataError(f"{final} exists already; remove it or choose another --dataset_id")
    building = final.with_name(f".{final.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        with disk_full_explained(final):
            _write_minari(building / "data", dataset_id, iter(episodes), seeds, origin)
            write_manifest(building)
        _name_parents(root, final.parent)
        building.rename(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_minari(
    path: Path,
    dataset_id: str,
    episodes: Iterator[Episode],
    seeds: list[int] | None,
    origin: Origin,
) -> None:
    _import_minari()
    from gymnasium.envs.registration import EnvSpec
    from gymnasium.spaces import Box
    from minari.dataset.minari_storage import MinariStorage

    first = next(episodes)
    size, action_size = first.obs.shape[1], first.action.shape[1]
    storage = MinariStorage.new(
        path,
        observation_space=Box(-np.inf, np.inf, (size,), np.float32),
        action_space=Box(-1.0, 1.0, (action_size,), np.float32),
        env_spec=EnvSpec(
            origin.env_id,
            "safety_gymnasium.wrappers.gymnasium_conversion:make_gymnasium_environment",
            kwargs={"env_id": origin.env_id},
        ),
    )
    storage.update_metadata(
        {
            "dataset_id": dataset_id,
            "minari_version": importlib.metadata.version("minari"),
            "algorithm_name": origin.algorithm,
            "author": {"proco-jax"},
            "description": origin.description,
            DETAILS: {
                "task": origin.task,
                "env_id": origin.env_id,
                "source": origin.source,
                "recipe": origin.recipe,
                "versions": origin.versions,
                "observation": origin.spec.to_json(),
            },
        }
    )
    storage.update_episodes(_buffers(path, first, episodes, seeds))


def _import_minari() -> None:
    """Imports Minari without the notices that one of its dependencies prints.

    It imports plugins of Gymnasium, and with them MuJoCo, which fails for some values of
    `MUJOCO_GL` unless it is imported with care before.
    """
    import farama_notifications

    with contextlib.suppress(ImportError):
        import_mujoco()
    farama_notifications.notifications.pop("gymnasium_robotics", None)
    import minari  # noqa: F401


def _buffers(
    path: Path, first: Episode, rest: Iterator[Episode], seeds: list[int] | None
) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    index = 0
    episode: Episode | None = first
    while episode is not None:
        # HDF5 may crash on a full disk, so space is checked before each episode.
        check_space(path, 2 * sum(np.asarray(x).nbytes for x in episode))
        steps = len(episode.reward)
        ends = np.arange(steps) == steps - 1
        yield EpisodeBuffer(
            id=index,
            seed=None if seeds is None else seeds[index],
            observations=episode.obs,  # type: ignore[arg-type]
            actions=episode.action,  # type: ignore[arg-type]
            rewards=episode.reward,  # type: ignore[arg-type]
            terminations=ends & episode.terminated,  # type: ignore[arg-type]
            truncations=ends & (not episode.terminated),  # type: ignore[arg-type]
            # Minari stores one more info than steps; the first belongs to the reset.
            infos={"cost": np.concatenate([np.zeros(1, np.float32), episode.cost])},
        )
        index += 1
        episode = next(rest, None)


def _name_parents(root: Path, folder: Path) -> None:
    """Marks the parent folders as namespaces, without which Minari does not list the dataset."""
    while folder != root:
        marker = folder / "namespace_metadata.json"
        if not marker.exists():
            write_text(marker, "{}")
        folder = folder.parent
