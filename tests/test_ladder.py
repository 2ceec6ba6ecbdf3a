"""The oracle ladder: agreement measures by hand, judged states, tables."""

import numpy as np
import pytest

from proco_jax.config.schema import Config
from proco_jax.data.checks import DataError
from proco_jax.diagnostics import counterfactuals
from proco_jax.report.ladder_table import ladder_tables
from proco_jax.types import Episode


def test_agreement_by_hand():
    imagined = np.array([True, True, False, False])
    real = np.array([True, False, True, False])
    found = counterfactuals.rollout_agreement(imagined, real)
    assert found == {
        "imagined_share": 0.5,
        "real_share": 0.5,
        "precision": 0.5,
        "recall": 0.5,
    }
    nothing = counterfactuals.rollout_agreement(imagined & False, real & False)
    assert nothing["precision"] is None and nothing["recall"] is None


def test_feasibility_agreement_by_hand():
    vh = np.array([[1.0, -1.0, 2.0, -2.0], [1.0, 1.0, 2.0, -2.0]])
    infeasible = np.array([True, False, True, False])
    found = counterfactuals.feasibility_agreement(vh, infeasible)
    assert found["infeasible_missed"] == 0.0
    assert found["feasible_called_infeasible"] == pytest.approx(0.25)
    assert found["auroc"] == pytest.approx((1.0 + 0.875) / 2)
    assert counterfactuals.feasibility_agreement(vh, infeasible & False)["auroc"] is None


def test_only_the_embedded_collection_has_known_seeds():
    config = Config()
    assert counterfactuals.recorded_seeds(config, [0, 3]) == [10_000_000, 10_000_003]
    config.data.source = "minari:some/data-v0"
    with pytest.raises(ValueError, match="expected collect"):
        counterfactuals.recorded_seeds(config, [0])
    config = Config(task="SafetyHopperVelocity")
    with pytest.raises(ValueError, match="expected a navigation task"):
        counterfactuals.recorded_seeds(config, [])
    config = Config()
    config.data.episodes = 0
    with pytest.raises(DataError):
        counterfactuals.recorded_seeds(config, [])


def episode(cost):
    steps = len(cost)
    obs = np.arange(steps + 1, dtype=np.float32)[:, None]
    return Episode(obs, np.zeros((steps, 2)), np.zeros(steps), np.asarray(cost), False)


def test_judged_states_are_safe_now_and_have_time_left():
    cost = np.zeros(100)
    cost[39] = 1.0
    found = counterfactuals.sample_judged_states(
        [episode(cost)], [7], lambda obs: -obs[:, 0] / 10, 0
    )
    # State 40 is the one that cost; from 75 on the episode ends too soon.
    assert found == [(7, t) for t in range(75) if t != 40]


def test_too_short_episodes_leave_nothing_to_judge():
    with pytest.raises(ValueError, match="found no safe state with 25 steps"):
        counterfactuals.sample_judged_states(
            [episode(np.zeros(20))], [7], lambda obs: -obs[:, 0], 0
        )


def test_tables_show_every_rung_and_a_dash_for_what_was_not_measured():
    share = {"imagined_share": 0.4, "real_share": 0.5, "precision": 0.8, "recall": None}
    known = {"auroc": 0.98, "feasible_called_infeasible": 0.02, "infeasible_missed": None}
    evaluated = {"return_iqm": 7.5, "cost_iqm": 0.0, "cost_mean": 1.5, "violation_free_share": 0.9}
    rungs = {"run: proco": {"feasibility": known}, "real": evaluated | {"feasibility": known}}
    text = ladder_tables({"rollouts": {"rule": share, "network": share}, "rungs": rungs})
    assert "| run: proco | - | - | - | - | 0.98 | 0.02 | - |" in text
    assert "| real | 7.5 | 0 | 1.5 | 0.9 | 0.98 | 0.02 | - |" in text
    assert "| rule | 0.5 | 0.4 | 0.8 | - |" in text
