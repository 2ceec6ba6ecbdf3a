"""Worlds behind Gymnasium's vector interface."""

from collections.abc import Iterator

import numpy as np
import pytest

from proco_jax.envs.gymnasium_vector import GymnasiumVectorEnv
from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import make_vector_env

HOPPER = get_task("HopperVelocity")


@pytest.fixture
def env() -> Iterator[GymnasiumVectorEnv]:
    env = GymnasiumVectorEnv(make_vector_env(HOPPER, 3, "batched", workers=1))
    yield env
    env.close()


def test_spaces_hold_what_comes_out(env: GymnasiumVectorEnv) -> None:
    obs, infos = env.reset(seed=4)
    assert env.observation_space.contains(obs) and infos == {}
    assert env.single_action_space.shape == (3,) and env.action_space.shape == (3, 3)


def test_a_step_is_that_of_the_worlds(env: GymnasiumVectorEnv) -> None:
    plain = make_vector_env(HOPPER, 3, "batched", workers=1)
    np.testing.assert_array_equal(env.reset(seed=4)[0], plain.reset([4, 5, 6]))
    actions = env.action_space.sample()
    obs, reward, terminated, truncated, infos = env.step(actions)
    expected = plain.step(actions)
    for found, wanted in zip(
        (obs, reward, infos["cost"], terminated, truncated), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    plain.close()


def test_a_world_begins_again_and_shows_its_last_observation(env: GymnasiumVectorEnv) -> None:
    env.reset(seed=4)
    plain = make_vector_env(HOPPER, 3, "batched", workers=1)
    plain.reset([4, 5, 6])
    for _ in range(100):
        obs, _, terminated, truncated, infos = env.step(np.ones((3, 3), np.float32))
        expected = plain.step(np.ones((3, 3)))
        if terminated.any():
            break
    world = int(np.argmax(terminated))
    assert infos["_final_observation"][world] and not truncated[world]
    np.testing.assert_array_equal(infos["final_observation"][world], expected.obs[world])
    assert not np.array_equal(obs[world], expected.obs[world])
    assert abs(obs[world, 0] - 1.25) < 0.01  # it stands again
    plain.close()


def test_the_same_seed_gives_the_same_later_episodes(env: GymnasiumVectorEnv) -> None:
    runs = []
    for _ in range(2):
        env.reset(seed=9)
        runs.append([env.step(np.ones((3, 3), np.float32))[0].copy() for _ in range(60)])
    np.testing.assert_array_equal(*runs)
