"""The official environments in worker processes: same numbers, no hanging."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from proco_jax.envs.official import OfficialEnv, step_official
from proco_jax.envs.simulator import _is_free, make_official, simulator_versions
from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import make_vector_env

TASK = get_task("PointGoal1")
# A velocity task starts fastest and can fall, which ends an episode truly.
HOPPER = get_task("HopperVelocity")


@pytest.fixture(scope="module")
def env():
    with OfficialEnv(TASK, num_envs=3, workers=2) as env:
        yield env


def test_worlds_step_exactly_as_one_official_environment(env):
    seeds = [5, 6, 7]
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 3, 2))
    first = env.reset(seeds)
    results = [env.step(a) for a in actions]
    for world, seed in enumerate(seeds):
        single = make_official(TASK)
        np.testing.assert_array_equal(first[world], single.reset(seed=seed)[0].astype(np.float32))
        for t, result in enumerate(results):
            obs, reward, terminated, truncated, info = single.step(actions[t, world])
            np.testing.assert_array_equal(result.obs[world], obs.astype(np.float32))
            assert result.reward[world] == np.float32(reward)
            assert result.cost[world] == info["cost"]
            assert (result.terminated[world], result.truncated[world]) == (terminated, truncated)


def test_resetting_one_world_leaves_the_others_alone(env):
    forward = np.tile([1.0, 0.5], (3, 1))
    env.reset([0, 1, 2])
    env.step(forward)
    second = env.step(forward).obs
    env.reset([0, 1, 2])
    first = env.step(forward).obs
    fresh = env.reset([1], worlds=[2])
    assert fresh.shape == (1, TASK.spec.size)
    after = env.step(forward).obs
    np.testing.assert_array_equal(after[2], first[1])
    np.testing.assert_array_equal(after[:2], second[:2])
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((3, 3)), r"expected actions \[3, 2\], found \(3, 3\)"),
        (np.zeros(2), r"expected actions \[3, 2\]"),
        (np.array([[0, 0], [0, np.inf], [0, 0]]), "action of world 1 is not finite"),
    ],
)
def test_bad_actions_are_refused_before_anything_moves(env, actions, message):
    env.reset([0, 1, 2])
    once = env.step(np.zeros((3, 2))).obs
    env.reset([0, 1, 2])
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    np.testing.assert_array_equal(env.step(np.zeros((3, 2))).obs, once)


def test_a_world_whose_episode_is_over_waits_for_its_reset():
    with OfficialEnv(HOPPER, num_envs=2, workers=1) as env:
        env.reset([0, 1])
        push = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
        for _ in range(200):
            result = env.step(push)
            if result.terminated[0]:
                break
        assert result.terminated[0] and not result.truncated[0]
        again = env.step(push)
        np.testing.assert_array_equal(again.obs[0], result.obs[0])
        assert (again.reward[0], again.cost[0]) == (0.0, 0.0)
        assert again.truncated[0] and not again.terminated[0]
        env.reset([3], worlds=[0])
        assert not env.step(push).truncated[0]


def test_episodes_are_functions_of_their_seeds_alone():
    car = get_task("CarGoal1")
    actions = np.random.default_rng(1).uniform(-1, 1, (30, 2, 2))
    actions[:, 1] = actions[:, 0]
    with OfficialEnv(car, num_envs=2, workers=1) as env:
        env.reset([5], worlds=[0])
        for action in actions:
            env.step(action)
        first = env.reset([9, 9])
        np.testing.assert_array_equal(first[0], first[1])
        for action in actions:
            obs = env.step(action).obs
            np.testing.assert_array_equal(obs[0], obs[1])


def test_placements_are_checked_to_the_same_bits_as_the_simulators_own():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        here, there = rng.uniform(-2, 2, (2, 2))
        distance = np.sqrt(np.sum(np.square(here - there)))
        for keepout in (distance, np.nextafter(distance, 9), np.nextafter(distance, -9)):
            free = _is_free(float(here[0]), float(here[1]), keepout, [(*there.tolist(), 0.0)])
            assert free == (not distance < keepout)


def test_a_dead_worker_is_an_error_and_closing_still_works():
    env = OfficialEnv(HOPPER, num_envs=2, workers=2)
    env.reset([0, 1])
    pids = [worker.pid for worker in env._workers]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match=f"pid {pids[1]}.*died with exit code -9"):
        for _ in range(3):
            env.step(np.zeros((2, 3)))
    env.close()
    env.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        env.reset([0, 1])


@pytest.mark.parametrize("task", [TASK, HOPPER], ids=["navigation", "velocity"])
@pytest.mark.parametrize("speed", [1e12, np.nan])
def test_unstable_physics_ends_the_episode(task, speed, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it stands.
    env = make_official(task)
    env.reset(seed=0)
    inner = env.unwrapped
    data = inner.task.data if hasattr(inner, "task") else inner.data
    data.qvel[:] = speed
    obs, reward, cost, terminated, truncated, failed = step_official(
        env, np.zeros(task.action_size)
    )
    assert obs is None and failed and terminated and not truncated
    assert (reward, cost) == (0.0, 0.0)
    env.reset(seed=0)
    assert not step_official(env, np.zeros(task.action_size))[-1]


def test_making_worlds_checks_its_arguments():
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        make_vector_env(TASK, 2, backend="fast")
    with pytest.raises(ValueError, match="at least 1 world"):
        make_vector_env(TASK, 0)


def test_importing_the_simulator_prints_nothing_and_patches_nothing_for_good():
    code = (
        "import dataclasses, sys; before = dataclasses.dataclass\n"
        "from proco_jax.envs.simulator import import_safety_gymnasium\n"
        "assert 'safety_gymnasium' not in sys.modules\n"
        "import_safety_gymnasium()\n"
        "assert dataclasses.dataclass is before\n"
        "assert 'gymnasium_robotics' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("value", ["osmesa", "nonsense"])
def test_worlds_need_no_opengl(value):
    program = (
        "import os\n"
        "from proco_jax.envs.tasks import get_task\n"
        "from proco_jax.envs.vector import make_vector_env\n"
        "for backend in ('batched', 'official'):\n"
        "    env = make_vector_env(get_task('HopperVelocity'), 1, backend, 1)\n"
        "    print(env.reset([3]).tolist())\n"
        "    env.close()\n"
        "print(os.environ['MUJOCO_GL'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MUJOCO_GL": value},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    batched, official, variable = done.stdout.splitlines()
    assert batched == official and batched.startswith("[[")
    assert variable == value


def test_versions_name_what_decides_a_trajectory():
    assert set(simulator_versions()) == {"safety-gymnasium", "gymnasium", "mujoco", "numpy"}
