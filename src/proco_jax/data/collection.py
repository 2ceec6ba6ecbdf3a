"""Collects episodes of lidar controllers or trained policies: seeded, parallel, and resumable."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proco_jax.common.files import locked
from proco_jax.common.progress import Advance, progress
from proco_jax.config.schema import (
    COLLECTION_SEED_SPAN,
    FIRST_COLLECTION_SEED,
    LARGEST_COLLECTION,
    CollectConfig,
    Config,
    DataConfig,
)
from proco_jax.data.checks import DataError
from proco_jax.data.minari_store import DETAILS, check_dataset_id, dataset_root, read_metadata
from proco_jax.data.minari_writer import Origin, write_dataset
from proco_jax.data.partial import load_episode, missing_episodes, open_partial, save_episode
from proco_jax.envs.behavior_file import BehaviorPolicies, load_policies, shipped_policies
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.tasks import Task, get_task
from proco_jax.envs.vector import VectorEnv, available_cores, make_vector_env

# Incremented when the controllers or the seeding change, so that existing datasets keep their ids.
RECIPE_VERSION = 0
# With several worlds per core, a core rarely idles while one of its worlds is reset.
WORLDS_PER_CORE = 4
# Settings of the mixture of lidar controllers.
_CONTROLLERS = ("gains", "threshold", "speed", "noise")

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Simulation(NamedTuple):
    """Simulated worlds and the controller that acts in them.

    Attributes:
      make_env: makes the given number of worlds.
      act: maps `(obs [N, O], seeds [N], steps [N])` to actions `[N, A]`, each
        row independently of the others.
      worlds: number of worlds that run at once.
      versions: of the packages that determine the trajectories.
    """

    make_env: Callable[[int], VectorEnv]
    act: Act
    worlds: int
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings that determine the content of a collection.

    Attributes:
      task: name of the task.
      episodes: number of episodes.
      seed: of the collection.
      mixture: of the controllers or the policies, as in `CollectConfig`.
      version: of the controllers and the seeding.
      policies: digest of the file of trained policies; empty for the lidar controllers.
    """

    task: str
    episodes: int
    seed: int
    mixture: dict[str, list[float]]
    version: int = RECIPE_VERSION
    policies: str = ""

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain values, which a round trip through JSON does not change."""
        # Recipes of lidar controllers are older than policies.
        return {k: v for k, v in vars(self).items() if k != "policies" or v}


def make_recipe(task: Task, data: DataConfig) -> Recipe:
    """The recipe of a config.

    Raises:
      DataError: if the number of episodes or the seed is outside of the range of collections.
      FileNotFoundError: if there is no file of policies.
      ValueError: if that file cannot be used.
    """
    if not 1 <= data.episodes <= COLLECTION_SEED_SPAN:
        raise DataError(f"episodes: found {data.episodes}, expected 1 to {COLLECTION_SEED_SPAN:,}")
    if not 0 <= data.seed <= LARGEST_COLLECTION:
        raise DataError(
            f"seed of the collection: found {data.seed}, expected 0 to {LARGEST_COLLECTION:,}"
        )
    trained = data.collect.behavior == "policies"
    names = ("policy_noise",) if trained else _CONTROLLERS
    mixture = {k: [float(x) for x in getattr(data.collect, k)] for k in names}
    policies = policies_of(task, data).header["digest"] if trained else ""
    return Recipe(task.name, data.episodes, data.seed, mixture, policies=policies)


def policies_of(task: Task, data: DataConfig) -> BehaviorPolicies:
    """The trained policies that a config names.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file cannot be used.
    """
    named = data.collect.policies
    return load_policies(Path(named) if named else shipped_policies(task), task)


def recipe_id(recipe: Recipe) -> str:
    """The id of a recipe's dataset: `controller-v0` with the settings that are not defaults.

    That of trained policies is `policy-<digest>-v0`, with the first digits of their file's digest.
    """
    defaults = make_recipe(get_task(recipe.task), DataConfig())
    parts = ["controller"]
    if recipe.policies:
        noise = [float(x) for x in CollectConfig().policy_noise]
        defaults = dataclasses.replace(defaults, mixture={"policy_noise": noise})
        parts = ["policy", recipe.policies[:8]]
    if recipe.episodes != defaults.episodes:
        parts.append(f"n{recipe.episodes}")
    if recipe.seed != defaults.seed:
        parts.append(f"s{recipe.seed}")
    if recipe.mixture != defaults.mixture:
        text = json.dumps(recipe.mixture, sort_keys=True)
        parts.append(f"mix{hashlib.sha256(text.encode()).hexdigest()[:8]}")
    return f"proco/{slug(recipe.task)}/{'-'.join(parts)}-v{recipe.version}"


def episode_seeds(recipe: Recipe) -> list[int]:
    """The seed of each episode, for its reset and its controller."""
    first = FIRST_COLLECTION_SEED + COLLECTION_SEED_SPAN * recipe.seed
    return list(range(first, first + recipe.episodes))


def slug(task_name: str) -> str:
    """`SafetyCarButton1` as `safety-car-button1`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", task_name).lower()


def collect(
    config: Config,
    log: Callable[[str], None] = print,
    dataset_id: str = "",
    simulation: Simulation | None = None,
) -> str:
    """Finds the Minari dataset of a config's collection, or records it.

    Each finished episode is saved at once, so an interrupted collection resumes.
    The dataset is written atomically at the end. Its content depends on the
    recipe only, not on the number of workers or on interruptions.

    Args:
      config: task, environment and data.
      log: takes lines of text for the user.
      dataset_id: empty for `recipe_id`.
      simulation: None for the simulator, with the lidar controllers or policies of the config.

    Returns:
      The dataset's id.

    Raises:
      FileNotFoundError: if there is no file of policies.
      ValueError: on an unknown task, or one without a controller, or on policies of no use.
      DataError: if the id belongs to a dataset with another recipe.
    """
    task = get_task(config.task)
    recipe = make_recipe(task, config.data)
    dataset_id = dataset_id or recipe_id(recipe)
    check_dataset_id(dataset_id)
    root = dataset_root(config.data.root)
    final = root / dataset_id
    with locked(lock_of(final), log):
        if _found(root, dataset_id, recipe):
            log(f"found dataset {dataset_id} under {root}")
            return dataset_id
        simulation = simulation or simulation_of(task, config)
        log(f"collecting dataset {dataset_id} under {root}: {recipe.episodes} episodes")
        folder = final.with_name(f".{final.name}.partial")
        header = {"recipe": recipe.to_json(), "versions": simulation.versions}
        open_partial(folder, header, log)
        _record_missing(folder, recipe, simulation, log)
        episodes = (load_episode(folder, i) for i in range(recipe.episodes))
        origin = _origin(task, recipe, simulation.versions)
        write_dataset(root, dataset_id, episodes, episode_seeds(recipe), origin)
        shutil.rmtree(folder)
    return dataset_id


def lock_of(dataset: Path) -> Path:
    """The lock that is held while the dataset in a folder is made."""
    return dataset.with_name(f".{dataset.name}.lock")


def simulation_of(task: Task, config: Config) -> Simulation:
    """The simulator with the mixture of lidar controllers or of trained policies.

    Raises:
      FileNotFoundError: if there is no file of policies.
      ValueError: if there is no controller for the task, or the file cannot be used.
    """
    from proco_jax.envs.simulator import simulator_versions

    env = config.env
    return Simulation(
        make_env=lambda worlds: make_vector_env(task, worlds, env.backend, env.workers),
        act=_mixture(task, config.data),
        worlds=WORLDS_PER_CORE * (env.workers or available_cores()),
        versions={**simulator_versions(), "backend": env.backend},
    )


def _mixture(task: Task, data: DataConfig) -> Act:
    from proco_jax.envs.behavior_mixture import recorded_mixture
    from proco_jax.envs.controllers import ControllerMixture

    if data.collect.behavior == "policies":
        return recorded_mixture(task, policies_of(task, data), data.collect)
    return ControllerMixture(task, data.collect)


def _record_missing(
    folder: Path, recipe: Recipe, simulation: Simulation, log: Callable[[str], None]
) -> None:
    """Records the missing episodes and saves each at its end."""
    missing = missing_episodes(folder, recipe.episodes)
    if not missing:
        return
    done = recipe.episodes - len(missing)
    if done:
        log(f"resuming: {done} of {recipe.episodes} episodes are recorded")
    seeds = episode_seeds(recipe)
    env = simulation.make_env(min(simulation.worlds, len(missing)))
    steps = env.task.episode_steps
    try:
        with progress("collecting", recipe.episodes * steps, log, done * steps) as advance:
            run_episodes(
                env,
                _counted(simulation.act, advance),
                [seeds[i] for i in missing],
                lambda index, episode: save_episode(folder, missing[index], episode),
            )
        if env.physics_failures:
            log(f"{env.physics_failures} episodes ended early because the physics became unstable")
    finally:
        env.close()


def _counted(act: Act, advance: Advance) -> Act:
    """`act`, which also reports to `advance` how many worlds take a step."""
    last = (np.zeros(0, int), np.zeros(0, int))

    def counting(obs: np.ndarray, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
        nonlocal last
        # An idle world keeps its seed and step.
        same = len(seeds) == len(last[0]) and (seeds == last[0]) & (steps == last[1])
        advance(len(seeds) - int(np.sum(same)))
        last = (seeds.copy(), steps.copy())
        return act(obs, seeds, steps)

    return counting


def _origin(task: Task, recipe: Recipe, versions: dict[str, str]) -> Origin:
    who = (
        "lidar controllers whose avoidance gain, threshold, speed and noise are drawn anew for "
        "each episode"
    )
    if recipe.policies:
        who = (
            "trained policies whose progress in training, price of a violation and noise are drawn "
            "anew for each episode"
        )
    return Origin(
        task=task.name,
        env_id=task.env_id,
        spec=task.spec,
        source="collect",
        recipe=recipe.to_json(),
        algorithm="trained policies" if recipe.policies else "lidar controllers",
        description=f"{recipe.episodes} episodes of {task.name} by {who}.",
        versions=versions,
    )


def _found(root: Path, dataset_id: str, recipe: Recipe) -> bool:
    metadata = read_metadata(root, dataset_id)
    if metadata is None:
        return False
    stored = (metadata.get(DETAILS) or {}).get("recipe") or {}
    wanted = recipe.to_json()
    if stored != wanted:
        names = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
        lines = ", ".join(f"{n}: found {stored.get(n)}, expected {wanted.get(n)}" for n in names)
        raise DataError(
            f"the dataset {dataset_id} under {root} has another recipe ({lines}); remove it, or "
            "choose another --dataset_id or --config.data.root"
        )
    return True
