"""Recording episodes of the lidar controllers: seeded, parallel, continued after a kill."""

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
from proco_jax.config.schema import Config, DataConfig
from proco_jax.data.checks import DataError
from proco_jax.data.minari_store import DETAILS, check_dataset_id, dataset_root, read_metadata
from proco_jax.data.minari_writer import Origin, write_dataset
from proco_jax.data.partial import load_episode, missing_episodes, open_partial, save_episode
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.tasks import Task, get_task
from proco_jax.envs.vector import VectorEnv, available_cores, make_vector_env

# Raised when the controllers or the seeding change, so that old data keep their own ids.
RECIPE = 0
# Collections draw seeds from here on, evaluations below, so that they never share one.
FIRST_SEED = 10_000_000
SEED_SPAN = 100_000

# Enough that the worlds of a core seldom wait for each other's resets.
WORLDS_PER_CORE = 4

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Simulation(NamedTuple):
    """Where episodes come from.

    Attributes:
      make_env: worlds of the task, of that number.
      act: `(obs [N, O], seeds [N], steps [N])` to actions `[N, A]`; a function
        of each row alone.
      worlds: how many run at once.
      versions: of whatever decides the numbers.
    """

    make_env: Callable[[int], VectorEnv]
    act: Act
    worlds: int
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the content of a collection.

    Attributes:
      task: the task's name.
      episodes: how many.
      seed: of the collection.
      mixture: of the controllers, as in `CollectConfig`.
      version: of controllers and seeding.
    """

    task: str
    episodes: int
    seed: int
    mixture: dict[str, list[float]]
    version: int = RECIPE

    def to_json(self) -> dict[str, Any]:
        """Plain values, equal after a round trip through JSON."""
        return dataclasses.asdict(self)


def make_recipe(task: Task, data: DataConfig) -> Recipe:
    """The recipe of a config.

    Raises:
      DataError: if episodes or seed lie outside what seeds are reserved for.
    """
    if not 1 <= data.episodes <= SEED_SPAN:
        raise DataError(f"episodes: found {data.episodes}, expected 1 to {SEED_SPAN:,}")
    if not 0 <= data.seed < (2**31 - FIRST_SEED) // SEED_SPAN:
        limit = (2**31 - FIRST_SEED) // SEED_SPAN
        raise DataError(f"seed of the collection: found {data.seed}, expected 0 to {limit - 1:,}")
    mixture = {k: [float(x) for x in v] for k, v in dataclasses.asdict(data.collect).items()}
    return Recipe(task.name, data.episodes, data.seed, mixture)


def recipe_id(recipe: Recipe) -> str:
    """The id of a recipe's dataset: `controller-v0`, plus whatever isn't the default."""
    defaults = make_recipe(get_task(recipe.task), DataConfig())
    parts = ["controller"]
    if recipe.episodes != defaults.episodes:
        parts.append(f"n{recipe.episodes}")
    if recipe.seed != defaults.seed:
        parts.append(f"s{recipe.seed}")
    if recipe.mixture != defaults.mixture:
        text = json.dumps(recipe.mixture, sort_keys=True)
        parts.append(f"mix{hashlib.sha256(text.encode()).hexdigest()[:8]}")
    return f"proco/{slug(recipe.task)}/{'-'.join(parts)}-v{recipe.version}"


def episode_seeds(recipe: Recipe) -> list[int]:
    """The seed of each episode's reset and controller."""
    first = FIRST_SEED + SEED_SPAN * recipe.seed
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
    """The Minari dataset of a config's collection; recorded if there is none yet.

    Each finished episode is kept at once, so a collection that was killed
    continues; the dataset appears whole. Content depends on the recipe only,
    not on workers or on where it was interrupted.

    Args:
      config: task, environment and data.
      log: takes lines for the user.
      dataset_id: empty for the recipe's own.
      simulation: worlds and who acts in them; None for the simulator and the
        lidar controllers.

    Returns:
      The dataset's id.

    Raises:
      ValueError: on an unknown task, or one without a controller.
      DataError: if the id belongs to a dataset of another recipe.
    """
    task = get_task(config.task)
    recipe = make_recipe(task, config.data)
    dataset_id = dataset_id or recipe_id(recipe)
    check_dataset_id(dataset_id)
    root = dataset_root(config.data.root)
    final = root / dataset_id
    with locked(final.with_name(f".{final.name}.lock"), log):
        if _found(root, dataset_id, recipe):
            log(f"found dataset {dataset_id} under {root}")
            return dataset_id
        simulation = simulation or lidar_controllers(task, config)
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


def lidar_controllers(task: Task, config: Config) -> Simulation:
    """The simulator's worlds, and the mixture of controllers that acts in them.

    Raises:
      ValueError: if there is no controller for the task.
    """
    from proco_jax.envs.controllers import ControllerMixture
    from proco_jax.envs.simulator import simulator_versions

    env = config.env
    return Simulation(
        make_env=lambda worlds: make_vector_env(task, worlds, env.backend, env.workers),
        act=ControllerMixture(task, config.data.collect),
        worlds=WORLDS_PER_CORE * (env.workers or available_cores()),
        versions={**simulator_versions(), "backend": env.backend},
    )


def _record_missing(
    folder: Path, recipe: Recipe, simulation: Simulation, log: Callable[[str], None]
) -> None:
    """Records every episode that is not in the folder yet, each saved as it ends."""
    missing = missing_episodes(folder, recipe.episodes)
    if not missing:
        return
    done = recipe.episodes - len(missing)
    if done:
        log(f"continuing: {done} of {recipe.episodes} episodes are recorded")
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
            log(f"{env.physics_failures} episodes ended early because the physics broke down")
    finally:
        env.close()


def _counted(act: Act, advance: Advance) -> Act:
    """The same actions, telling how many worlds take a step with them."""
    last = (np.zeros(0, int), np.zeros(0, int))

    def counting(obs: np.ndarray, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
        nonlocal last
        # A world with nothing left to do stays at its seed and step.
        same = len(seeds) == len(last[0]) and (seeds == last[0]) & (steps == last[1])
        advance(len(seeds) - int(np.sum(same)))
        last = (seeds.copy(), steps.copy())
        return act(obs, seeds, steps)

    return counting


def _origin(task: Task, recipe: Recipe, versions: dict[str, str]) -> Origin:
    return Origin(
        task=task.name,
        env_id=task.env_id,
        spec=task.spec,
        source="collect",
        recipe=recipe.to_json(),
        algorithm="lidar controllers",
        description=(
            f"{recipe.episodes} episodes of {task.name} by lidar controllers whose avoidance "
            "gain, threshold, speed and noise are drawn anew for each episode."
        ),
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
        lines = ", ".join(f"{n}: {stored.get(n)} there, {wanted.get(n)} now" for n in names)
        raise DataError(
            f"the dataset {dataset_id} under {root} was made otherwise ({lines}); remove it, or "
            "choose another --dataset_id or --config.data.root"
        )
    return True
