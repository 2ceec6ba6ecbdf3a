"""Layouts prepared in the background are those of their seeds."""

import numpy as np

from proco_jax.envs.batched import layout_cache as batched_ahead
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.controllers import ControllerMixture, default_collect
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.tasks import get_task

TASK = get_task("PointButton1")


def test_a_prepared_episode_is_the_same_episode():
    seeds, actions = [3, 9], np.random.default_rng(0).uniform(-1, 1, (20, 2, 2))
    found = []
    for ahead in ((), (9, 3, 77)):
        with BatchedEnv(TASK, 2, workers=2) as env:
            env.prepare(ahead)
            rows = [env.reset(seeds)]
            rows += [env.step(a).obs for a in actions]
            # Started again, by another world, though it was taken before.
            rows.append(env.reset([9], [0]))
        found.append(np.concatenate(rows))
    np.testing.assert_array_equal(*found)


def test_running_episodes_draws_each_layout_once_and_the_later_ones_ahead(monkeypatch):
    drawn = []
    original = batched_ahead.draw

    def counted(plan, seed):
        drawn.append(seed)
        return original(plan, seed)

    monkeypatch.setattr(batched_ahead, "draw", counted)
    task = get_task("PointGoal1")
    with BatchedEnv(task, 2, workers=1) as env:
        run_episodes(env, ControllerMixture(task, default_collect(task)), [5, 6, 7, 8, 9])
        assert env._layouts is not None and not env._layouts._ahead  # nothing is to come
    assert sorted(drawn) == [5, 6, 7, 8, 9]


def test_closing_forgets_what_was_under_way():
    env = BatchedEnv(TASK, 1)
    env.prepare(range(50))
    env.close()
    env.prepare([1])
    env.close()
