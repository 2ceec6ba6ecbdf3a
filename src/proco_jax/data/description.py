"""The observation fields of a dataset: stored with it, or those of its task."""

import json

from proco_jax.config.schema import Config
from proco_jax.data.checks import DataError
from proco_jax.data.minari_store import Stored
from proco_jax.envs.tasks import TASKS, Task, get_task
from proco_jax.observation import ObservationSpec
from proco_jax.system.description import System, system_of


def find_task(name: str) -> Task | None:
    """The task of that name; None for an unknown one."""
    try:
        return get_task(name)
    except ValueError:
        return None


def find_run_task(config: Config) -> Task | None:
    """The task of a run, also of a system of the user's own; None for an unknown one."""
    system = system_of(config)
    return find_task(config.task) if system is None else system.task()


def describe(stored: Stored, task_name: str, system: System | None = None) -> ObservationSpec:
    """The fields of a dataset's observations.

    They are those of the run's own system; for a task, those stored with the dataset; without
    these, those of the task, unless the dataset states another task.

    Args:
      stored: the dataset, with at least one episode.
      task_name: the task of the run.
      system: of the run, if it is one of the user's own.

    Raises:
      DataError: if the dataset is of another task, its observations have
        another size, or neither the dataset nor the task describes them.
    """
    if system is not None:
        size = stored.episodes[0].obs.shape[1]
        _check_size(stored.dataset_id, size, system.observation, "the description")
        return system.observation
    task = find_task(task_name)
    _check_origin(stored, task_name, task)
    size = stored.episodes[0].obs.shape[1]
    text = stored.details.get("observation")
    if text is not None:
        try:
            spec = ObservationSpec.from_json(text)
        except ValueError as error:
            raise DataError(
                f"{stored.dataset_id}: its stored description cannot be read: {error}"
            ) from error
        _check_size(stored.dataset_id, size, spec, "its stored description")
        if task is not None:
            _check_size(stored.dataset_id, size, task.spec, f"the task {task.name}")
        return spec
    if task is None:
        raise DataError(
            f"{stored.dataset_id}: its {size} observation values have no description, and "
            f"{task_name!r:.60} is none of the known tasks ({', '.join(TASKS)}). Store a "
            "description with proco_jax.data.minari_store.set_observation_spec(root, dataset_id, "
            "spec)"
        )
    _check_size(stored.dataset_id, size, task.spec, f"the task {task.name}")
    return task.spec


def _check_origin(stored: Stored, task_name: str, task: Task | None) -> None:
    """Refuses a dataset that states another task."""
    origin = stored.details.get("task") or _env_id(stored)
    known = find_task(origin) if origin else None
    ours = task.name if task else task_name
    theirs = known.name if known else stored.details.get("task")
    if theirs and theirs != ours:
        raise DataError(
            f"{stored.dataset_id} is of the task {theirs}, but the run is of {ours}; "
            f"use --config.task={theirs} or another --config.data.source"
        )


def _env_id(stored: Stored) -> str:
    """The id of the environment that the metadata name; nothing is built from it."""
    try:
        found = json.loads(stored.metadata.get("env_spec") or "{}").get("id", "")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


def _check_size(dataset_id: str, size: int, spec: ObservationSpec, whose: str) -> None:
    if size != spec.size:
        fields = ", ".join(f"{f.name} {f.size}" for f in spec.fields)
        raise DataError(
            f"{dataset_id}: observations have {size} numbers, but {whose} has {spec.size} "
            f"({fields}). Select the task of the data, or store a description with "
            "proco_jax.data.minari_store.set_observation_spec(root, dataset_id, spec)"
        )
