"""Whole episodes from a vector environment: the one runner of collection and evaluation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from proco_jax.envs.vector import StepResult, VectorEnv
from proco_jax.types import Episode

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]


class Observed(NamedTuple):
    """What is known in N worlds before a step.

    Attributes:
      obs: `[N, O]` float32, raw.
      reward: `[N]` of the last step, 0 at the start of an episode.
      cost: `[N]` of the last step.
      action: `[N, A]` executed in it.
      seeds: `[N]` int32, seeds of the episodes.
      steps: `[N]` int32, steps taken in them.
      active: `[N]` bool, whether the world is within an episode. Other rows repeat the last
        observation of their last episode, and actions for them are ignored.
    """

    obs: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    action: np.ndarray
    seeds: np.ndarray
    steps: np.ndarray
    active: np.ndarray


def run_episodes(
    env: VectorEnv,
    act: Act,
    seeds: Sequence[int],
    on_episode: Callable[[int, Episode], None] | None = None,
) -> list[Episode]:
    """Runs one episode per seed, as many at once as there are worlds.

    Args:
      env: the worlds; their current states are discarded.
      act: (obs `[N, O]`, seeds `[N]`, steps `[N]`) to actions `[N, A]`, called once per step of the
        batch. If it treats each row independently, the episodes do not depend on N.
      seeds: of the episodes.
      on_episode: called with the index in `seeds` and the episode, as each ends.

    Returns:
      The episodes in the order of `seeds`.

    Raises:
      ValueError: if `act` returns actions of the wrong shape, or that are not finite.
    """
    report = None if on_episode is None else lambda group, index, e: on_episode(index, e)
    return run_grouped_episodes(
        env, lambda o: act(o.obs, o.seeds, o.steps), [seeds], on_episode=report
    )[0]


def run_grouped_episodes(
    env: VectorEnv,
    act: Callable[[Observed], Any],
    seeds: Sequence[Sequence[int]],
    *,
    on_episode: Callable[[int, int, Episode], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[list[Episode]]:
    """Runs the episodes of several groups, each in an equal share of the worlds.

    World `g * n + j` always belongs to group g, which has n worlds. A world whose episode ends
    starts the next pending episode of its group.

    Args:
      env: the worlds; their number is a multiple of the number of groups.
      act: what is known to actions `[N, A]`.
      seeds: `[G][E]`, of the episodes of each group.
      on_episode: called with the group, the index in its seeds, and the episode, as each ends.
      advance: called with the number of steps done, including those that an early termination
        makes unnecessary.

    Returns:
      `[G][E]` episodes, in the order of `seeds`.

    Raises:
      ValueError: as `run_episodes`, or if the worlds cannot be shared evenly.
    """
    if not seeds or env.num_envs % len(seeds):
        raise ValueError(f"{env.num_envs} worlds cannot be shared evenly by {len(seeds)} groups")
    found: list[dict[int, Episode]] = [{} for _ in seeds]
    worlds = _Worlds(env, seeds)
    worlds.start(np.arange(env.num_envs))
    while worlds.active.any():
        actions = np.asarray(act(worlds.observed()), np.float32)
        result = env.step(worlds.record_actions(actions))
        done = int(worlds.active.sum())
        worlds.record_result(result)
        ended = np.flatnonzero(worlds.active & (result.terminated | result.truncated))
        for world in ended:
            group, index, episode = worlds.finish(int(world))
            found[group][index] = episode
            done += env.task.episode_steps - len(episode.reward)
            if on_episode is not None:
                on_episode(group, index, episode)
        worlds.start(ended)
        if advance is not None:
            advance(done)
    return [[own[i] for i in range(len(own))] for own in found]


class _Worlds:
    """The episode of each world and its record so far.

    Records are `[N, T, ...]`: one write per step of the whole batch.

    Attributes:
      active: `[N]` bool, whether a world is within an episode.
    """

    def __init__(self, env: VectorEnv, seeds: Sequence[Sequence[int]]) -> None:
        n, size, steps = env.num_envs, env.task.spec.size, env.task.episode_steps
        self._env, self._seeds = env, seeds
        self._share = n // len(seeds)
        self._pending = [iter(range(len(own))) for own in seeds]
        self._begun = [0] * len(seeds)
        self.active = np.zeros(n, bool)
        self._seed, self._step, self._index = np.zeros((3, n), np.int32)
        self._row = np.arange(n)
        self._now = np.zeros((n, size), np.float32)
        self._obs = np.zeros((n, steps + 1, size), np.float32)
        self._action = np.zeros((n, steps, env.task.action_size), np.float32)
        self._reward, self._cost = np.zeros((2, n, steps), np.float32)
        self._terminated = np.zeros(n, bool)
        self._prepare()

    def observed(self) -> Observed:
        """What is known in each world."""
        last, begun = np.maximum(self._step - 1, 0), self._step > 0
        return Observed(
            self._now,
            np.where(begun, self._reward[self._row, last], np.float32(0)),
            np.where(begun, self._cost[self._row, last], np.float32(0)),
            np.where(begun[:, None], self._action[self._row, last], np.float32(0)),
            self._seed,
            self._step,
            self.active,
        )

    def start(self, worlds: np.ndarray) -> None:
        """Starts pending episodes in these free worlds, as far as their groups have any."""
        taken = [(int(w), next(self._pending[w // self._share], None)) for w in worlds]
        pairs = [(w, i) for w, i in taken if i is not None]
        if not pairs:
            return
        rows, indices = [w for w, _ in pairs], [i for _, i in pairs]
        seeds = [int(self._seeds[w // self._share][i]) for w, i in pairs]
        self._now[rows] = self._env.reset(seeds, rows)
        self._obs[rows, 0] = self._now[rows]
        self.active[rows], self._step[rows] = True, 0
        self._seed[rows], self._index[rows] = seeds, indices
        for world in rows:
            self._begun[world // self._share] += 1
        self._prepare()

    def record_actions(self, actions: np.ndarray) -> np.ndarray:
        """Records the actions; those of inactive worlds are replaced by zeros."""
        expected = (len(self.active), self._action.shape[-1])
        if actions.shape != expected:
            raise ValueError(f"expected act to return actions {expected}, found {actions.shape}")
        actions = np.where(self.active[:, None], actions, np.float32(0))
        rows = self._row[self.active]
        self._action[rows, self._step[rows]] = actions[rows]
        return actions

    def record_result(self, result: StepResult) -> None:
        """Records what a step gave in the active worlds."""
        rows = self._row[self.active]
        steps = self._step[rows]
        self._reward[rows, steps] = result.reward[rows]
        self._cost[rows, steps] = result.cost[rows]
        self._obs[rows, steps + 1] = result.obs[rows]
        self._terminated[rows] = result.terminated[rows]
        self._now[rows] = result.obs[rows]
        self._step[rows] += 1

    def finish(self, world: int) -> tuple[int, int, Episode]:
        """Takes the episode out of a world, which is then free."""
        self.active[world] = False
        steps = int(self._step[world])
        episode = Episode(
            obs=self._obs[world, : steps + 1].copy(),
            action=self._action[world, :steps].copy(),
            reward=self._reward[world, :steps].copy(),
            cost=self._cost[world, :steps].copy(),
            terminated=bool(self._terminated[world]),
        )
        return world // self._share, int(self._index[world]), episode

    def _prepare(self) -> None:
        """Announces the seeds that come next."""
        share = self._share
        coming = [
            int(seed)
            for own, begun in zip(self._seeds, self._begun, strict=True)
            for seed in own[begun : begun + share]
        ]
        self._env.prepare(coming)
