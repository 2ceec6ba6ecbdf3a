"""The reward of approaching objects: found where it is one, and only there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.data.logs import to_dataset
from proco_jax.models import approach, object_map
from proco_jax.models.dynamics_targets import Targets
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Dataset, Episode

BINS = 16
SPEC = ObservationSpec(
    (
        Field("goal", BINS, "ring", "closeness", "The goal.", reach=3.0),
        Field("speed", 2, "flat", "m/s", "Speed."),
        Field("posts", BINS, "ring", "closeness", "Posts.", reach=5.0),
    )
)
NOTHING = jnp.zeros(1)
TARGETS = Targets(NOTHING, NOTHING, NOTHING, NOTHING, jnp.array([-0.1, 0.1]))
ALL = jnp.ones(2, bool)
fit = jax.jit(lambda resting, data, holdout: approach.fit(SPEC, TARGETS, resting, data, holdout))


def logs(seed: int) -> Dataset:
    """A goal and a post that come nearer and go; a meter nearer to the goal earns 2."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(4):
        distance = 1.5 + np.cumsum(rng.uniform(-0.04, 0.04, (51, 2)), axis=0)
        obs = np.zeros((51, SPEC.size), np.float32)
        obs[:, SPEC.slices["goal"].start + 2] = 1.0 - distance[:, 0] / 3.0
        obs[:, SPEC.slices["posts"].start + 5] = 1.0 - distance[:, 1] / 5.0
        reward = 2.0 * (distance[:-1, 0] - distance[1:, 0])
        nothing = np.zeros(50, np.float32)
        episodes.append(
            Episode(obs, np.zeros((50, 1), np.float32), reward.astype(np.float32), nothing, False)
        )
    return jax.tree.map(jnp.asarray, to_dataset(episodes))


def test_a_reward_of_approach_is_found() -> None:
    np.testing.assert_allclose(fit(ALL, logs(0), logs(1)), [2.0, 0.0], atol=0.01)


def test_a_bonus_and_a_goal_that_jumps_do_not_matter() -> None:
    data = logs(0)
    reward, obs = np.array(data.reward), np.array(data.obs)
    reward[::10] += 5.0
    # After half of each episode the goal is 0.6 m nearer.
    half = np.arange(len(obs)) % 51 > 25
    obs[half, SPEC.slices["goal"].start + 2] += 0.2
    other = dataclasses.replace(data, reward=jnp.asarray(reward), obs=jnp.asarray(obs))
    np.testing.assert_allclose(fit(ALL, other, other), [2.0, 0.0], atol=0.01)


def test_where_the_object_is_not_seen_the_reward_does_not_count() -> None:
    """Nor do a few outliers decide: 2% of the reward's variance is left unexplained."""
    data = logs(0)
    obs = np.array(data.obs)
    hidden = np.arange(len(obs)) % 51 > 30
    obs[hidden, SPEC.slices["goal"]] = 0.0
    noise = np.random.default_rng(7).normal(0, 0.14 * np.std(data.reward), len(data.reward))
    reward = jnp.asarray(np.asarray(data.reward) + noise, jnp.float32)
    other = dataclasses.replace(data, reward=reward, obs=jnp.asarray(obs))
    np.testing.assert_allclose(fit(ALL, other, other), [2.0, 0.0], atol=0.05)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_reward_of_something_else_is_not_explained(share: float) -> None:
    def other(data: Dataset, seed: int) -> Dataset:
        noise = np.random.default_rng(seed).uniform(-0.05, 0.05, len(data.reward))
        reward = share * np.asarray(data.reward) + noise
        return dataclasses.replace(data, reward=jnp.asarray(reward, jnp.float32))

    np.testing.assert_array_equal(fit(ALL, other(logs(0), 5), other(logs(1), 6)), 0.0)


def test_rings_whose_objects_have_no_place_explain_nothing() -> None:
    np.testing.assert_array_equal(fit(jnp.array([False, True]), logs(0), logs(1)), 0.0)


def test_constant_rewards_and_observations_without_rings_are_left_to_the_network() -> None:
    data = logs(0)
    still = dataclasses.replace(data, reward=jnp.zeros_like(data.reward))
    np.testing.assert_array_equal(fit(ALL, still, still), 0.0)
    flat = ObservationSpec((Field("speed", 2, "flat", "m/s", "Speed."),))
    weights = approach.fit(flat, TARGETS, jnp.zeros(1, bool), data, data)
    assert weights.shape == (1,) and weights[0] == 0.0


def test_driving_away_costs_even_beyond_the_reach_of_the_ring() -> None:
    obs = np.zeros(SPEC.size, np.float32)
    obs[SPEC.slices["goal"].start] = 1.0 - 2.8 / 3.0
    state, weights = object_map.begin(SPEC, jnp.asarray(obs)), jnp.array([2.0, 0.0])
    away = jnp.array([-0.3, 0.0, 0.0])
    for _ in range(2):
        places = object_map.moved(SPEC, state, away)
        after = object_map.state_of(SPEC, ALL, jnp.zeros(SPEC.size), places)
        found = float(approach.reward(SPEC, weights, state, after))
        assert found == pytest.approx(-2.0 * 0.3, abs=0.02)
        state = after
    assert object_map.observation(SPEC, state)[SPEC.slices["goal"]].max() == 0.0
