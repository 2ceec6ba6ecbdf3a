"""Logged states restored in the simulator and continued with other actions."""

import numpy as np
import pytest

from proco_jax.diagnostics import simulator_truth
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.controllers import ControllerMixture, default_collect
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.tasks import get_task

TASK = get_task("PointGoal1")
# The gain of the first is 0: it heads straight for the goal and violates.
SEEDS = [10_000_002, 10_000_006]


@pytest.fixture(scope="module")
def env():
    with BatchedEnv(TASK, 3, workers=1) as worlds:
        yield worlds


@pytest.fixture(scope="module")
def logs(env):
    episodes = run_episodes(env, ControllerMixture(TASK, default_collect(TASK)), SEEDS)
    return dict(zip(SEEDS, episodes, strict=True))


def held(action):
    return lambda obs, step: np.tile(np.float32(action), (len(obs), 1))


def test_restored_states_equal_the_logged_ones_and_repeat_the_log(env, logs):
    wanted = [(SEEDS[0], 0), (SEEDS[0], 400), (SEEDS[1], 7)]
    saved = simulator_truth.restore(env, logs, wanted)
    assert sorted(saved) == [(SEEDS[0], 0), (SEEDS[0], 400), (SEEDS[1], 7)]
    starts = [saved[at] for at in sorted(saved)]
    plans = np.stack([logs[s].action[t : t + 30] for s, t in sorted(saved)])
    found = simulator_truth.follow(env, starts, plans)
    for (seed, t), obs, unsafe in zip(sorted(saved), found.obs, found.unsafe, strict=True):
        np.testing.assert_array_equal(obs, logs[seed].obs[t : t + 31])
        np.testing.assert_array_equal(unsafe, logs[seed].cost[t : t + 30] > 0)


def test_snapshots_within_trajectories_continue_them_bit_for_bit(env, logs):
    saved = simulator_truth.restore(env, logs, [(SEEDS[0], 50), (SEEDS[1], 90)])
    starts = [saved[SEEDS[i % 2], (50, 90)[i % 2]] for i in range(7)]
    plans = np.random.default_rng(0).uniform(-1, 1, (7, 12, 2)).astype(np.float32)
    at = np.array([0, 11, 3, 4, 5, 6, 7])
    whole = simulator_truth.follow(env, starts, plans, save_at=at)
    assert len(whole.amid) == 7
    for i, step in enumerate(at):
        rest = simulator_truth.follow(env, [whole.amid[i]], plans[i : i + 1, step:])
        np.testing.assert_array_equal(rest.obs[0], whole.obs[i, step:])


def test_logs_that_the_simulator_does_not_repeat_are_refused(env, logs):
    other = logs[SEEDS[1]]._replace(action=-logs[SEEDS[1]].action)
    with pytest.raises(ValueError, match="only episodes of the embedded collection"):
        simulator_truth.restore(env, {SEEDS[1]: other}, [(SEEDS[1], 300)])


def test_a_state_is_infeasible_only_if_every_attempt_violates(env, logs):
    costs = [(seed, logs[seed].cost) for seed in SEEDS if logs[seed].cost.any()]
    seed, cost = costs[0]
    first = int(np.argmax(cost > 0))
    at = max(first - 1, 0)
    saved = simulator_truth.restore(env, logs, [(seed, at)])
    start = saved[seed, at]
    into = [lambda obs, step: np.tile(logs[seed].action[at + step], (len(obs), 1))]
    assert simulator_truth.unavoidable(env, [start], into, 3).all()
    early = simulator_truth.restore(env, logs, [(seed, 0)])[seed, 0]
    stay = held([0.0, 0.0])
    np.testing.assert_array_equal(
        simulator_truth.unavoidable(env, [start, early], [*into, stay], 5)[1], False
    )


def test_attempts_have_the_requested_number_and_range(env, logs):
    ways = simulator_truth.attempts(env, [held([0.5, 0.5])] * 3, 40, seed=0)
    assert len(ways) == 40
    obs = logs[SEEDS[0]].obs[:4]
    actions = np.stack([way(obs, 9) for way in ways])
    assert actions.shape == (40, 4, 2) and np.abs(actions).max() <= 1.0
    # Braking, full controls and random ones differ from each other.
    assert len(np.unique(actions[:, 0].round(3), axis=0)) > 25
