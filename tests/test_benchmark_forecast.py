"""Forecast against truth over repetitions: intervals by hand, and nothing is run twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_report_results import row as result_row

from benchmarks import forecast
from proco_jax.common.files import write_text
from proco_jax.config.schema import Config, to_json
from proco_jax.config.validation import validate
from proco_jax.evaluation.results import write_rows

CHOSEN = {
    "qh_threshold": 2.0,
    "planner_threshold": 2.0,
    "violating_episodes": 0.1,
    "interval_low": 0.05,
    "interval_high": 0.15,
    "violating": 6,
    "trajectories": 512,
    "steps": 51200,
    "deployed": True,
}


def leave_run(config: Config, workdir: Path, costs: list[float], **chosen: Any) -> None:
    """Leaves the files that a run leaves: two policies with these costs each."""
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(to_json(config))
    rows = [CHOSEN | {"deployed": False}, CHOSEN | chosen]
    report = {"proco-proco": {"rows": rows}}
    (workdir / "violation_forecast.json").write_text(json.dumps(report))
    seeds = (config.seed, config.seed + 1)
    made = {"algorithm": "proco", "shield": "planner", "returns": [0.0] * len(costs)}
    rows = [result_row(costs=costs, seed=s, **made) for s in seeds]
    write_rows(workdir / "results.json", rows)
    write_text(workdir / "done.json", "{}")


def test_forecast_and_truth_worked_by_hand(tmp_path: Path) -> None:
    leave_run(Config(), tmp_path / "a", [0.0] * 19 + [3.0])
    row = forecast.row_of(4, tmp_path / "a")
    assert (row.repetition, row.violating, row.episodes, row.truth) == (4, 2, 40, 0.05)
    # The exact limits for 2 of 40.
    assert (row.truth_low, row.truth_high) == pytest.approx((0.0061, 0.1692), abs=1e-4)
    assert (row.low, row.high, row.imagined_steps) == (0.05, 0.15, 51200)


@pytest.mark.parametrize(
    ("violations", "verdict"), [(0, "covered"), (1, "covered"), (4, "covered"), (10, "above")]
)
def test_the_error_of_the_evaluation_is_allowed(
    tmp_path: Path, violations: int, verdict: str
) -> None:
    leave_run(Config(), tmp_path / "a", [9.0] * violations + [0.0] * (20 - violations))
    assert forecast.row_of(0, tmp_path / "a").verdict == verdict
    certain = {"violating_episodes": 0.9, "interval_low": 0.8, "interval_high": 0.95}
    leave_run(Config(), tmp_path / "b", [9.0] * violations + [0.0] * (20 - violations), **certain)
    assert forecast.row_of(0, tmp_path / "b").verdict == "below"


def test_a_forecast_without_steps_covers_everything(tmp_path: Path) -> None:
    names = ("violating_episodes", "interval_low", "interval_high")
    leave_run(Config(), tmp_path / "a", [9.0] * 20, **dict.fromkeys(names))
    row = forecast.row_of(0, tmp_path / "a")
    assert row.forecast is None and row.verdict == "covered" and (row.low, row.high) == (0, 1)
    assert "| - |" in forecast.table([row])


def test_every_repetition_has_random_numbers_of_its_own() -> None:
    configs = [forecast.config_of("SafetyPointGoal1", i) for i in range(20)]
    for config in configs:
        validate(config)
    assert len({config.data.seed for config in configs}) == 20
    seeds = {config.seed + policy for config in configs for policy in range(config.seeds)}
    assert len(seeds) == 20
    assert len({config.data.source for config in configs}) == 20


def test_finished_repetitions_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def run_one(config: Config, workdir: Path) -> None:
        ran.append(config.data.seed)
        leave_run(config, workdir, [0.0] * 20 if config.data.seed else [9.0] * 20)

    monkeypatch.setattr(forecast, "run_one", run_one)
    out = tmp_path / "out.json"
    for repetitions in (1, 2, 2):
        rows = forecast.measure("SafetyPointGoal1", repetitions, tmp_path / "runs", out)
        assert [row.repetition for row in rows] == list(range(repetitions))
    assert ran == [0, 1]
    summary = json.loads(out.read_text())["summary"]
    assert (summary["repetitions"], summary["above"], summary["covered"]) == (2, 1, 1)
    assert summary["mean_truth"] == 0.5 and summary["inside"] == 0
    assert "covers the truth in 1 of 2 repetitions" in forecast.table(rows)
