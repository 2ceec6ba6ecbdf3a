"""Episodes of the official environment, and their replay in batched worlds."""

import dataclasses
from typing import Any

import numpy as np

from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.controllers import steer
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import Task

TOLERANCE = 1e-6


@dataclasses.dataclass
class Reference:
    """An official episode of T steps, as far as it went.

    Attributes:
      first: `[O]` the first observation.
      action, obs, reward, cost, terminated, truncated: `[T, ...]`.
      events: how often each thing happened: goals, and steps with each cost.
    """

    task: Task
    seed: int
    first: np.ndarray
    action: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    events: dict[str, int]


def record(task: Task, seed: int, steps: int, fresh: bool = False) -> Reference:
    """Drives an official environment, careless of obstacles and noisy.

    `fresh` records the very first episode of an environment.
    """
    official = make_official(task)
    if not fresh:
        official.reset(seed=0)
    return drive(official, task, seed, steps)


def drive(official: Any, task: Task, seed: int, steps: int) -> Reference:
    """Records an episode of that environment."""
    obs, _ = official.reset(seed=seed)
    first, rows, events = np.asarray(obs, np.float32), [], {}
    driver = Driver(task, seed)
    for _ in range(steps):
        action = driver(np.asarray(obs, np.float32))
        obs, reward, terminated, truncated, info = official.step(action)
        cost = info["cost"]
        for name, value in info.items():
            if value and (name == "goal_met" or name.startswith("cost_")):
                events[name] = events.get(name, 0) + 1
        rows.append(
            (action, np.asarray(obs, np.float32), np.float32(reward), cost, terminated, truncated)
        )
        if terminated or truncated:
            break
    columns: Any = [np.array(column) for column in zip(*rows, strict=True)]
    return Reference(task, seed, first, *columns, events=events)


def mismatch(env: BatchedEnv, world: int, reference: Reference) -> str:
    """Replays an official episode in one world; others get other actions.

    Returns:
      What differed first, or an empty text.
    """
    other = [w for w in range(env.num_envs) if w != world]
    first = env.reset([reference.seed, *(reference.seed + w + 1 for w in other)], [world, *other])
    if not np.allclose(first[0], reference.first, rtol=TOLERANCE, atol=TOLERANCE):
        return f"first observation: {_largest(env.task, first[0], reference.first)}"
    for t, action in enumerate(reference.action):
        actions = np.stack([action if w == world else -action for w in range(env.num_envs)])
        result = env.step(actions)
        if not np.allclose(result.obs[world], reference.obs[t], rtol=TOLERANCE, atol=TOLERANCE):
            return f"step {t}: {_largest(env.task, result.obs[world], reference.obs[t])}"
        for name in ("reward", "cost", "terminated", "truncated"):
            found, expected = getattr(result, name)[world], getattr(reference, name)[t]
            if abs(float(found) - float(expected)) > TOLERANCE:
                return f"step {t}: {name} {found}, official {expected}"
    return ""


class Driver:
    """Actions that reach goals, buttons and obstacles; smooth noise for other robots."""

    def __init__(self, task: Task, seed: int):
        self._task = task
        self._random = np.random.default_rng(seed)
        self._noise = np.zeros(task.action_size)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        fresh = self._random.normal(size=self._task.action_size)
        self._noise = 0.9 * self._noise + 0.15 * fresh
        if self._task.kind == "Velocity":
            return np.clip(2 * self._noise, -1, 1).astype(np.float32)
        one = np.ones(1)
        drive = steer(self._task, obs[None], 0 * one, 0.5 * one, 0.7 * one)[0]
        # Beyond the limits now and then, where the simulator clips.
        return (drive + self._noise).astype(np.float32)


def _largest(task: Task, found: np.ndarray, expected: np.ndarray) -> str:
    at = int(np.argmax(np.abs(found - expected)))
    name = next(name for name, part in task.spec.slices.items() if part.start <= at < part.stop)
    return f"{name} {found[at]}, official {expected[at]}"
