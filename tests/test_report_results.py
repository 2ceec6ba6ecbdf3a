import io
import json
import re
import subprocess
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from proco_jax.envs.tasks import get_task
from proco_jax.evaluation import results
from proco_jax.report import gains, tables
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


AXES: dict[str, Any] = {
    "source": "collect",
    "regime": "safe",
    "algorithm": "fisor",
    "augmentation": "proco",
    "shield": "none",
    "seed": 0,
    "step": 100,
    "settings": "0123456789ab",
    "cost_limit": 10.0,
}


def row(augmentation="proco", shield="none", returns=(1.0, 2.0), costs=(0.0, 5.0), **axes: Any):
    episodes = [episode([a], [b]) for a, b in zip(returns, costs, strict=True)]
    axes = {**AXES, "augmentation": augmentation, "shield": shield, **axes}
    return results.result_row(TASK, episodes, **axes)


def test_a_row_by_hand():
    found = row(returns=(10.0, 20.0), costs=(0.0, 30.0))
    assert list(found) == list(results.KEYS)
    assert found["return_mean"] == 15 and found["cost_mean"] == 15
    assert found["normalized_cost"] == 1.5 and found["violation_free_share"] == 0.5
    assert found["settings"] == "0123456789ab" and found["commit"] == results.code_commit()
    assert re.fullmatch(r".+ x[1-9]\d*", found["device"])
    span = TASK.reference_max - TASK.reference_min
    assert found["normalized_return"] == pytest.approx((15 - TASK.reference_min) / span, abs=1e-6)
    assert found["returns"] == [10, 20] and found["episodes"] == 2
    assert set(found["versions"]) == {"jax", "mujoco", "numpy", "safety-gymnasium", "proco_jax"}


def test_a_row_sums_over_the_episode():
    found = results.result_row(TASK, [episode([1, 2, 3], [0, 1, 1])], **AXES)
    assert found["returns"] == [6] and found["costs"] == [2]


def test_the_normalized_cost_uses_the_given_limit():
    assert row(costs=(0.0, 30.0), cost_limit=5.0)["normalized_cost"] == 3.0


def test_lengths_of_violations_by_hand():
    first = episode([0] * 7, [1, 1, 0, 0.5, 0, 0, 2])
    # A stretch does not continue in the next episode.
    second = episode([0] * 5, [1, 1, 1, 1, 0])
    assert results.violation_steps_mean([first]) == pytest.approx((2 + 1 + 1) / 3)
    assert results.violation_steps_mean([first, second]) == pytest.approx((2 + 1 + 1 + 4) / 4)
    assert results.result_row(TASK, [second], **AXES)["violation_steps_mean"] == 4
    assert results.violation_steps_mean([episode([1], [0])]) == 0


@pytest.mark.parametrize(
    "axes, message",
    [
        ({"augmentation": "PROCO"}, "augmentation: found 'PROCO', expected one of proco"),
        ({"shield": "wall"}, "shield: found 'wall', expected one of planner"),
        ({"settings": "xyz"}, "expected a hash of 12 hex digits"),
        ({"cost_limit": 0.0}, "cost_limit: found 0.0, expected a positive number"),
    ],
)
def test_rows_of_unknown_axes_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        row(**axes)


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_code_and_tells_of_changes(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert results._commit_of(package) == "unknown"
    git(tmp_path, "init", "-q")
    # A checkout that does not track the package is another project's.
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    assert results._commit_of(package) == "unknown"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "second")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert results._commit_of(package) == commit and len(commit) == 40
    (tmp_path / "notes.txt").write_text("not code")
    assert results._commit_of(package) == commit
    (package / "__init__.py").write_text("x = 1")
    assert results._commit_of(package) == f"{commit}+changes"


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
    rows = [
        row(augmentation, shield, seed=seed, step=step)
        for augmentation in ("none", "proco")
        for shield in ("filter", "none")
        for seed in (0, 1)
        for step in (5, 10)
    ]
    together, apart = tmp_path / "a.json", tmp_path / "b.json"
    results.write_rows(together, rows)
    for one in reversed(rows):
        results.write_rows(apart, [one])
    assert together.read_bytes() == apart.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.json",
        "b.json",
        "checksums.json",
    ]


def test_a_row_with_the_same_identity_is_replaced(tmp_path):
    path = tmp_path / results.FILE
    results.write_rows(path, [row(), row(seed=1)])
    rows = results.write_rows(path, [row(returns=(9.0, 9.0))])
    assert [(one["seed"], one["return_mean"]) for one in rows] == [(0, 9.0), (1, 1.5)]
    assert results.load_rows(path) == rows


def test_files_that_are_no_results_are_refused(tmp_path):
    path = tmp_path / results.FILE
    with pytest.raises(FileNotFoundError, match="has not evaluated"):
        results.load_rows(path)
    path.write_text('[{"task": "x"')
    with pytest.raises(ValueError, match="is not JSON"):
        results.load_rows(path)
    path.write_text(json.dumps([{"task": "x", "colour": 1}]))
    with pytest.raises(ValueError, match=r"unknown \['colour'\]"):
        results.load_rows(path)
    path.write_text(json.dumps([row() | {"shield": "wall"}]))
    with pytest.raises(ValueError, match="shield: found 'wall'"):
        results.load_rows(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds a dict, expected a list"):
        results.load_rows(path)


@pytest.mark.parametrize("text", ['[{"task": "x"', "{}", '[{"task": "x"}]'])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, text):
    path = tmp_path / results.FILE
    path.write_text(text)
    with pytest.raises(ValueError) as found:
        results.load_rows(path)
    assert f"remove {path}, then run the same command again" in str(found.value)
    assert "without training anew" in str(found.value)


def test_the_last_step_is_reported_even_where_an_earlier_one_was_better():
    rows = [row(step=5, returns=(99.0, 99.0), costs=(0.0, 0.0)), row(step=10), row("none")]
    groups = results.final_rows(rows)
    assert list(groups) == [("fisor", "proco", "none"), ("fisor", "none", "none")]
    assert [one["step"] for one in groups["fisor", "proco", "none"]] == [10]


def test_policies_are_ordered_by_algorithm_augmentation_and_shield():
    axes = [
        (algorithm, augmentation, shield)
        for algorithm in ("bc", "proco")
        for augmentation in ("proco", "control", "none")
        for shield in ("planner", "filter", "none")
    ]
    rows = [row(b, c, algorithm=a) for a, b, c in axes]
    order = np.random.default_rng(0).permutation(len(rows))
    assert list(results.final_rows([rows[i] for i in order])) == axes


def test_a_summary_by_hand():
    rows = [row(seed=s, returns=(0.0, 4.0), costs=(0.0, 20.0)) for s in range(4)]
    (found,) = tables.summarize(rows)
    assert found.episode_return.point == 2 and found.cost.point == 10
    assert found.normalized_cost.point == 1 and found.violation_free_share.point == 0.5
    assert (found.seeds, found.episodes) == (4, 2)
    assert (found.mean_return.point, found.return_std, found.cost_std) == (2, 0, 0)
    assert found.mean_cost.point == 10 and found.mean_cost.low < 10 < found.mean_cost.high
    assert (found.violation_steps_mean, found.violation_steps_std) == (1, 0)
    assert found.cost.low < 10 < found.cost.high


def test_a_summary_of_one_seed_has_no_spread_between_seeds():
    (found,) = tables.summarize([row()])
    assert found.return_std == 0 and found.seeds == 1


def test_violation_lengths_are_averaged_over_the_seeds_that_violate():
    rows = [row(seed=0, costs=(0.0, 0.0)), row(seed=1), row(seed=2)]
    rows[1]["violation_steps_mean"], rows[2]["violation_steps_mean"] = 4.0, 6.0
    (found,) = tables.summarize(rows)
    assert found.violation_steps_mean == 5
    assert found.violation_steps_std == pytest.approx(np.sqrt(2))


def test_the_results_table_names_every_axis_of_a_policy():
    summaries = tables.summarize([row(), row(shield="planner"), row("none")])
    lines = tables.summary_markdown(summaries).splitlines()
    assert lines[1].startswith("| :-- | :-- | :-- | :-- | :-- | --: |")
    assert lines[2].startswith("| PointGoal1 | safe, collect | fisor | proco | planner | 1 x 2 |")
    assert lines[3].startswith("| PointGoal1 | safe, collect | fisor | proco | none | 1 x 2 |")
    assert lines[4].startswith("| PointGoal1 | safe, collect | fisor | none | none | 1 x 2 |")
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1


def test_runs_are_named_where_their_policies_have_the_same_axes():
    one, other = tables.summarize([row()], "runs/a"), tables.summarize([row()], "runs/b")
    lines = tables.summary_markdown([*one, *other]).splitlines()
    assert lines[2].startswith("| runs/a | PointGoal1 |")
    assert lines[3].startswith("| runs/b | PointGoal1 |")
    assert "runs/a" not in tables.summary_markdown(one)


def test_gains_by_hand():
    rows = [
        row(seed=s, returns=(5.0 + s, 7.0), costs=(1.0 + 10 * s, 3.0)) for s in (0, 1)
    ] + [
        row("none", seed=s, returns=(4.0 + s, 6.0), costs=(9.0 + 10 * s, 11.0)) for s in (0, 1)
    ] + [
        row(shield="planner", seed=s, returns=(3.0 + s, 5.0), costs=(0.0 + 10 * s, 2.0))
        for s in (0, 1)
    ]  # fmt: skip
    training, shield = gains.gains(tables.summarize(rows))
    # Every episode differs by as much, and the same episodes are compared: no width is left.
    assert (training.axis, training.seeds, training.episodes) == ("training", 2, 2)
    assert training.cost == (-8, -8, -8) and training.episode_return == (1, 1, 1)
    assert shield.axis == "shield" and shield.policy.shield == "planner"
    assert shield.cost == (-1, -1, -1) and shield.episode_return == (-2, -2, -2)
    lines = gains.gains_markdown(tables.summarize(rows)).splitlines()
    assert "| training | augmentation proco - none | shield none | 2 x 2 | -8.0 [" in lines[2]
    assert "| shield | shield planner - none | augmentation proco | 2 x 2 | -1.0 [" in lines[3]


def test_a_gain_of_equal_policies_is_zero():
    (found,) = gains.gains(tables.summarize([row(), row("none")]))
    assert found.cost == (0, 0, 0) and found.episode_return == (0, 0, 0)


def test_gains_compare_common_seeds_and_episodes_only():
    rows = [row(seed=0, costs=(0.0, 0.0)), row(seed=1), row(seed=2, costs=(50.0, 50.0))]
    rows += [row("none", seed=1), row("none", seed=0, returns=(0.0,) * 3, costs=(1.0, 1.0, 99.0))]
    (found,) = gains.gains(tables.summarize(rows))
    assert (found.seeds, found.episodes) == (2, 2)
    assert found.cost.point == pytest.approx(-0.5)


def test_gains_are_taken_within_a_run_and_need_a_baseline():
    one, other = tables.summarize([row()], "a"), tables.summarize([row("none")], "b")
    assert gains.gains([*one, *other]) == []
    assert gains.gains_markdown([*one, *other]) == ""
    # Without the shield none there is nothing that a shield could be compared with.
    assert gains.gains(tables.summarize([row(shield="planner"), row(shield="filter")])) == []


def test_the_terminal_table_names_every_policy():
    console = Console(width=200, record=True, file=io.StringIO())
    tables.print_summary(tables.summarize([row(shield="planner"), row("none")]), console)
    text = console.export_text()
    assert "fisor + PROCO, planner" in text and "violation-free" in text and "50%" in text


@pytest.mark.parametrize(
    "source, text",
    [
        ("collect", "safe, collect"),
        ("minari:D4RL/x-v0", "safe, minari:D4RL/x-v0"),
        ("dsrl:/home/me/logs.hdf5", "safe, dsrl:logs.hdf5"),
    ],
)
def test_logs_are_named_without_the_folder_of_a_file(source, text):
    assert tables.logs_name(source, "safe") == text


def test_markdown_tables_refuse_ragged_rows_and_escape_bars():
    with pytest.raises(ValueError, match="1 cells under 2"):
        tables.markdown_table(["a", "b"], [["x"]])
    aligned = tables.markdown_table(["a", "b", "c"], [], text_columns=2)
    assert aligned.splitlines()[1] == "| :-- | :-- | --: |"
    assert r"|x\| > 1" in tables.markdown_table(["a"], [["|x| > 1"]])


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "-"), (True, "yes"), (12345, "12,345"), (0.123456, "0.1235"), (12345.6, "12,346"),
        (float("nan"), "-"), ("a", "a"), (np.float32(0.5), "0.5"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_for_reading(value, text):
    assert tables.number(value) == text
