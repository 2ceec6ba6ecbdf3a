"""Algorithms are safer with imagined rows than without, where violation-free logs mislead them."""

import numpy as np
import pytest
from braking_world import (
    FASTEST,
    STEPS,
    WALL,
    beyond,
    drive,
    imagined,
    logs,
    starts,
    train_and_drive,
)

pytestmark = pytest.mark.usefixtures("unchecked_keys")

# Gradient steps after which each algorithm is trained with imagined rows.
ALGORITHMS = {"bcq_lag": 1500, "bear_lag": 1500}


def test_logs_have_no_violation_and_imagined_trajectories_have():
    episodes = logs()
    assert len(episodes) > 50
    assert not any(beyond(e.obs).any() or e.cost.any() for e in episodes)
    # Some end where the wall can no longer be avoided: the braking distance is v^2 / 2.
    last = np.stack([e.obs[-1] for e in episodes])
    assert (last[:, 0] + last[:, 1] ** 2 / 2 > WALL).any()
    share = np.asarray(imagined(episodes).unsafe).any(axis=1).mean()
    assert 0.05 < share < 0.5


def test_full_speed_hits_the_wall_and_braking_in_time_does_not():
    start = starts(np.random.default_rng(4), 32)
    greedy = drive(start, np.ones((32, STEPS, 1)))
    assert beyond(greedy[:, -1]).all() and greedy[..., 1].max() == pytest.approx(FASTEST)
    assert not beyond(drive(start, -np.ones((32, STEPS, 1)))).any()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_imagined_rows_make_an_algorithm_safer_and_it_still_drives(algorithm):
    steps = ALGORITHMS[algorithm]
    alone, _ = train_and_drive(algorithm, "none", steps)
    ours, way = train_and_drive(algorithm, "fixed_trajectories", steps)
    assert ours <= alone - 0.3 and ours <= 0.1
    assert way > 0.4
