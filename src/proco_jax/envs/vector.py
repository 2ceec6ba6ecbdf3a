"""Many worlds of one task, stepped together: the protocol and a factory."""

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from proco_jax.config.schema import BACKENDS
from proco_jax.envs.tasks import Task


class StepResult(NamedTuple):
    """The result of a step of N worlds.

    Attributes:
      obs: `[N, O]` float32, the true next observation, also at an episode's end.
      reward: `[N]` float32.
      cost: `[N]` float32, the cost of `obs`.
      terminated: `[N]` bool, the episode truly ended.
      truncated: `[N]` bool, the time limit was reached.
    """

    obs: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class VectorEnv(Protocol):
    """N worlds of one task. A world whose episode is over waits for its reset.

    Attributes:
      task: the task.
      num_envs: N.
      physics_failures: episodes that unstable physics ended so far.
    """

    task: Task
    num_envs: int
    physics_failures: int

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> np.ndarray:
        """Starts the episodes of these seeds in the given worlds (all when None).

        Returns:
          `[len(seeds), O]` float32 first observations, in the order of the seeds.
        """
        ...

    def prepare(self, seeds: Sequence[int]) -> None:
        """Announces the seeds of coming resets, so that their layouts are drawn in advance.

        Episodes do not depend on it. Seeds announced earlier are forgotten.
        """
        ...

    def step(self, actions: np.ndarray) -> StepResult:
        """Steps every world by `[N, A]` actions.

        Worlds whose episode is over are masked: they return their last
        observation, reward 0, cost 0, truncated True, and their action is
        ignored. Unstable physics (a non-finite number or a MuJoCo warning) ends
        the episode: terminated, with the last observation, reward 0, cost 0.

        Raises:
          ValueError: on actions of a wrong shape or that are not finite.
        """
        ...

    def close(self) -> None:
        """Frees threads or processes; may be called twice."""
        ...


def make_vector_env(
    task: Task, num_envs: int, backend: str = "batched", workers: int = 0
) -> VectorEnv:
    """N worlds of a task.

    Args:
      task: from `proco_jax.envs.tasks`.
      num_envs: N, at least 1.
      backend: `batched` (threads of this process) or `official` (the original
        environments in worker processes).
      workers: threads or processes; 0 means one for each core.

    Raises:
      ValueError: on an unknown backend or a count that makes no sense.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}, expected one of {', '.join(BACKENDS)}")
    if num_envs < 1 or workers < 0:
        raise ValueError(
            f"expected at least 1 world and 0 or more workers, found num_envs={num_envs}, "
            f"workers={workers}"
        )
    workers = min(workers or available_cores(), num_envs)
    # Each backend is imported only when asked for: both bring the simulator.
    if backend == "batched":
        from proco_jax.envs.batched.env import BatchedEnv

        return BatchedEnv(task, num_envs, workers)
    from proco_jax.envs.official import OfficialEnv

    return OfficialEnv(task, num_envs, workers)


def check_actions(actions: np.ndarray, num_envs: int, action_size: int) -> np.ndarray:
    """Actions as `[N, A]` floats, before anything steps.

    Raises:
      ValueError: if the shape is wrong or a number is not finite; names the
        first such world.
    """
    actions = np.asarray(actions)
    if actions.shape != (num_envs, action_size):
        raise ValueError(f"expected actions [{num_envs}, {action_size}], found {actions.shape}")
    finite = np.isfinite(actions).all(axis=1)
    if not finite.all():
        world = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"the action of world {world} is not finite: {actions[world]}")
    return actions


def check_reset(seeds: Sequence[int], worlds: Sequence[int] | None, num_envs: int) -> np.ndarray:
    """The worlds to reset, as `[len(seeds)]` indices.

    Raises:
      ValueError: if there is not one seed for each distinct world, or a world
        or a seed is out of range.
    """
    chosen = np.arange(num_envs) if worlds is None else np.asarray(worlds, int)
    if len(seeds) != len(chosen) or len(set(chosen.tolist())) != len(chosen):
        raise ValueError(
            f"expected one seed for each distinct world, found {len(seeds)} seeds for worlds "
            f"{chosen.tolist()}"
        )
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < num_envs):
        raise ValueError(f"worlds are 0 to {num_envs - 1}, found {chosen.tolist()}")
    wrong = [seed for seed in seeds if not 0 <= seed < 2**32]
    if wrong:
        raise ValueError(f"seeds are 0 to 2^32 - 1, found {wrong[:3]}")
    return chosen


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
