"""The report as a whole: made from what a workdir holds, complete or not."""

import json
import shutil

import pytest
from test_report_results import row

from proco_jax.common.metrics import MetricsWriter
from proco_jax.config.schema import Config, to_json
from proco_jax.evaluation import results
from proco_jax.report.__main__ import main
from proco_jax.report.markdown import write_report
from proco_jax.report.nested_tables import tidy

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
    (folder / "config.json").write_text(to_json(Config(experiment="toy", variant="quick")))
    rows = [row(proco=p, seed=s, step=t) for p in (True, False) for s in (0, 1) for t in (50, 100)]
    results.write_rows(folder / results.FILE, rows)
    (folder / "dataset.json").write_text(json.dumps(CARD))
    (folder / "dynamics.json").write_text(json.dumps(DYNAMICS))
    (folder / "cost.json").write_text(json.dumps({"recall": 0.991, "true_recall": None}))
    with MetricsWriter(folder) as writer:
        for step in (10, 20, 30):
            writer.write("train/proco", step, {"agent/q_loss": 1.0 / step})
            writer.write("train/baseline", step, {"agent/q_loss": 2.0 / step})
    (folder / "pictures").mkdir()
    (folder / "pictures" / "v_h-seed0.png").write_bytes(b"")
    write_report(folder)
    return folder


def test_a_report_of_nothing_says_what_is_missing(tmp_path):
    text = write_report(tmp_path).read_text()
    for name in ("config", "results", "dataset", "dynamics", "cost", "rollouts", "feasibility"):
        assert f"No `{name}.json`" in text
    assert "No `metrics.jsonl`" in text


def test_a_report_holds_the_numbers_of_its_files(finished):
    text = (finished / "report.md").read_text()
    assert "# toy, variant quick: SafetyPointGoal1" in text
    assert "| fisor + PROCO | 2 x 2 |" in text and "| fisor | 2 x 2 |" in text
    assert "| hazards_lidar | 0.71 | 0 | 0.4 |" in text
    assert "| recall | 0.991 |" in text and "| true recall | - |" in text
    assert "No `rollouts.json`" in text


def test_every_picture_is_embedded_once_and_is_there(finished):
    text = (finished / "report.md").read_text()
    for name in ("policies", "learning_curves", "open_loop", "metrics-train"):
        assert text.count(f"(pictures/{name}.png)") == 1
        assert (finished / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert text.index("## Feasibility") < text.index("(pictures/v_h-seed0.png)")
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
    with pytest.raises(ValueError, match=r"cost\.json is not JSON"):
        write_report(folder)


def test_a_missing_workdir_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the workdir"):
        write_report(tmp_path / "nowhere")


def test_the_command_prints_one_table_of_several_runs(finished, capsys):
    assert main([str(finished), str(finished)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4


def test_the_command_fails_clearly(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "hasn't evaluated" in capsys.readouterr().err


def test_mappings_with_the_same_keys_share_a_table():
    text = tidy(
        {"proco": {"auroc": {"10": {"v_h": 0.9}}}, "baseline": {"auroc": {"10": {"v_h": 0.5}}}}
    )
    assert "| AUROC / 10 / V_h |" in text
    assert "| proco | 0.9 |" in text and "| baseline | 0.5 |" in text


def test_wide_tables_are_turned():
    wide = {name: {f"key_{i}": i for i in range(12)} for name in ("a", "b")}
    text = tidy(wide)
    assert "|  | a | b |" in text and "| key 11 | 11 | 11 |" in text


def test_lists_become_rows_or_are_counted():
    text = tidy({"rows": [{"x": 1}, {"x": 2, "y": None}], "few": [1, 2], "many": list(range(99))})
    assert "| 2 | - |" in text and "| few | 1, 2 |" in text and "| many | 99 values |" in text


def test_nothing_is_lost_in_deeply_nested_content():
    content = {"a": {"b": {"c": {"d": 0.125}}, "rows": [{"e": {"f": 0.375}}]}, "empty": {}}
    text = tidy(content)
    assert "0.125" in text and "0.375" in text
