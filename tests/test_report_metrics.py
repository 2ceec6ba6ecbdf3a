import json
import sys

import numpy as np
import pytest

from proco_jax.common.metrics import FILE, MetricsWriter, load_metrics


def read(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_line_is_flat_and_holds_the_mean_over_seeds(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(
            "train/bc-proco", 250, {"qh/loss": np.array([1.0, 2.0, 6.0]), "steps_per_s": 10}
        )
    assert read(tmp_path) == [
        {"stage": "train/bc-proco", "step": 250, "qh/loss": 3.0, "steps_per_s": 10.0}
    ]


def test_what_is_not_finite_becomes_null(tmp_path):
    MetricsWriter(tmp_path).write("cost", 1, {"loss": np.array([1.0, np.nan])})
    assert read(tmp_path)[0]["loss"] is None


def test_resume_leaves_no_line_twice_and_other_stages_alone(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write("dynamics", 900, {"loss": 1.0})
    for step in (100, 200, 300):
        writer.write("train", step, {"loss": step})
    again = MetricsWriter(tmp_path)
    again.resume("train", 100)
    for step in (200, 300):
        again.write("train", step, {"loss": step})
    assert [(line["stage"], line["step"]) for line in read(tmp_path)] == [
        ("dynamics", 900),
        ("train", 100),
        ("train", 200),
        ("train", 300),
    ]


def test_a_line_torn_by_a_kill_is_dropped(tmp_path):
    MetricsWriter(tmp_path).write("train", 1, {"loss": 1.0})
    with (tmp_path / FILE).open("a") as file:
        file.write('{"stage": "train", "st')
    assert len(load_metrics(tmp_path / FILE)) == 1
    MetricsWriter(tmp_path).write("train", 2, {"loss": 1.0})
    assert [line["step"] for line in read(tmp_path)] == [1, 2]


def test_sealed_lines_are_checked_and_later_ones_may_follow(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write("train", step, {"loss": 0.25})
            writer.seal()
        writer.write("train", 4, {"loss": 0.5})
    whole = (tmp_path / FILE).read_text()
    assert len(load_metrics(tmp_path / FILE)) == 4
    lines = whole.splitlines(keepends=True)
    for damaged in (whole.replace("0.25", "0.26", 1), "".join(lines[1:]), "".join(lines[:2])):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(
            ValueError, match=r"metrics\.jsonl is damaged.*remove it; training curves"
        ):
            MetricsWriter(tmp_path)
    # The remedy of that error.
    (tmp_path / FILE).unlink()
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 4, {"loss": 0.5})
        writer.resume("train", 4)
    assert [line["step"] for line in load_metrics(tmp_path / FILE)] == [4]


def test_lost_curves_are_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("proco_jax.common.metrics.logging.warning", lambda *args: told.append(args))
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 1, {"loss": 0.25})
        writer.seal()
    (tmp_path / FILE).unlink()
    for _ in range(2):
        MetricsWriter(tmp_path)
    assert len(told) == 1 and "training curves begin anew" in told[0][0]


def test_lines_that_a_resumption_drops_are_no_damage(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write("train", step, {"loss": 0.25})
        writer.seal()
    with MetricsWriter(tmp_path) as writer:
        writer.resume("train", 1)
        writer.write("train", 2, {"loss": 0.5})
    assert [line["step"] for line in load_metrics(tmp_path / FILE)] == [1, 2]


def test_a_foreign_line_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"stage": "a", "step": 1}\nhello\n')
    with pytest.raises(ValueError, match="line 2"):
        MetricsWriter(tmp_path)


def test_metrics_cannot_hide_stage_or_step(tmp_path):
    with pytest.raises(ValueError, match="step"):
        MetricsWriter(tmp_path).write("train", 1, {"step": 2.0})


def test_lines_that_were_all_removed_may_be_followed_by_new_ones(tmp_path):
    MetricsWriter(tmp_path).write("train", 1, {"loss": 1.0})
    # Killed before a checkpoint, twice: each time the training begins anew.
    for _ in range(2):
        writer = MetricsWriter(tmp_path)
        writer.resume("train", 0)
        assert read(tmp_path) == []
        writer.write("train", 1, {"loss": 2.0})
    assert [line["loss"] for line in load_metrics(tmp_path / FILE)] == [2.0]


def test_tensorboard_is_asked_for_clearly_when_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="--extra tensorboard"):
        MetricsWriter(tmp_path, tensorboard=True)


def test_tensorboard_writes_one_run_a_stage(tmp_path):
    pytest.importorskip("tensorboardX")
    with MetricsWriter(tmp_path, tensorboard=True) as writer:
        writer.write("train/bc-proco", 1, {"loss": 1.0})
        writer.resume("train/bc-proco", 1)
        writer.write("train/bc-proco", 2, {"loss": 1.0})
        writer.write("train/bc-none", 2, {"loss": 1.0})
    folders = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert folders == ["train-bc-none", "train-bc-proco"]
    assert all(any(path.iterdir()) for path in (tmp_path / "tensorboard").iterdir())
