"""The report as a whole: made from what a workdir holds, complete or not."""

import json
import shutil

import pytest
from absl import app, flags
from test_report_results import row

from proco_jax.common.metrics import MetricsWriter
from proco_jax.evaluation import results
from proco_jax.report.__main__ import main
from proco_jax.report.markdown import write_report
from proco_jax.report.nested_tables import nested_tables

QUANTILES = {"mean": 1.0, "min": 0.0, "median": 1.0, "max": 2.0}
EXTENT = {"episodes": 3, "steps": 3000}
CARD = {
    "task": "SafetyPointGoal1",
    "cost_limit": 10.0,
    "regime": "safe",
    "before": EXTENT | {"return": QUANTILES, "cost": QUANTILES},
    "after": EXTENT | {"return": QUANTILES, "cost": QUANTILES},
    "train": EXTENT,
    "holdout": EXTENT,
    "dropped": EXTENT,
    "observation": [],
    "trajectories": [
        {"return": 1.0, "cost": 0.0, "steps": 1000, "part": "train"},
        {"return": 2.0, "cost": 0.0, "steps": 1000, "part": "holdout"},
        {"return": 9.0, "cost": 44.0, "steps": 1000, "part": "dropped"},
    ],
}
CONFIG = {
    "experiment": "toy",
    "variant": "quick",
    "task": "SafetyPointGoal1",
    "algorithms": ["fisor"],
    "augmentations": ["proco", "none"],
    "shields": ["planner", "none"],
    "seeds": 2,
    "seed": 7,
    "cost_limit": 10.0,
    "data": {"source": "dsrl:/home/me/logs.hdf5", "regime": "safe"},
    "train": {"steps": 12000},
    "knowledge": {"labeler": "rule", "model": "gpt"},
}
FEASIBILITY = {
    "fisor-proco": {"false_infeasible_share": 0.25, "auroc": {"10": {"v_h": 0.9}}},
    "fisor-none": {"false_infeasible_share": 0.5, "auroc": {"10": {"v_h": 0.7}}},
}
FORECAST = {
    "fisor-proco": {
        "margin": 0.0125,
        "least_reward": -0.25,
        "rows": [
            {
                "qh_threshold": 0.0,
                "planner_threshold": threshold,
                "violating_episodes": 0.0625,
                "interval_low": 0.03125,
                "interval_high": 0.125,
                "violating": 4,
                "trajectories": 512,
                "steps": 51200,
                "deployed": threshold == 2.0,
            }
            for threshold in (2.0, 4.0)
        ],
    }
}
DYNAMICS = {
    "r2": {"hazards_lidar": {"model": 0.71, "persistence": 0.0, "ridge": 0.4}},
    "open_loop": [
        {"steps": s, "mae_persistence": 0.1, "mae_model": 0.2, "correlation": 0.5, "starts": 9}
        for s in (1, 5)
    ],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a finished run, with its report."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rows = [
        row(augmentation, shield, seed=seed, step=step)
        for augmentation in ("proco", "none")
        for shield in ("planner", "none")
        for seed in (0, 1)
        for step in (50, 100)
    ]
    results.write_rows(folder / results.FILE, rows)
    (folder / "dataset.json").write_text(json.dumps(CARD))
    (folder / "dynamics.json").write_text(json.dumps(DYNAMICS))
    (folder / "cost.json").write_text(json.dumps({"recall": 0.991, "true_recall": None}))
    (folder / "feasibility.json").write_text(json.dumps(FEASIBILITY))
    (folder / "violation_forecast.json").write_text(json.dumps(FORECAST))
    with MetricsWriter(folder) as writer:
        for step in (10, 20, 30):
            writer.write("train/fisor-proco", step, {"agent/q_loss": 1.0 / step})
            writer.write("train/fisor-none", step, {"agent/q_loss": 2.0 / step})
            writer.write("train/fisor-proco/imagination", step, {"imagination/cost": 3.0})
            writer.write("dynamics", step, {"dynamics/loss": 1.0 / step})
            writer.write("dynamics/trajectories", step, {"dynamics/trajectory_loss": 1.0})
    (folder / "pictures").mkdir()
    for name in ("v_h-seed0", "extra"):
        (folder / "pictures" / f"{name}.png").write_bytes(b"")
    write_report(folder)
    return folder


def test_a_report_of_nothing_says_what_is_missing(tmp_path):
    text = write_report(tmp_path).read_text()
    artifacts = ("config", "results", "dataset", "dynamics", "cost", "rollouts", "feasibility")
    for name in (*artifacts, "violation_forecast", "timing"):
        assert f"No `{name}.json`" in text
    assert "No `metrics.jsonl`" in text


def test_a_report_holds_the_numbers_of_its_files(finished):
    text = (finished / "report.md").read_text()
    assert "# toy, variant quick: SafetyPointGoal1" in text
    assert "| logs | safe, dsrl:logs.hdf5 |" in text and "| seeds | 2, the first is 7 |" in text
    assert "| training steps | 12,000 |" in text and "| cost limit | 10 |" in text
    assert "| shields | planner, none |" in text and "| labels from | rule, gpt |" in text
    assert "| fisor | proco | planner | 2 x 2 |" in text and "| fisor | none | none |" in text
    assert "| training | augmentation proco - none | shield none | 2 x 2 | +0.0 [" in text
    assert "| fisor-proco | 0.25 | 0.9 |" in text and "| fisor-none | 0.5 | 0.7 |" in text
    forecast = "| fisor-proco | 0.0125 | -0.25 | 2 | yes | 0.0625 | [0.03125, 0.125] | 4 of 512 |"
    assert f"{forecast} 51,200 |" in text
    assert "| hazards_lidar | 0.71 | 0 | 0.4 |" in text
    assert "| recall | 0.991 |" in text and "| true recall | - |" in text
    assert "No `rollouts.json`" in text


def test_the_sections_follow_each_other_from_results_to_details(finished):
    text = (finished / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Results",
        "## Logs",
        "## Dynamics model",
        "## Cost network",
        "## Imagined rollouts",
        "## Feasibility critics",
        "## Violation forecast",
        "## Time",
        "## Training metrics",
        "## Other pictures",
    ]
    assert text.index("| task | logs |") < text.index("### Gains") < text.index("## Logs")


def test_a_config_without_a_setting_is_refused(finished, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"train": {}}))
    with pytest.raises(ValueError, match=r"has no setting 'train\.steps'"):
        write_report(tmp_path)


def test_every_picture_is_embedded_once_and_is_there(finished):
    text = (finished / "report.md").read_text()
    # Second parts of a training have pictures of their own.
    stages = ("train", "train-imagination", "dynamics", "dynamics-trajectories")
    metrics = [f"metrics-{name}" for name in stages]
    for name in ("results", "learning_curves", "open_loop", *metrics):
        assert text.count(f"(pictures/{name}.png)") == 1
        assert (finished / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    feasibility, later = text.index("## Feasibility critics"), text.index("## Violation forecast")
    assert feasibility < text.index("(pictures/v_h-seed0.png)") < later
    assert text.index("## Other pictures") < text.index("(pictures/extra.png)")
    assert text.count("(pictures/v_h-seed0.png)") == 1


def test_a_report_written_again_is_the_same(finished):
    before = (finished / "report.md").read_bytes()
    write_report(finished)
    assert (finished / "report.md").read_bytes() == before


def test_a_report_holds_no_path_of_the_machine(finished):
    assert str(finished) not in (finished / "report.md").read_text()


def test_a_broken_file_is_named(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    (folder / "cost.json").write_text("{")
    with pytest.raises(ValueError, match=r"cost\.json is damaged"):
        write_report(folder)


def test_a_missing_workdir_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the workdir"):
        write_report(tmp_path / "nowhere")


def command(*arguments):
    """Runs the command in this process, with its flags as they are by default."""
    values = flags.FLAGS["write"]
    try:
        main(flags.FLAGS(["report", *map(str, arguments)]))
    finally:
        values.value = values.default


def test_the_command_prints_results_and_gains_of_several_runs(finished, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    command(finished, copy)
    tables = capsys.readouterr().out.split("### Gains")
    results_lines, gains_lines = (
        [line for line in text.splitlines() if line.startswith("|")] for text in tables
    )
    assert len(results_lines) == 2 + 2 * 4
    # Of each run: one training gain, two gains of the planner.
    assert len(gains_lines) == 2 + 2 * 3
    for lines in (results_lines, gains_lines):
        assert sum(line.startswith(f"| {copy} |") for line in lines) == len(lines[2:]) / 2


def test_the_command_writes_reports_on_request(finished, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "report.md").unlink()
    command(copy)
    assert not (copy / "report.md").exists()
    command("--write", copy)
    assert (copy / "report.md").read_bytes() == (finished / "report.md").read_bytes()
    assert f"wrote {copy / 'report.md'}" in capsys.readouterr().err


def test_the_command_fails_with_a_message(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*has not evaluated a policy yet"):
        command(tmp_path)
    with pytest.raises(app.UsageError, match="no workdir given"):
        command()


def test_mappings_with_the_same_keys_share_a_table():
    text = nested_tables(
        {"proco": {"auroc": {"10": {"v_h": 0.9}}}, "baseline": {"auroc": {"10": {"v_h": 0.5}}}}
    )
    assert "| AUROC / 10 / V_h |" in text
    assert "| proco | 0.9 |" in text and "| baseline | 0.5 |" in text


def test_wide_tables_are_transposed():
    wide = {name: {f"key_{i}": i for i in range(12)} for name in ("a", "b")}
    text = nested_tables(wide)
    assert "|  | a | b |" in text and "| key 11 | 11 | 11 |" in text


def test_lists_become_rows_or_are_counted():
    text = nested_tables(
        {"rows": [{"x": 1}, {"x": 2, "y": None}], "few": [1, 2], "many": list(range(99))}
    )
    assert "| 2 | - |" in text and "| few | 1, 2 |" in text and "| many | 99 values |" in text


def test_nothing_is_lost_in_deeply_nested_content():
    content = {"a": {"b": {"c": {"d": 0.125}}, "rows": [{"e": {"f": 0.375}}]}, "empty": {}}
    text = nested_tables(content)
    assert "0.125" in text and "0.375" in text
