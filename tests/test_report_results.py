import io
import json

import numpy as np
import pytest
from rich.console import Console

from proco_jax.envs.tasks import get_task
from proco_jax.evaluation import results
from proco_jax.report import tables
from proco_jax.types import Episode

TASK = get_task("PointGoal1")


def episode(reward, cost):
    steps = len(reward)
    return Episode(
        np.zeros((steps + 1, 60), np.float32),
        np.zeros((steps, 2), np.float32),
        np.array(reward, np.float32),
        np.array(cost, np.float32),
        False,
    )


def row(algorithm="fisor", proco=True, seed=0, step=100, returns=(1.0, 2.0), costs=(0.0, 5.0)):
    episodes = [episode([a], [b]) for a, b in zip(returns, costs, strict=True)]
    return results.result_row(
        TASK, episodes, regime="safe", algorithm=algorithm, proco=proco, seed=seed, step=step
    )


def test_a_row_by_hand():
    found = row(returns=(10.0, 20.0), costs=(0.0, 30.0))
    assert list(found) == list(results.KEYS)
    assert found["return_mean"] == 15 and found["cost_mean"] == 15
    assert found["normalized_cost"] == 1.5 and found["violation_free_share"] == 0.5
    span = TASK.reference_max - TASK.reference_min
    assert found["normalized_return"] == pytest.approx((15 - TASK.reference_min) / span, abs=1e-6)
    assert found["returns"] == [10, 20] and found["episodes"] == 2
    assert set(found["versions"]) == {"jax", "mujoco", "numpy", "safety-gymnasium", "proco_jax"}


def test_a_row_sums_over_the_episode():
    names = {"regime": "safe", "algorithm": "bc", "proco": False}
    found = results.result_row(TASK, [episode([1, 2, 3], [0, 1, 1])], **names, seed=1, step=2)
    assert found["returns"] == [6] and found["costs"] == [2]


def test_rows_are_refused_without_episodes_or_with_a_non_finite_return():
    with pytest.raises(ValueError, match="no episodes"):
        row(returns=(), costs=())
    with pytest.raises(ValueError, match="finite"):
        row(returns=(np.nan,), costs=(0.0,))


def test_writing_the_same_row_again_changes_no_byte(tmp_path):
    path = tmp_path / results.FILE
    results.write_rows(path, [row(seed=1), row(seed=0)])
    before = path.read_bytes()
    results.write_rows(path, [row(seed=1)])
    assert path.read_bytes() == before


def test_the_order_of_writing_leaves_no_trace(tmp_path):
    rows = [row(proco=p, seed=s, step=t) for p in (True, False) for s in (0, 1) for t in (5, 10)]
    together, apart = tmp_path / "a.json", tmp_path / "b.json"
    results.write_rows(together, rows)
    for one in reversed(rows):
        results.write_rows(apart, [one])
    assert together.read_bytes() == apart.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_row_with_the_same_identity_is_replaced(tmp_path):
    path = tmp_path / results.FILE
    results.write_rows(path, [row(), row(seed=1)])
    rows = results.write_rows(path, [row(returns=(9.0, 9.0))])
    assert [(one["seed"], one["return_mean"]) for one in rows] == [(0, 9.0), (1, 1.5)]
    assert results.load_rows(path) == rows


def test_files_that_are_no_results_are_refused(tmp_path):
    path = tmp_path / results.FILE
    with pytest.raises(FileNotFoundError, match="hasn't evaluated"):
        results.load_rows(path)
    path.write_text('[{"task": "x"')
    with pytest.raises(ValueError, match="delete it"):
        results.load_rows(path)
    path.write_text(json.dumps([{"task": "x", "colour": 1}]))
    with pytest.raises(ValueError, match=r"unknown \['colour'\]"):
        results.load_rows(path)


def test_the_last_step_is_reported_even_where_an_earlier_one_was_better():
    rows = [row(step=5, returns=(99.0, 99.0), costs=(0.0, 0.0)), row(step=10), row(proco=False)]
    groups = results.final_rows(rows)
    assert list(groups) == [("fisor", True), ("fisor", False)]
    assert [one["step"] for one in groups["fisor", True]] == [10]


def test_a_summary_by_hand():
    rows = [row(seed=s, returns=(0.0, 4.0), costs=(0.0, 20.0)) for s in range(4)]
    (found,) = tables.summarize(rows)
    assert found.episode_return.point == 2 and found.cost.point == 10
    assert found.normalized_cost.point == 1 and found.violation_free_share.point == 0.5
    assert (found.seeds, found.episodes) == (4, 2)
    assert (found.return_mean, found.return_std, found.cost_std) == (2, 0, 0)
    assert found.cost.low < 10 < found.cost.high


def test_a_summary_of_one_seed_has_no_spread_between_seeds():
    (found,) = tables.summarize([row()])
    assert found.return_std == 0 and found.seeds == 1


def test_the_results_table_names_every_run_and_policy(tmp_path):
    results.write_rows(tmp_path / results.FILE, [row(), row(proco=False)])
    text = tables.results_table([tmp_path, tmp_path])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    assert lines[2].startswith("| PointGoal1 | safe | fisor + PROCO | 1 x 2 |")
    assert lines[3].startswith("| PointGoal1 | safe | fisor | 1 x 2 |")
    assert len({line.count("|") for line in lines}) == 1


def test_the_terminal_table_has_a_column_a_policy():
    console = Console(width=200, record=True, file=io.StringIO())
    tables.print_summary(tables.summarize([row(), row(proco=False)]), console)
    text = console.export_text()
    assert "fisor + PROCO" in text and "violation-free" in text and "50%" in text


def test_markdown_tables_refuse_ragged_rows_and_escape_bars():
    with pytest.raises(ValueError, match="1 cells under 2"):
        tables.markdown_table(["a", "b"], [["x"]])
    assert r"|x\| > 1" in tables.markdown_table(["a"], [["|x| > 1"]])


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "-"), (True, "yes"), (12345, "12,345"), (0.123456, "0.1235"), (12345.6, "12,346"),
        (float("nan"), "-"), ("a", "a"), (np.float32(0.5), "0.5"),
    ],
)  # fmt: skip
def test_numbers_as_a_person_reads_them(value, text):
    assert tables.number(value) == text
