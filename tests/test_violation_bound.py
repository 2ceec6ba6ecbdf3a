"""Split-conformal bounds: hand-worked numbers, and the stated coverage by simulation."""

import numpy as np
import pytest

from proco_jax.deployment.violation_bound import (
    binomial_upper,
    conformal_shift,
    smallest_alpha,
    violation_bound,
)


def test_a_shift_is_a_hand_counted_order_statistic() -> None:
    outcome = np.arange(9.0)[::-1]
    # n = 9: k = ceil(10 * 0.9) = 9 is the largest, k = ceil(10 * 0.75) = 8 the second largest.
    assert conformal_shift(np.zeros(9), outcome, 0.1) == 8.0
    assert conformal_shift(np.zeros(9), outcome, 0.25) == 7.0
    assert conformal_shift(np.ones(9), outcome, 0.25) == 6.0
    assert conformal_shift(np.zeros(8), np.zeros(8), 0.1) == np.inf
    assert smallest_alpha(9) == pytest.approx(0.1)


def test_the_upper_limit_of_a_share_is_that_of_clopper_and_pearson() -> None:
    # Without a success: 1 - (1 - confidence)^(1 / n).
    assert binomial_upper(0, 10, 0.95) == pytest.approx(1 - 0.05**0.1)
    assert binomial_upper(10, 10, 0.95) == binomial_upper(0, 0, 0.95) == 1.0


def test_a_bound_counts_shifted_forecasts_by_hand() -> None:
    deployed = np.array([-3.0, -1.0, -0.5, np.inf])
    found = violation_bound(np.zeros(9) - 2, np.zeros(9) - 1, deployed, 0.1, 0.95)
    assert found.shift == 1.0 and found.flagged == 0.75
    assert found.bound == 1.0
    many = np.full(1000, -3.0)
    found = violation_bound(np.zeros(9) - 2, np.zeros(9) - 1, many, 0.1, 0.95)
    assert found.flagged == 0 and found.bound == pytest.approx(0.1 + 1 - 0.05**0.001)


def test_what_cannot_be_bounded_is_refused_or_one() -> None:
    with pytest.raises(ValueError, match="forecasts and outcomes"):
        conformal_shift(np.zeros(3), np.zeros(4), 0.1)
    with pytest.raises(ValueError, match="alpha"):
        conformal_shift(np.zeros(3), np.zeros(3), 0.0)
    few = violation_bound(np.zeros(3), np.zeros(3), np.full(100, -9.0), 0.1, 0.95)
    assert few.shift == np.inf and few.bound == 1.0
    assert violation_bound(np.zeros(9), np.zeros(9), np.zeros(0), 0.1, 0.95).bound == 1.0


@pytest.mark.parametrize("n", [9, 20, 57])
@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0])
def test_the_stated_coverage_holds_for_a_biased_skewed_model(n: int, bias: float) -> None:
    rng, alpha, runs = np.random.default_rng([n, 5]), 0.1, 20_000
    forecast = rng.normal(size=(runs, n + 1))
    # Errors depend on the forecast and are far from normal.
    outcome = forecast + bias + rng.exponential(1.0 + np.abs(forecast))
    inside = [
        y[-1] <= f[-1] + conformal_shift(f[:-1], y[:-1], alpha)
        for f, y in zip(forecast, outcome, strict=True)
    ]
    coverage, error = np.mean(inside), 3 * np.sqrt(alpha * (1 - alpha) / runs)
    assert coverage >= 1 - alpha - error
    # And it is not much more than was stated.
    assert coverage <= 1 - alpha + 1 / (n + 1) + error


def test_the_bound_holds_for_the_share_of_episodes_that_violate() -> None:
    rng = np.random.default_rng(0)
    bounds, shares = [], []
    for _ in range(400):
        forecast = rng.normal(-2.0, 0.7, 30)
        outcome = forecast + 0.4 + rng.gamma(1.0, 0.4, 30)
        deployed = rng.normal(-2.0, 0.7, 200)
        later = rng.normal(-2.0, 0.7, 500)
        bounds.append(violation_bound(forecast, outcome, deployed, 0.1, 0.95).bound)
        shares.append(np.mean(later + 0.4 + rng.gamma(1.0, 0.4, 500) >= 0))
    assert 0.01 < np.mean(shares) <= np.mean(bounds)
    assert np.mean(np.array(shares) <= np.array(bounds)) > 0.95
    assert np.mean(bounds) < 0.6
