import numpy as np
import pytest

from proco_jax.envs.tasks import get_task
from proco_jax.report.hazard_map_states import ring_reading, states_around_hazard


def test_a_ring_reading_by_hand():
    # A quarter of the way through bin 0, half of the reach away.
    angle = 0.25 * 2 * np.pi / 16
    reading = ring_reading(np.array(1.5), np.array(angle), 16, 3.0)
    np.testing.assert_allclose(reading[[15, 0, 1]], [0.375, 0.5, 0.125])
    assert np.count_nonzero(reading) == 3


def test_a_ring_reads_nothing_beyond_its_reach():
    assert not ring_reading(np.array(3.5), np.array(1.0), 16, 3.0).any()


@pytest.mark.parametrize("name, ahead", [("PointGoal1", 0.0), ("CarGoal1", -np.pi / 2)])
def test_the_hazard_lies_ahead_of_a_robot_to_its_left(name, ahead):
    spec = get_task(name).spec
    base = np.full(spec.size, 0.5, np.float32)
    states = states_around_hazard(
        spec, base, np.array([-1.0, 1.0]), np.array([0.0]), ahead=ahead, speed=2.0
    )
    assert states.shape == (1, 2, spec.size)
    ring = states[0, :, spec.slices["hazards_lidar"]]
    forward = round(ahead / (2 * np.pi / 16)) % 16
    # On a border between bins both of them read the whole closeness.
    np.testing.assert_allclose([ring[0, forward], ring[1, (forward + 8) % 16]], 2 / 3, rtol=1e-6)
    assert (np.count_nonzero(ring > 1e-6, axis=1) == 2).all()
    assert not states[..., spec.slices["vases_lidar"]].any()
    assert (states[..., spec.slices["goal_lidar"]] == 0.5).all()
    velocity = states[0, 0, spec.slices["velocimeter"]][:2]
    np.testing.assert_allclose(velocity, [2 * np.cos(ahead), 2 * np.sin(ahead)], atol=1e-6)


@pytest.mark.slow
def test_ring_readings_are_the_simulators_own():
    simulator = pytest.importorskip("proco_jax.envs.simulator")
    task = get_task("PointGoal1")
    env = simulator.make_official(task)
    obs, _ = env.reset(seed=3)
    inner = env.unwrapped.task
    away = (np.array(inner.hazards.pos) - inner.agent.pos)[:, :2] @ inner.agent.mat[:2, :2]
    rings = ring_reading(np.hypot(*away.T), np.arctan2(away[:, 1], away[:, 0]), 16, 3.0)
    np.testing.assert_allclose(obs[task.spec.slices["hazards_lidar"]], rings.max(axis=0), atol=1e-6)
    env.close()
