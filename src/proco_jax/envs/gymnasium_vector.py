"""The worlds as a Gymnasium vector environment, for code that expects one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from proco_jax.envs.simulator import import_safety_gymnasium
from proco_jax.envs.vector import VectorEnv

# Importing Gymnasium loads its plugins; this import suppresses their output.
import_safety_gymnasium()

import gymnasium  # noqa: E402


class GymnasiumVectorEnv(gymnasium.vector.VectorEnv):
    """Worlds that reset themselves, after the conventions of Gymnasium 0.28.

    When an episode ends, `step` returns the first observation of the next one;
    the last of the old one is `infos["final_observation"][i]`, where
    `infos["_final_observation"]` holds. `infos["cost"]` is `[N]`. Seeds of later
    episodes are drawn from the seed given to `reset`.
    """

    def __init__(self, worlds: VectorEnv):
        """Wraps worlds, e.g. from `make_vector_env`; `close` closes them too."""
        task = worlds.task
        super().__init__(
            worlds.num_envs,
            gymnasium.spaces.Box(-np.inf, np.inf, (task.spec.size,), np.float32),
            gymnasium.spaces.Box(-1.0, 1.0, (task.action_size,), np.float32),
        )
        self._worlds = worlds
        self._actions = np.zeros((worlds.num_envs, task.action_size), np.float32)
        self._seeds = np.random.default_rng()

    def reset_wait(
        self, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First observations `[N, O]` and an empty dictionary.

        Args:
          seed: world i starts with `seed + i`, or with `seed[i]`; None draws.
          options: ignored.
        """
        if seed is None:
            first: Sequence[int] = self._draw(self.num_envs)
        elif isinstance(seed, int):
            first = range(seed, seed + self.num_envs)
        else:
            first = seed
        self._seeds = np.random.default_rng([int(s) for s in first])
        return self._worlds.reset(first), {}

    def step_async(self, actions: np.ndarray) -> None:
        """Stores the `[N, A]` actions for `step_wait`."""
        self._actions = np.asarray(actions)

    def step_wait(
        self, **kwargs: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations, rewards, terminations, truncations and infos of a step."""
        result = self._worlds.step(self._actions)
        infos: dict[str, Any] = {"cost": result.cost}
        ended = result.terminated | result.truncated
        obs = result.obs
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            for world in np.flatnonzero(ended):
                final[world] = result.obs[world].copy()
            infos |= {"final_observation": final, "_final_observation": ended}
            again = np.flatnonzero(ended).tolist()
            obs[again] = self._worlds.reset(self._draw(len(again)), again)
        return obs, result.reward, result.terminated, result.truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the worlds."""
        self._worlds.close()

    def _draw(self, count: int) -> list[int]:
        return self._seeds.integers(0, 2**32, count).tolist()
