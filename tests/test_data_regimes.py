import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proco_jax.config.schema import CollectConfig, DataConfig
from proco_jax.data.checks import DataError
from proco_jax.data.regimes import split_episodes

COSTS = [0.0, 5, 0, 0, 70, 0, 0, 1, 0, 0, 0, 30]


def test_safe_keeps_exactly_the_trajectories_without_cost():
    split = split_episodes(COSTS, DataConfig(regime="safe", holdout_share=0.25))
    assert split.dropped == [1, 4, 7, 11]
    assert sorted(split.train + split.holdout) == [0, 2, 3, 5, 6, 8, 9, 10]
    assert len(split.holdout) == 2


def test_limited_holds_the_stated_share_of_violating_trajectories():
    costs = [0.0] * 95 + [3.0] * 20
    split = split_episodes(costs, DataConfig(regime="limited", limited_share=0.05))
    kept = split.train + split.holdout
    assert len(kept) == 100
    assert sum(costs[i] > 0 for i in kept) == 5


def test_a_small_share_above_zero_means_at_least_one_violating_trajectory():
    split = split_episodes(COSTS, DataConfig(regime="limited", limited_share=0.001))
    assert sum(COSTS[i] > 0 for i in split.train + split.holdout) == 1
    split = split_episodes(COSTS, DataConfig(regime="limited", limited_share=0.0))
    assert sum(COSTS[i] > 0 for i in split.train + split.holdout) == 0


def test_full_drops_nothing():
    assert split_episodes(COSTS, DataConfig(regime="full")).dropped == []


def test_no_holdout_where_none_is_wanted():
    assert split_episodes(COSTS, DataConfig(holdout_share=0.0)).holdout == []


@given(
    costs=st.lists(st.sampled_from([0.0, 0.0, 1.0, 50.0]), min_size=4, max_size=60),
    regime=st.sampled_from(["safe", "limited", "full"]),
    share=st.floats(0, 0.95),
    holdout=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_a_split_is_a_partition_that_the_seed_decides(costs, regime, share, holdout, seed):
    data = DataConfig(regime=regime, limited_share=share, holdout_share=holdout, seed=seed)
    if regime != "full" and np.sum(np.array(costs) == 0) < 2:
        return
    split = split_episodes(costs, data)
    assert sorted(split.train + split.holdout + split.dropped) == list(range(len(costs)))
    assert split.train
    assert bool(split.holdout) == (holdout > 0)
    assert split == split_episodes(costs, data)


def test_another_seed_holds_out_other_trajectories():
    splits = {tuple(split_episodes([0.0] * 50, DataConfig(seed=s)).holdout) for s in range(5)}
    assert len(splits) > 1


def test_nothing_left_says_how_many_what_cost_and_what_to_do():
    with pytest.raises(DataError) as error:
        split_episodes([5.0, 3.0, 9.0, 40.0], DataConfig(regime="safe"))
    message = str(error.value)
    for part in (
        "keeps 0 of 4",
        "lowest costs are 3, 5, 9",
        "--config.data.episodes",
        "--config.data.regime=full",
    ):
        assert part in message
    policies = CollectConfig(behavior="policies")
    for word, data in (
        ("gains", DataConfig(collect=CollectConfig(behavior="controllers"))),
        ("more episodes (--config.data.episodes)", DataConfig(collect=policies)),
        ("logs with more episodes", DataConfig(source="minari:D4RL/door/human-v2")),
    ):
        with pytest.raises(DataError) as error:
            split_episodes([0.0, 3.0], data)
        assert word in str(error.value)
        assert ("gains" in str(error.value)) == (word == "gains")
        assert str(error.value).endswith("--config.data.regime=limited or full")
    # A wider regime adds nothing.
    for costs, regime in (([3.0], "full"), ([0.0], "safe")):
        with pytest.raises(DataError) as error:
            split_episodes(costs, DataConfig(regime=regime))
        assert "regime=" not in str(error.value)
    with pytest.raises(DataError, match="keeps 1 of 2 episodes, expected at least 2"):
        split_episodes([0.0, 3.0], DataConfig(regime="safe"))
    with pytest.raises(DataError, match="the dataset has no episode"):
        split_episodes([], DataConfig(regime="full"))
    with pytest.raises(DataError, match="limited_share: found 1"):
        split_episodes(COSTS, DataConfig(regime="limited", limited_share=1.0))
