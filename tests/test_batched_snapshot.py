"""A world put back amid an episode goes on to the same numbers."""

import numpy as np
import pytest

from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.controllers import ControllerMixture, default_collect
from proco_jax.envs.tasks import get_task

BEFORE, AFTER, SEED = 120, 80, 31


def play(env, act, seeds, steps):
    """Plays so many controlled steps from the first."""
    obs = env.reset(seeds)
    for t in range(steps):
        obs = env.step(act(obs, np.asarray(seeds), np.full(len(seeds), t))).obs


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    (
        "PointGoal1",
        "CarGoal2",
        "PointButton1",
        "CarButton2",
        "PointPush2",
        "CarPush1",
        "PointCircle1",
        "CarCircle2",
    ),
)
def test_the_same_actions_lead_from_a_snapshot_to_the_same_numbers(name):
    task = get_task(name)
    rng = np.random.default_rng(0)
    act = ControllerMixture(task, default_collect(task))
    seeds = [SEED, SEED + 1]
    with BatchedEnv(task, 2, workers=1) as env:
        play(env, act, seeds, BEFORE)
        saved = env.save([0, 1])
        actions = rng.uniform(-1, 1, (AFTER, 2, task.action_size))
        first = [env.step(a) for a in actions]
        # Into the same worlds, later.
        env.load(saved, [0, 1])
        again = [env.step(a) for a in actions]
    with BatchedEnv(task, 3, workers=2) as other:
        # Into other worlds, which played something else, and in another order.
        other.reset([7, 8, 9])
        other.step(rng.uniform(-1, 1, (3, task.action_size)))
        other.load(saved[::-1], [0, 2])
        spread = np.zeros((AFTER, 3, task.action_size))
        spread[:, 0], spread[:, 2] = actions[:, 1], actions[:, 0]
        third = [other.step(a) for a in spread]
    for a, b, c in zip(first, again, third, strict=True):
        for x, y, z in zip(a, b, c, strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(x, z[[2, 0]])


def test_an_episode_restored_ends_when_it_would_have():
    task = get_task("PointGoal1")
    with BatchedEnv(task, 1, workers=1) as env:
        env.reset([SEED])
        for _ in range(task.episode_steps - 2):
            env.step(np.zeros((1, 2)))
        saved = env.save([0])
        env.reset([SEED + 1])
        env.load(saved, [0])
        assert not env.step(np.zeros((1, 2))).truncated[0]
        assert env.step(np.zeros((1, 2))).truncated[0]


def test_velocity_tasks_say_that_they_cannot():
    with BatchedEnv(get_task("HopperVelocity"), 1) as env:
        env.reset([0])
        with pytest.raises(NotImplementedError, match="HopperVelocity cannot be saved"):
            env.save([0])
