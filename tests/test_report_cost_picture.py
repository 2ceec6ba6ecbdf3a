from pathlib import Path

import numpy as np
import pytest

from proco_jax.report.cost_picture import draw_cost, reliability


def test_reliability_of_a_calibrated_network() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20000)
    unsafe = (rng.random(20000) < probability).astype(float)
    rows = reliability(probability, unsafe)
    assert len(rows) == 10 and sum(n for _, _, n in rows) == 20000
    for predicted, observed, _ in rows:
        assert observed == pytest.approx(predicted, abs=0.04)
    assert reliability(np.ones(3), np.ones(3)) == [(1.0, 1.0, 3)]


@pytest.mark.parametrize("known", [True, False])
def test_the_picture_is_drawn_with_and_without_a_distance(tmp_path: Path, known: bool) -> None:
    rng = np.random.default_rng(0)
    distance = rng.normal(0.3, 0.4, 5000) if known else np.full(5000, np.nan)
    speed = rng.normal(0.0, 0.5, 5000)
    probability = 1 / (1 + np.exp(20 * (np.nan_to_num(distance) - 0.05)))
    path = draw_cost(tmp_path / "cost.png", distance, speed, probability, distance < 0.05, 0.3)
    assert path.stat().st_size > 10_000
