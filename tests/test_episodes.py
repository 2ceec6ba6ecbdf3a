"""Whole episodes, on a toy environment whose every number is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import StepResult, check_actions, check_reset

TASK = get_task("PointGoal1")


class ToyEnv:
    """The state is `seed + sum of actions`; an episode lasts `3 + seed % 4` steps.

    Odd seeds terminate, even ones run into their time limit.
    """

    def __init__(self, num_envs):
        self.task, self.num_envs, self.physics_failures = TASK, num_envs, 0
        self.state = np.zeros(num_envs)
        self.seed = np.zeros(num_envs, int)
        self.left = np.zeros(num_envs, int)
        self.steps_taken = 0

    def _obs(self):
        return np.repeat(self.state[:, None], TASK.spec.size, axis=1).astype(np.float32)

    def reset(self, seeds, worlds=None):
        rows = check_reset(seeds, worlds, self.num_envs)
        assert not self.left[rows].any(), "a running episode was cut off"
        self.state[rows], self.seed[rows] = seeds, seeds
        self.left[rows] = 3 + np.asarray(seeds) % 4
        return self._obs()[rows]

    def prepare(self, seeds: Sequence[int]) -> None:
        self.prepared = list(seeds)

    def step(self, actions):
        actions = check_actions(actions, self.num_envs, 2)
        self.steps_taken += 1
        running = self.left > 0
        self.state += running * actions[:, 0]
        self.left -= running
        over = running & (self.left == 0)
        terminated = over & (self.seed % 2 == 1)
        truncated = (over & ~terminated) | ~running
        zero_or = running.astype(np.float32)
        return StepResult(
            self._obs(), zero_or * actions[:, 1], zero_or * self.seed, terminated, truncated
        )

    def close(self):
        pass


def act(obs, seeds, steps):
    """A per-row function of all three arguments."""
    return np.stack([obs[:, 0] * 0.1 + steps, seeds * 0.01 + steps], axis=1)


def test_episodes_are_recorded_in_the_order_of_their_seeds():
    seeds = [7, 2, 4, 9, 1]
    episodes = run_episodes(ToyEnv(2), act, seeds)
    for seed, episode in zip(seeds, episodes, strict=True):
        steps = 3 + seed % 4
        assert episode.action.shape == (steps, 2)
        assert episode.obs.shape == (steps + 1, TASK.spec.size)
        assert episode.obs[0, 0] == seed
        np.testing.assert_allclose(np.diff(episode.obs[:, 0]), episode.action[:, 0], rtol=1e-5)
        np.testing.assert_allclose(episode.reward, seed * 0.01 + np.arange(steps), rtol=1e-6)
        np.testing.assert_array_equal(episode.cost, seed)
        assert episode.terminated == (seed % 2 == 1)


def test_episodes_do_not_depend_on_the_number_of_worlds():
    seeds = list(range(11))
    alone = run_episodes(ToyEnv(1), act, seeds)
    for num_envs in (3, 11, 16):
        for one, other in zip(alone, run_episodes(ToyEnv(num_envs), act, seeds), strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)


def test_free_worlds_start_the_next_seed_at_once():
    env = ToyEnv(2)
    run_episodes(env, act, [0, 0, 0, 0])
    assert env.steps_taken == 6, "four episodes of three steps in two worlds"


def test_each_episode_is_reported_once_as_it_ends():
    reported = []
    seeds = [3, 0, 1]
    episodes = run_episodes(ToyEnv(3), act, seeds, lambda place, e: reported.append((place, e)))
    assert [place for place, _ in reported] == [1, 2, 0], "shortest first"
    assert all(episodes[place] is episode for place, episode in reported)


def test_no_seeds_give_no_episodes():
    assert run_episodes(ToyEnv(2), act, []) == []


def test_a_wrong_action_shape_is_refused():
    with pytest.raises(ValueError, match=r"actions \(2, 2\), found \(2, 3\)"):
        run_episodes(ToyEnv(2), lambda obs, seeds, steps: np.zeros((2, 3)), [0, 1])


def test_an_action_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="world 0 is not finite"):
        run_episodes(ToyEnv(2), lambda obs, seeds, steps: np.full((2, 2), np.nan), [0, 1])


def test_seeds_and_worlds_must_match():
    with pytest.raises(ValueError, match="one seed for each distinct world"):
        check_reset([1, 2], [0], 4)
    with pytest.raises(ValueError, match="one seed for each distinct world"):
        check_reset([1, 2], [3, 3], 4)
    with pytest.raises(ValueError, match="worlds are 0 to 3"):
        check_reset([1], [4], 4)
    with pytest.raises(ValueError, match="seeds are 0"):
        check_reset([-1], [0], 4)
