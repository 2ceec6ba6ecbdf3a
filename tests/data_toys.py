"""Small logs and a toy simulation for the tests of `proco_jax.data`."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from proco_jax.data.collection import Simulation
from proco_jax.data.minari_writer import Origin
from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import StepResult
from proco_jax.types import Episode

STEPS = 12
TASK = dataclasses.replace(get_task("SafetyPointGoal1"), episode_steps=STEPS)
ORIGIN = Origin(TASK.name, TASK.env_id, TASK.spec, "collect", {"toy": 1}, "toy", "A toy.", {})


def make_episode(seed: int = 0, steps: int = STEPS, cost: float = 0.0, size: int = 60) -> Episode:
    """An episode of noise whose cost, if any, is paid at its last step."""
    rng = np.random.default_rng(seed)
    costs = np.zeros(steps, np.float32)
    costs[-1] = cost
    return Episode(
        obs=rng.normal(size=(steps + 1, size)).astype(np.float32),
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps).astype(np.float32),
        cost=costs,
        terminated=False,
    )


def same_episodes(left: Sequence[Episode], right: Sequence[Episode]) -> bool:
    """Whether two lists of episodes are equal bit for bit."""
    return len(left) == len(right) and all(
        np.array_equal(x, y)
        for a, b in zip(left, right, strict=True)
        for x, y in zip(a, b, strict=True)
    )


class ToyEnv:
    """Worlds whose next observation follows from the seed, the step and the action."""

    def __init__(self, num_envs: int, on_step: Callable[[], None] = lambda: None) -> None:
        self.task = TASK
        self.num_envs = num_envs
        self.physics_failures = 0
        self.closed = False
        self._on_step = on_step
        self._seed = np.zeros(num_envs, int)
        self._step = np.full(num_envs, STEPS)
        self._obs = np.zeros((num_envs, TASK.spec.size), np.float32)

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> np.ndarray:
        rows = list(range(self.num_envs) if worlds is None else worlds)
        self._seed[rows], self._step[rows] = list(seeds), 0
        self._obs[rows] = np.sin(self._seed[rows, None] + np.arange(TASK.spec.size))
        return self._obs[rows].copy()

    def prepare(self, seeds: Sequence[int]) -> None:
        self.prepared = list(seeds)

    def step(self, actions: np.ndarray) -> StepResult:
        self._on_step()
        over = self._step >= STEPS
        self._step += ~over
        moved = np.cos(self._obs + self._step[:, None] + actions[:, :1]).astype(np.float32)
        self._obs = np.where(over[:, None], self._obs, moved)
        # Every third seed violates.
        cost = np.where(~over & (self._seed % 3 == 0), 1.0, 0.0).astype(np.float32)
        reward = np.where(over, 0.0, self._obs[:, 0]).astype(np.float32)
        return StepResult(
            self._obs.copy(), reward, cost, np.zeros(self.num_envs, bool), self._step >= STEPS
        )

    def close(self) -> None:
        self.closed = True


def toy_act(obs: np.ndarray, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Actions that depend on every argument, row by row."""
    return np.tanh(np.stack([obs[:, 0] + steps, np.sin(seeds)], axis=1)).astype(np.float32)


def toy_simulation(worlds: int = 3, on_step: Callable[[], None] = lambda: None) -> Simulation:
    """A simulation without a simulator."""
    return Simulation(
        make_env=lambda count: ToyEnv(count, on_step),
        act=toy_act,
        worlds=worlds,
        versions={"toy": "1"},
    )
