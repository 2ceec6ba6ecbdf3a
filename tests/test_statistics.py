import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from proco_jax.common import statistics


def test_interquartile_mean_of_eight_numbers_by_hand():
    values = np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0])
    # Sorted: -50 1 | 2 3 4 5 | 6 100.
    assert statistics.interquartile_mean(values) == pytest.approx(3.5)


def test_interquartile_mean_of_up_to_three_values_is_their_mean():
    assert statistics.interquartile_mean(np.array([1.0, 2.0, 9.0])) == pytest.approx(4.0)


def test_interquartile_mean_along_an_axis_equals_each_row_alone():
    table = np.random.default_rng(0).normal(size=(5, 13))
    each = [statistics.interquartile_mean(row) for row in table]
    np.testing.assert_allclose(statistics.interquartile_mean(table, axis=1), each)


def test_interquartile_mean_does_not_see_one_outlier():
    values = np.arange(20.0)
    spoiled = values.copy()
    spoiled[-1] = 1e9
    assert statistics.interquartile_mean(spoiled) == statistics.interquartile_mean(values)


def test_interquartile_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        statistics.interquartile_mean(np.array([]))


def test_bootstrap_of_equal_scores_has_no_width():
    assert statistics.stratified_bootstrap(np.full((3, 4), 7.0)) == (7.0, 7.0, 7.0)


def test_bootstrap_is_seeded():
    scores = np.random.default_rng(1).normal(size=(5, 20))
    once = statistics.stratified_bootstrap(scores, seed=3)
    assert once == statistics.stratified_bootstrap(scores, seed=3)
    assert once != statistics.stratified_bootstrap(scores, seed=4)
    assert once.low < once.point < once.high


def test_bootstrap_never_replaces_an_episode_by_one_of_another_policy():
    # Constant rows: with the policies fixed nothing is left to vary.
    scores = np.repeat([[0.0], [10.0]], 6, axis=1)
    assert statistics.stratified_bootstrap(scores, fixed_seeds=True) == (5.0, 5.0, 5.0)
    drawn = statistics.stratified_bootstrap(scores)
    assert (drawn.low, drawn.high) == (0.0, 10.0)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        # Policies differ as much as episodes do.
        scores = rng.normal(size=(20, 1)) + rng.normal(size=(20, 10))
        found = statistics.stratified_bootstrap(scores, np.mean, resamples=300, seed=trial)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 1.0


def test_bootstrap_refuses_a_ragged_table_and_non_finite_scores():
    with pytest.raises(ValueError, match=r"rows of length \[1, 2\]"):
        statistics.stratified_bootstrap([[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match="finite"):
        statistics.stratified_bootstrap([[1.0, float("nan")]])


def test_paired_bootstrap_cancels_what_both_share():
    rng = np.random.default_rng(0)
    baseline = rng.normal(scale=10.0, size=(5, 1)) + rng.normal(scale=10.0, size=(5, 20))
    assert statistics.paired_bootstrap(baseline, baseline) == (0, 0, 0)
    noise = rng.normal(scale=0.1, size=(5, 20))
    found = statistics.paired_bootstrap(baseline + 1 + noise, baseline)
    assert found.point == pytest.approx(1 + noise.mean())
    assert 0.9 < found.low < found.point < found.high < 1.1


def test_paired_bootstrap_is_antisymmetric():
    scores, baseline = np.random.default_rng(0).normal(size=(2, 3, 7))
    one = statistics.paired_bootstrap(scores, baseline)
    other = statistics.paired_bootstrap(baseline, scores)
    np.testing.assert_allclose(one, (-other.point, -other.high, -other.low), atol=1e-12)


def test_paired_bootstrap_resamples_the_seeds_too():
    # Within a seed nothing varies: all width comes from the seeds.
    scores = np.repeat([[0.0], [10.0]], 6, axis=1)
    assert statistics.paired_bootstrap(scores, np.zeros((2, 6))) == (5, 0, 10)


def test_paired_bootstrap_refuses_tables_that_do_not_match():
    with pytest.raises(ValueError, match=r"found \(2, 3\) and \(1, 3\)"):
        statistics.paired_bootstrap(np.zeros((2, 3)), np.zeros((1, 3)))


def test_auroc_by_hand_with_a_tie():
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    positive = np.array([False, True, False, True])
    # Pairs: 0.4>0.1, 0.4=0.4 (half), 0.8>0.1, 0.8>0.4.
    assert statistics.auroc(scores, positive) == pytest.approx(3.5 / 4)


@given(
    hnp.arrays(np.int64, st.integers(2, 40), elements=st.integers(-5, 5)),
    st.integers(0, 2**32 - 1),
)
def test_auroc_equals_counting_all_pairs(scores, seed):
    positive = np.random.default_rng(seed).random(scores.size) < 0.5
    value = statistics.auroc(scores, positive)
    pairs = scores[positive][:, None] - scores[~positive][None]
    if pairs.size == 0:
        assert np.isnan(value)
        return
    assert value == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert statistics.auroc(-scores, positive) == pytest.approx(1 - value)


def test_auroc_of_constant_scores_is_one_half():
    assert statistics.auroc(np.zeros(10), np.arange(10) < 3) == pytest.approx(0.5)


def test_auroc_refuses_non_finite_scores():
    with pytest.raises(ValueError, match="1 of the scores"):
        statistics.auroc(np.array([0.0, np.nan]), np.array([True, False]))


def test_quantiles_of_zero_to_one_hundred():
    named = statistics.quantiles(np.arange(101))
    assert named["min"] == 0 and named["5%"] == 5 and named["median"] == 50
    assert named["95%"] == 95 and named["max"] == 100 and named["mean"] == 50


def test_probability_of_improvement_by_hand():
    # Means of the runs: 1 and 4 against 2 and 4, so better, tied and worse: 0 + 0 + 1 + 1/2 of 4.
    scores, baseline = [[0.0, 2.0], [3.0, 5.0]], [[1.0, 3.0], [4.0, 4.0]]
    found = statistics.probability_of_improvement([scores], [baseline])
    assert found.point == 1.5 / 4 and 0 <= found.low <= found.point <= found.high <= 1
    lower = statistics.probability_of_improvement([scores], [baseline], lower_is_better=True)
    assert lower.point == 2.5 / 4
    # A second task on which every run is better: tasks weigh the same, whatever their seeds.
    both = statistics.probability_of_improvement([scores, [[9.0]]], [baseline, [[1.0], [2.0]]])
    assert both.point == (1.5 / 4 + 1) / 2


def test_probability_of_improvement_over_itself_is_a_half_and_over_worse_is_one():
    scores = np.random.default_rng(0).normal(size=(4, 10))
    assert statistics.probability_of_improvement([scores], [scores]).point == 0.5
    assert statistics.probability_of_improvement([scores], [scores - 99.0]) == (1, 1, 1)
    one = statistics.probability_of_improvement([scores], [scores[::-1] + 0.2])
    other = statistics.probability_of_improvement([scores[::-1] + 0.2], [scores])
    assert one.point + other.point == pytest.approx(1)


def test_probability_of_improvement_needs_the_same_tasks():
    with pytest.raises(ValueError, match="found 1 and 0"):
        statistics.probability_of_improvement([[[1.0]]], [])
    with pytest.raises(ValueError, match="found 0 and 0"):
        statistics.probability_of_improvement([], [])


def test_a_performance_profile_by_hand():
    scores = [[0.0, 0.0, 5.0], [10.0, 11.0, 40.0]]
    share, low, high = statistics.performance_profile([scores], [0, 5, 10, 40, 50])
    np.testing.assert_allclose(share, [2 / 6, 3 / 6, 4 / 6, 1, 1])
    assert (low <= share).all() and (share <= high).all() and (np.diff(low) >= 0).all()
    # A task whose episodes all cost 0 weighs as much as the first, though it has fewer.
    both, _, _ = statistics.performance_profile([scores, [[0.0]]], [0, 5, 10, 40, 50])
    np.testing.assert_allclose(both, (share + 1) / 2)


def test_bands_of_a_profile_are_the_intervals_of_its_shares():
    scores = np.random.default_rng(0).exponential(size=(5, 20))
    share, low, high = statistics.performance_profile([scores], [0.7], seed=3)
    expected = statistics.stratified_bootstrap(scores <= 0.7, np.mean, seed=3)
    assert (share[0], low[0], high[0]) == pytest.approx(expected)


def test_a_performance_profile_refuses_no_task_and_thresholds_that_descend():
    with pytest.raises(ValueError, match="found 0 tasks"):
        statistics.performance_profile([], [1.0])
    with pytest.raises(ValueError, match="ascending"):
        statistics.performance_profile([[[1.0]]], [2.0, 1.0])


def test_the_wilson_interval_by_hand():
    # 3 of 3 with z^2 = 3.8415: the lower bound is 3 / (3 + z^2).
    assert statistics.wilson_interval(3, 3) == pytest.approx((1, 3 / 6.8415, 1), abs=1e-4)
    assert statistics.wilson_interval(0, 3) == pytest.approx((0, 0, 3.8415 / 6.8415), abs=1e-4)
    half = statistics.wilson_interval(50, 100)
    assert half.low + half.high == pytest.approx(1) and half.high == pytest.approx(0.5962, abs=1e-4)
    with pytest.raises(ValueError, match="4 successes in 3"):
        statistics.wilson_interval(4, 3)
