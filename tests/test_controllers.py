"""Lidar controllers: geometry by hand, then whether they get anywhere."""

import numpy as np
import pytest

from proco_jax.config.schema import CollectConfig
from proco_jax.envs.controllers import (
    ControllerMixture,
    default_collect,
    draw_controller,
    draw_noise,
    steer,
)
from proco_jax.envs.simulator import make_official
from proco_jax.envs.targets import locate, wrong_buttons
from proco_jax.envs.tasks import TASKS, get_task

NAVIGATION = [task for task in TASKS.values() if task.kind != "Velocity"]
COLLECT = CollectConfig()


def ring(angle, distance, reach=3.0):
    """The simulator's lidar of one object, in its own words."""
    obs = np.zeros(16)
    place = angle % (2 * np.pi) / (2 * np.pi / 16)
    bin_index, alias = int(place), place - int(place)
    sensor = max(0.0, reach - distance) / reach
    obs[bin_index] = sensor
    obs[(bin_index + 1) % 16] = alias * sensor
    obs[(bin_index - 1) % 16] = (1 - alias) * sensor
    return obs


def observation(task, **lidars):
    obs = np.zeros((1, task.spec.size))
    for name, values in lidars.items():
        obs[0, task.spec.slices[name]] = values
    return obs


def steer_one(task, obs, gain=1.0):
    return steer(task, obs, np.array([gain]), np.array([0.6]), np.array([0.5]))[0]


@pytest.mark.parametrize("angle", np.linspace(-3.1, 3.1, 22))
def test_an_object_is_located_exactly(angle):
    place = locate(ring(angle, 1.3)[None], 3.0)[0]
    np.testing.assert_allclose(place, 1.3 * np.exp(1j * angle), atol=1e-9)


def test_an_object_out_of_reach_has_no_place():
    assert np.isnan(locate(np.zeros((1, 16)), 3.0)).all()


def test_the_goal_button_is_no_wrong_button():
    goal = ring(0.4, 1.0)
    np.testing.assert_array_equal(wrong_buttons(goal, goal), 0.0)
    both = np.maximum(goal, ring(2.0, 1.5))
    assert (wrong_buttons(both, goal) > 0).sum() == 3


def test_robots_turn_toward_the_goal():
    point, car = get_task("PointGoal1"), get_task("CarGoal1")
    left_of_point = observation(point, goal_lidar=ring(np.pi / 2, 1.0))
    force, turn = steer_one(point, left_of_point)
    assert turn > 0.5 and abs(force) < 0.1
    # A Car faces -y, so its left is +x.
    left, right = steer_one(car, observation(car, goal_lidar=ring(0.01, 1.0)))
    assert left > 0.5 and right < -0.5
    straight = steer_one(car, observation(car, goal_lidar=ring(-np.pi / 2, 1.0)))
    np.testing.assert_allclose(straight, [0.5, 0.5], atol=1e-6)


def test_a_hazard_ahead_matters_with_the_gain_only():
    task = get_task("PointGoal1")
    obs = observation(task, goal_lidar=ring(0.0, 2.0), hazards_lidar=ring(0.05, 0.4))
    careless, careful = steer_one(task, obs, gain=0.0), steer_one(task, obs, gain=2.0)
    assert careless[0] > 0.5 and abs(careless[1]) < 0.1
    assert careful[0] < 0, "it backs out"


def test_a_robot_gets_off_a_pressed_button():
    task = get_task("CarButton1")
    obs = observation(task, goal_lidar=ring(-np.pi / 2, 1.0))
    assert (steer_one(task, obs, gain=1.0) < 0).all()


@pytest.mark.parametrize("task", NAVIGATION, ids=lambda task: task.name)
def test_rows_do_not_know_of_each_other(task):
    rng = np.random.default_rng(0)
    obs = rng.uniform(0, 1, (5, task.spec.size)).astype(np.float32)
    seeds, steps = np.array([4, 1, 9, 1, 0]), np.array([0, 5, 30, 7, 499])
    batch = ControllerMixture(task, COLLECT)(obs, seeds, steps)
    assert batch.shape == (5, 2) and batch.dtype == np.float32
    assert np.abs(batch).max() <= 1.0 and np.isfinite(batch).all()
    alone = ControllerMixture(task, COLLECT)
    for i in (2, 0, 4, 1, 3):
        row = slice(i, i + 1)
        np.testing.assert_allclose(alone(obs[row], seeds[row], steps[row]), batch[row], atol=1e-6)


def test_characters_come_from_the_mixture_and_differ():
    task = get_task("CarButton1")
    drawn = [draw_controller(task, COLLECT, seed) for seed in range(200)]
    assert draw_controller(task, COLLECT, 3) == drawn[3]
    assert {c.gain for c in drawn[:6]} == set(COLLECT.gains)
    for name in ("threshold", "speed", "noise"):
        low, high = getattr(COLLECT, name)
        values = np.array([getattr(c, name) for c in drawn])
        assert low <= values.min() < values.max() <= high
        assert values.std() > 0.2 * (high - low)
    assert 0.0 in default_collect(task).gains


def test_noise_has_the_scale_and_correlation_that_it_says():
    task = get_task("PointGoal1")
    tracks = []
    for seed in range(40):
        controller = draw_controller(task, COLLECT, seed)
        tracks.append(draw_noise(task, controller, seed) / controller.noise)
    noise = np.stack(tracks)
    assert noise.shape == (40, 1000, 2)
    assert abs(noise.std() - 1.0) < 0.1
    assert abs((noise[:, 1:] * noise[:, :-1]).mean() / noise.var() - 0.95) < 0.02


def test_velocity_tasks_have_no_controller():
    with pytest.raises(ValueError, match=r"no lidar controller for SafetyAntVelocity.*dsrl"):
        draw_controller(get_task("AntVelocity"), COLLECT, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PointGoal1", "CarGoal1", "CarPush1", "PointCircle1"])
def test_a_controller_earns_reward(name):
    task = get_task(name)
    env = make_official(task)
    obs, _ = env.reset(seed=1)
    total = 0.0
    for _ in range(250):
        obs, reward, *_ = env.step(steer_one(task, obs[None], gain=0.5))
        total += reward
    assert total > 1.0
