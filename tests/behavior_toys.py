"""A world with a speed limit, in which behavior policies are learned in seconds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import StepResult
from proco_jax.observation import Field, ObservationSpec

STEPS = 40
LIMIT = 1.0
# Speed settles at 2 where the action stays 1, and at the limit where it stays 0.5.
TASK = dataclasses.replace(
    get_task("SafetyHalfCheetahVelocity"),
    episode_steps=STEPS,
    action_size=1,
    spec=ObservationSpec((Field("speed", 1, "flat", "m/s", "Speed."),)),
    reference_max=2.0 * STEPS,
)


class SpeedEnv:
    """N carts: the reward is the speed, a speed above the limit costs, and -1 is never left."""

    def __init__(self, num_envs: int) -> None:
        self.task, self.num_envs, self.physics_failures = TASK, num_envs, 0
        self._speed = np.zeros(num_envs, np.float32)
        self._step = np.full(num_envs, STEPS)

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> np.ndarray:
        rows = list(range(self.num_envs) if worlds is None else worlds)
        self._speed[rows] = [0.2 * np.sin(seed) for seed in seeds]
        self._step[rows] = 0
        return self._speed[rows, None].copy()

    def prepare(self, seeds: Sequence[int]) -> None:
        pass

    def step(self, actions: np.ndarray) -> StepResult:
        assert (np.abs(actions) <= 1.0).all()
        over = self._step >= STEPS
        moved = 0.8 * self._speed + 0.4 * actions[:, 0]
        self._speed = np.where(over, self._speed, moved).astype(np.float32)
        self._step += ~over
        reward = np.where(over, 0.0, self._speed).astype(np.float32)
        cost = ((self._speed > LIMIT) & ~over).astype(np.float32)
        ended = np.zeros(self.num_envs, bool)
        return StepResult(self._speed[:, None].copy(), reward, cost, ended, self._step >= STEPS)

    def close(self) -> None:
        pass
