import dataclasses

import numpy as np
import pytest

from proco_jax.config.schema import Config, validate
from proco_jax.config.variations import CHANGES, changed, trains
from proco_jax.data.checks import DataError
from proco_jax.diagnostics import counterfactuals
from proco_jax.pipeline import stages as pipeline
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
    lost = np.array([True, False, True, False])
    found = counterfactuals.feasibility_agreement(vh, lost)
    assert found["infeasible_missed"] == 0.0
    assert found["feasible_called_infeasible"] == pytest.approx(0.25)
    assert found["auroc"] == pytest.approx((1.0 + 0.875) / 2)
    assert counterfactuals.feasibility_agreement(vh, lost & False)["auroc"] is None


def test_only_the_embedded_collection_has_known_seeds():
    config = Config()
    assert counterfactuals.seeds_of(config, [0, 3]) == [10_000_000, 10_000_003]
    config.data.source = "minari:some/data-v0"
    with pytest.raises(ValueError, match="expected collect"):
        counterfactuals.seeds_of(config, [0])
    config = Config()
    config.data.episodes = 0
    with pytest.raises(DataError):
        counterfactuals.seeds_of(config, [])


def episode(cost):
    steps = len(cost)
    obs = np.arange(steps + 1, dtype=np.float32)[:, None]
    return Episode(obs, np.zeros((steps, 2)), np.zeros(steps), np.asarray(cost), False)


def test_states_to_be_judged_are_safe_now_and_have_time_left():
    cost = np.zeros(100)
    cost[39] = 1.0
    found = counterfactuals.choose_states([episode(cost)], [7], lambda obs: -obs[:, 0] / 10, 0)
    # State 40 is the one that cost; from 75 on the episode ends too soon.
    assert found == [(7, t) for t in range(75) if t != 40]


def test_too_short_episodes_leave_nothing_to_judge():
    with pytest.raises(ValueError, match="found no safe state with 25 steps"):
        counterfactuals.choose_states([episode(np.zeros(20))], [7], lambda obs: -obs[:, 0], 0)


@pytest.mark.parametrize("name", list(CHANGES))
def test_every_change_is_a_config_that_can_run_and_changes_what_it_says(name):
    config = Config()
    before = dataclasses.asdict(config)
    found = changed(config, CHANGES[name], 3)
    validate(found)
    assert found.seeds == 3 and not found.baseline
    assert dataclasses.asdict(config) == before
    for setting, value in CHANGES[name].items():
        room, field = setting.split(".")
        assert (
            getattr(getattr(found, room), field) == value != getattr(getattr(config, room), field)
        )


def test_only_what_is_deployed_otherwise_needs_no_training():
    spared = [name for name in CHANGES if not trains(CHANGES[name])]
    assert spared == [
        "as it is",
        "no way out searched",
        "nothing at risk",
        "a fifth at risk",
        "a bolder choice",
        "the policy alone",
    ]


def test_what_clones_is_called_so_in_the_results():
    cloning = changed(Config(), CHANGES["behaviour cloning"], 1)
    names = [[x.algorithm for x in pipeline.learners_of(c)] for c in (Config(), cloning)]
    assert names == [["actor-critic"] * 2, ["behaviour cloning"]]


def test_tables_show_every_rung_and_what_was_not_measured():
    share = {"imagined_share": 0.4, "real_share": 0.5, "precision": 0.8, "recall": None}
    known = {"auroc": 0.98, "feasible_called_infeasible": 0.02, "infeasible_missed": None}
    played = {"return_iqm": 7.5, "cost_iqm": 0.0, "cost_mean": 1.5, "violation_free_share": 0.9}
    rungs = {"run: proco": {"feasibility": known}, "real": played | {"feasibility": known}}
    text = ladder_tables({"rollouts": {"rule": share, "network": share}, "rungs": rungs})
    assert "| run: proco | - | - | - | - | 0.98 | 0.02 | - |" in text
    assert "| real | 7.5 | 0 | 1.5 | 0.9 | 0.98 | 0.02 | - |" in text
    assert "| rule | 0.5 | 0.4 | 0.8 | - |" in text
