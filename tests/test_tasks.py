"""The task table against the simulator that it describes."""

import dataclasses
import math

import numpy as np
import pytest

from proco_jax.envs.fields import LIDARS
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import TASKS, get_task, normalized_cost, normalized_return
from proco_jax.observation import ObservationSpec

NAVIGATION = [task for task in TASKS.values() if task.kind != "Velocity"]
VELOCITY = [task for task in TASKS.values() if task.kind == "Velocity"]


def test_the_table_holds_sixteen_navigation_and_five_velocity_tasks():
    assert len(NAVIGATION) == 16
    assert len(VELOCITY) == 5
    assert len({task.env_id for task in TASKS.values()}) == 21
    assert all(task.dsrl_file.startswith(task.env_id) for task in TASKS.values())


@pytest.mark.parametrize("task", NAVIGATION, ids=lambda task: task.name)
def test_fields_are_the_simulators_own(task):
    env = make_official(task)
    inner = env.unwrapped.task
    space = inner.obs_info.obs_space_dict
    assert [(f.name, f.size) for f in task.spec.fields] == [
        (name, math.prod(box.shape)) for name, box in space.items()
    ]
    assert all(f.reach == inner.lidar_conf.max_dist for f in task.spec.rings)
    assert inner.num_steps == task.episode_steps
    assert env.action_space.shape == (task.action_size,)
    assert {f.name.removesuffix("_lidar") for f in task.spec.rings} == set(LIDARS[task.kind])


@pytest.mark.parametrize("task", VELOCITY, ids=lambda task: task.name)
def test_velocity_fields_stand_where_the_simulator_puts_them(task):
    env = make_official(task)
    env.reset(seed=0)
    inner = env.unwrapped
    # Distinct numbers below the clip, so that each field can be found again.
    qpos = np.linspace(0.1, 0.9, inner.model.nq)
    qvel = np.linspace(1.0, 9.0, inner.model.nv)
    inner.set_state(qpos, qvel)
    obs = inner._get_obs()
    slices = task.spec.slices
    assert task.spec.size == len(obs)
    joints = task.action_size
    np.testing.assert_allclose(obs[slices["joint_angles"]], qpos[-joints:])
    np.testing.assert_allclose(obs[slices["joint_velocities"]], qvel[-joints:])
    forward = "front_velocity_x" if task.robot == "Swimmer" else "torso_velocity_x"
    np.testing.assert_allclose(obs[slices[forward]], qvel[:1])
    assert inner._velocity_threshold == task.velocity_limit
    assert env.spec.max_episode_steps == task.episode_steps
    assert env.action_space.shape == (task.action_size,)


def test_compass_and_velocity_point_where_their_meaning_says():
    task = get_task("CarGoal1")
    env = make_official(task)
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        obs, *_ = env.step(np.ones(2))
    slices = task.spec.slices
    x_axis = np.array(env.unwrapped.task.agent.mat)[:2, 0]
    heading = np.arctan2(x_axis[1], x_axis[0])
    compass = [-0.5 * np.sin(heading), -0.5 * np.cos(heading)]
    np.testing.assert_allclose(obs[slices["magnetometer"]][:2], compass, atol=0.02)
    assert obs[slices["velocimeter"]][1] < -0.1, "a Car drives along its own -y axis"


@pytest.mark.parametrize(
    "name",
    ["SafetyCarButton1", "CarButton1", "SafetyCarButton1-v0", "SafetyCarButton1Gymnasium-v0"],
)
def test_a_task_has_many_names(name):
    assert get_task(name).name == "SafetyCarButton1"


def test_an_unknown_task_is_refused_with_the_closest_name():
    with pytest.raises(ValueError, match=r"did you mean 'SafetyCarButton1'.*SafetyAntVelocity"):
        get_task("CarBotton1")


def test_reference_returns_normalize_to_zero_and_one():
    for task in TASKS.values():
        scores = normalized_return(task, np.array([task.reference_min, task.reference_max]))
        np.testing.assert_allclose(scores, [0.0, 1.0], atol=1e-12)
    assert normalized_cost(get_task("CarGoal1"), 25.0) == 2.5


def test_every_field_is_explained_and_survives_json():
    for task in TASKS.values():
        for field in task.spec.fields:
            assert field.meaning.endswith(".") and field.unit and field.group, field.name
        assert ObservationSpec.from_json(task.spec.to_json()) == task.spec


def test_tasks_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_task("CarGoal1").cost_limit = 1.0  # type: ignore[misc]
