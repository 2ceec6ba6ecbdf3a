"""Whole episodes from a vector environment, for collection and evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from proco_jax.envs.vector import StepResult, VectorEnv
from proco_jax.types import Episode

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]


def run_episodes(
    env: VectorEnv,
    act: Act,
    seeds: Sequence[int],
    on_episode: Callable[[int, Episode], None] | None = None,
) -> list[Episode]:
    """Runs one episode for each seed, as many at once as there are worlds.

    A world whose episode ends starts the next pending seed at once. As far as
    `act` treats each row by itself, the episodes do not depend on how many
    worlds there are.

    Args:
      env: the worlds; any state that they are in is dropped.
      act: `act(obs [N, O], seeds [N], steps [N]) -> actions [N, A]`, called once
        for each step of the batch; `steps` counts from 0. Rows of worlds with
        nothing left to do repeat their last observation; what is returned for
        them is ignored.
      seeds: seeds of the episodes.
      on_episode: called with the place in `seeds` and the episode, as each ends.

    Returns:
      The episodes in the order of `seeds`.

    Raises:
      ValueError: if `act` returns a wrong shape or numbers that are not finite.
    """
    episodes: dict[int, Episode] = {}
    worlds = _Worlds(env, seeds)
    worlds.start(range(min(env.num_envs, len(seeds))))
    while worlds.busy.any():
        actions = np.asarray(act(worlds.obs, worlds.seed, worlds.step), np.float32)
        result = env.step(worlds.record_actions(actions))
        worlds.record_result(result)
        ended = np.flatnonzero(worlds.busy & (result.terminated | result.truncated))
        for world in ended:
            place, episode = worlds.finish(int(world))
            episodes[place] = episode
            if on_episode is not None:
                on_episode(place, episode)
        worlds.start(ended)
    return [episodes[place] for place in range(len(seeds))]


class _Worlds:
    """Which episode each world is in, and what it has recorded.

    Recordings are `[N, T, ...]`: one write for each step of the whole batch.
    """

    def __init__(self, env: VectorEnv, seeds: Sequence[int]) -> None:
        n, size, steps = env.num_envs, env.task.spec.size, env.task.episode_steps
        self._env, self._seeds, self._pending = env, seeds, iter(range(len(seeds)))
        self._begun = 0
        self.busy = np.zeros(n, bool)
        self.seed = np.zeros(n, np.int64)
        self.step = np.zeros(n, np.int64)
        self.obs = np.zeros((n, size), np.float32)
        self._place = np.zeros(n, np.int64)
        self._row = np.arange(n)
        self._obs = np.zeros((n, steps + 1, size), np.float32)
        self._action = np.zeros((n, steps, env.task.action_size), np.float32)
        self._reward = np.zeros((n, steps), np.float32)
        self._cost = np.zeros((n, steps), np.float32)
        self._terminated = np.zeros(n, bool)

    def start(self, worlds: Sequence[int] | range | np.ndarray) -> None:
        """Starts pending episodes in these free worlds, as far as there are any."""
        pairs = list(zip([int(w) for w in worlds], self._pending, strict=False))
        if not pairs:
            return
        rows, places = [w for w, _ in pairs], [p for _, p in pairs]
        seeds = [int(self._seeds[p]) for p in places]
        self.obs[rows] = self._env.reset(seeds, rows)
        self._obs[rows, 0] = self.obs[rows]
        self.busy[rows], self.step[rows] = True, 0
        self.seed[rows], self._place[rows] = seeds, places
        self._begun += len(rows)
        coming = self._seeds[self._begun : self._begun + len(self.busy)]
        self._env.prepare([int(seed) for seed in coming])

    def record_actions(self, actions: np.ndarray) -> np.ndarray:
        """Keeps the actions; those of idle worlds are replaced by zeros."""
        expected = (len(self.busy), self._action.shape[-1])
        if actions.shape != expected:
            raise ValueError(f"expected act to return actions {expected}, found {actions.shape}")
        actions = np.where(self.busy[:, None], actions, np.float32(0))
        rows = self._row[self.busy]
        self._action[rows, self.step[rows]] = actions[rows]
        return actions

    def record_result(self, result: StepResult) -> None:
        rows = self._row[self.busy]
        steps = self.step[rows]
        self._reward[rows, steps] = result.reward[rows]
        self._cost[rows, steps] = result.cost[rows]
        self._obs[rows, steps + 1] = result.obs[rows]
        self._terminated[rows] = result.terminated[rows]
        self.obs[rows] = result.obs[rows]
        self.step[rows] += 1

    def finish(self, world: int) -> tuple[int, Episode]:
        """Takes the episode out of a world, which is then free."""
        self.busy[world] = False
        steps = int(self.step[world])
        episode = Episode(
            obs=self._obs[world, : steps + 1].copy(),
            action=self._action[world, :steps].copy(),
            reward=self._reward[world, :steps].copy(),
            cost=self._cost[world, :steps].copy(),
            terminated=bool(self._terminated[world]),
        )
        return int(self._place[world]), episode
