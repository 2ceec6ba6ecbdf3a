import numpy as np
import pytest
from data_toys import make_episode

from proco_jax.data.checks import DataError, check_sizes, clip_actions, to_episode


def raw(**changes):
    """An episode of four steps as Minari stores it."""
    arrays = {
        "observations": np.zeros((5, 3)),
        "actions": np.zeros((4, 2)),
        "rewards": np.arange(4.0),
        "terminations": np.zeros(4, bool),
        "truncations": np.zeros(4, bool),
        "cost": np.array([9.0, 0, 0, 1, 0]),
    }
    return {**arrays, **changes}


def test_the_cost_of_a_step_comes_after_the_entry_of_the_reset():
    np.testing.assert_array_equal(to_episode(raw(), "e").cost, [0, 0, 1, 0])
    np.testing.assert_array_equal(to_episode(raw(cost=np.arange(4.0)), "e").cost, [0, 1, 2, 3])


def test_a_time_limit_is_no_termination():
    last = np.array([False, False, False, True])
    assert not to_episode(raw(truncations=last), "e").terminated
    assert to_episode(raw(terminations=last), "e").terminated


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "cost"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(key, value):
    array = raw()[key].copy()
    array[2] = value
    with pytest.raises(DataError, match=rf"e7: {key}: .* not finite, the first at index \(2,"):
        to_episode(raw(**{key: array}), "e7")


def test_a_number_too_large_for_float32_is_not_finite():
    with np.errstate(over="ignore"), pytest.raises(DataError, match="not finite"):
        to_episode(raw(rewards=np.array([0, 1e300, 0, 0])), "e")


@pytest.mark.parametrize(
    "key", ["observations", "actions", "terminations", "truncations", "cost", "rewards"]
)
def test_lengths_that_disagree_are_told_with_their_numbers(key):
    with pytest.raises(DataError, match="lengths disagree: rewards"):
        to_episode(raw(**{key: raw()[key][:2]}), "e")


def test_other_faults_of_an_episode_are_told():
    with pytest.raises(DataError, match="the smallest cost is -1, expected 0 or more"):
        to_episode(raw(cost=np.array([0.0, -1, 0, 0])), "e")
    with pytest.raises(DataError, match="terminates at step 1 of 4 and continues"):
        to_episode(raw(terminations=np.array([0, 1, 0, 0], bool)), "e")
    with pytest.raises(DataError, match=r"expected an array \[steps, size\], found shape \(5,\)"):
        to_episode(raw(observations=np.zeros(5)), "e")
    with pytest.raises(DataError, match="expected an array of numbers"):
        to_episode(raw(rewards=np.array(["a", "b", "c", "d"])), "e")
    empty = {k: v[:1] if k in ("observations", "cost") else v[:0] for k, v in raw().items()}
    with pytest.raises(DataError, match="has no step"):
        to_episode(empty, "e")


def test_sizes_that_fit_another_task_are_told():
    episode = make_episode()
    check_sizes(episode, 60, 2, "e")
    with pytest.raises(DataError, match="observations have 60 numbers, expected 88"):
        check_sizes(episode, 88, 2, "e")
    with pytest.raises(DataError, match="actions have 2 numbers, expected 8"):
        check_sizes(episode, 60, 8, "e")


def test_actions_are_clipped_and_only_real_excess_is_counted():
    episode = make_episode(steps=3)
    action = np.array([[1.0000001, 0], [1.5, -2], [0.5, -1]], np.float32)
    (clipped,), outside = clip_actions([episode._replace(action=action)])
    np.testing.assert_array_equal(clipped.action, [[1, 0], [1, -1], [0.5, -1]])
    assert outside == 1
