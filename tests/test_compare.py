"""The comparison as a command: a run for each algorithm, resumed, with what is missing.

What stands for the pipeline here writes made-up rows; `test_pipeline.py` has a comparison by the
pipeline itself.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import small_config
from test_own_system import tank_config
from test_report_results import row

from proco_jax import compare
from proco_jax.config.schema import Config
from proco_jax.evaluation.results import load_rows, write_rows
from proco_jax.pipeline.workdir import ConfigMismatchError, Run
from proco_jax.report.__main__ import write_runs

AXES = {
    "augmentations": "('none','control','proco')",
    "shields": "('none','planner')",
    "seeds": "2",
}
CARD = {"after": {"episodes": 6, "return": {"mean": 3.5}, "cost": {"mean": 0.0}}}


def config_of(home: Path, *algorithms: str, **changes: str) -> Config:
    return small_config(home, **AXES, algorithms=repr(algorithms), **changes)


def content_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "comparison.json").read_text())


class Pipeline:
    """Stands for `run_all`: writes a row for each seed of each policy, and one of an interim step.

    Attributes:
      made: the algorithms that it ran, in order.
      before: called with each run first.
    """

    def __init__(self) -> None:
        self.made: list[str] = []
        self.before: Callable[[Run], None] = lambda run: None

    def __call__(self, run: Run) -> Path:
        (algorithm,) = run.config.algorithms
        self.made.append(algorithm)
        self.before(run)
        config, steps = run.config, run.config.train.steps
        policies = [(a, s) for a in config.augmentations for s in config.shields]
        rows = [
            row(augmentation, shield, algorithm=algorithm, seed=seed, step=step)
            for augmentation, shield in policies
            for seed in range(config.seed, config.seed + config.seeds)
            for step in (steps // 2, steps)
        ]
        write_rows(run.workdir / "results.json", rows)
        run.write_json("dataset.json", CARD)
        run.write_json("timing.json", {"train": 2.0, "evaluation": 1.5})
        run.write_json("done.json", {"steps": steps, "files": ["results.json"]})
        return run.workdir


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    # Drawing is the slowest part, and the same for every comparison.
    monkeypatch.setattr(compare, "write_comparison", _without_pictures)
    monkeypatch.setattr(compare, "use_cores_as_devices", lambda count: None)
    made = Pipeline()
    monkeypatch.setattr(compare.stages, "run_all", made)
    return made


def _without_pictures(folder: Path, *rest: Any) -> Path:
    compare.write_tables(folder, *rest)
    return folder / "comparison.html"


def test_every_algorithm_is_compared_on_every_axis(tmp_path: Path, pipeline: Pipeline) -> None:
    workdir = tmp_path / "run"
    compare.compare_algorithms(config_of(tmp_path, "bc", "cpq"), workdir, command="a command")
    content = content_of(workdir)
    assert pipeline.made == ["bc", "cpq"] and len(content["policies"]) == 2 * 3 * 2
    assert {one["status"] for one in content["policies"]} == {"complete"}
    # Without the rows of the interim step.
    assert {one["step"] for one in load_rows(workdir / "results.json")} == {40}
    assert len(load_rows(workdir / "results.json")) == 2 * 3 * 2 * 2
    assert [finding["planned"] for finding in content["findings"]] == [2, 2, 2]
    assert content["provenance"]["command"] == "a command"
    assert content["provenance"]["time"] == "bc 4 s, cpq 4 s"
    assert content["settings"][0]["logs"] == {"return_mean": 3.5, "cost_mean": 0, "episodes": 6}
    assert "2 algorithms on PointGoal1" in content["title"]


def test_what_is_finished_is_skipped_and_an_algorithm_can_be_added(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    workdir = tmp_path / "run"
    compare.compare_algorithms(config_of(tmp_path, "bc"), workdir)
    before = (workdir / "bc" / "results.json").read_bytes()
    compare.compare_algorithms(config_of(tmp_path, "bc", "cpq"), workdir)
    assert pipeline.made == ["bc", "cpq"]
    assert (workdir / "bc" / "results.json").read_bytes() == before
    content = content_of(workdir)
    compare.compare_algorithms(config_of(tmp_path, "bc", "cpq"), workdir)
    assert pipeline.made == ["bc", "cpq"] and content_of(workdir) == content
    # Left out again, it is not in the report any more.
    compare.compare_algorithms(config_of(tmp_path, "bc"), workdir)
    assert {one["algorithm"] for one in content_of(workdir)["policies"]} == {"bc"}


def test_an_interrupted_comparison_shows_what_is_missing_and_resumes(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    def interrupt(run: Run) -> None:
        if run.config.algorithms == ("cpq",):
            raise KeyboardInterrupt

    workdir, config = tmp_path / "run", config_of(tmp_path, "bc", "cpq")
    pipeline.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        compare.compare_algorithms(config, workdir)
    found = {(one["algorithm"], one["status"]) for one in content_of(workdir)["policies"]}
    assert found == {("bc", "complete"), ("cpq", "missing")}
    pipeline.before = lambda run: None
    compare.compare_algorithms(config, workdir)
    assert pipeline.made == ["bc", "cpq", "cpq"]
    assert {one["status"] for one in content_of(workdir)["policies"]} == {"complete"}


def test_an_algorithm_that_diverges_is_named_and_the_others_go_on(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    def diverge(run: Run) -> None:
        if run.config.algorithms == ("bear_lag",):
            raise FloatingPointError("train/bear_lag-none, step 10: loss not finite")

    workdir = tmp_path / "run"
    pipeline.before = diverge
    with pytest.raises(FloatingPointError, match=r"bear_lag diverged, the report is .*html"):
        compare.compare_algorithms(config_of(tmp_path, "bear_lag", "bc"), workdir)
    status = {(one["algorithm"], one["status"]) for one in content_of(workdir)["policies"]}
    assert status == {("bear_lag", "missing"), ("bc", "complete")}
    text = (workdir / "comparison.md").read_text()
    assert "bear_lag: diverged: train/bear_lag-none, step 10: loss not finite" in text


def test_another_config_is_refused_before_anything_is_done(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    workdir = tmp_path / "run"
    compare.compare_algorithms(config_of(tmp_path, "bc"), workdir)
    config = config_of(tmp_path, "fisor", "bc", **{"train.steps": "50"})
    with pytest.raises(ConfigMismatchError, match=r"train\.steps: 40 -> 50"):
        compare.compare_algorithms(config, workdir)
    assert pipeline.made == ["bc"] and not (workdir / "fisor").exists()


def test_a_system_without_an_environment_is_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    config = tank_config(**{"system.env": ""})
    with pytest.raises(ValueError, match=r"--config\.system\.env: found none, but a comparison"):
        compare.compare_algorithms(config, tmp_path / "run")
    assert not pipeline.made and not (tmp_path / "run").exists()


def test_rows_of_a_removed_run_are_left_out(tmp_path: Path, pipeline: Pipeline) -> None:
    workdir = tmp_path / "run"
    compare.compare_algorithms(config_of(tmp_path, "bc", "cpq"), workdir)
    for name in ("bc", "cpq"):
        shutil.rmtree(workdir / name)
    compare.compare_algorithms(config_of(tmp_path, "bc", **{"train.steps": "20"}), workdir)
    rows = load_rows(workdir / "results.json")
    assert {(one["algorithm"], one["step"]) for one in rows} == {("bc", 20)}


@pytest.mark.parametrize(
    "changes, message",
    [({"train.steps": "7"}, r"train\.steps"), ({"task": "SafetyPointGoal9"}, "PointGoal9")],
)
def test_a_config_that_cannot_be_run_is_refused(
    tmp_path: Path, pipeline: Pipeline, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare.compare_algorithms(config_of(tmp_path, "bc", **changes), tmp_path / "run")
    assert not pipeline.made and not (tmp_path / "run").exists()


def test_several_workdirs_give_one_comparison(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    compare.compare_algorithms(config_of(tmp_path, "bc", "cpq"), workdir)
    monkeypatch.setattr("proco_jax.report.__main__.write_comparison", _without_pictures)
    write_runs(tmp_path / "both", [workdir / "bc", workdir / "cpq"])
    content = content_of(tmp_path / "both")
    assert len(content["policies"]) == 12 and {one["run"] for one in content["policies"]} == {""}
    assert content["settings"][0]["logs"]["return_mean"] == 3.5
    # The same policies twice are told apart by their workdirs.
    write_runs(tmp_path / "same", [workdir / "bc", workdir])
    runs = {one["run"] for one in content_of(tmp_path / "same")["policies"]}
    assert runs == {str(workdir / "bc"), str(workdir)}


def test_runs_of_different_lengths_are_told_apart(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("short", "long")]
    for folder, steps in zip(folders, ("20", "60"), strict=True):
        compare.compare_algorithms(config_of(tmp_path, "bc", **{"train.steps": steps}), folder)
    monkeypatch.setattr("proco_jax.report.__main__.write_comparison", _without_pictures)
    write_runs(tmp_path / "both", folders)
    policies = content_of(tmp_path / "both")["policies"]
    assert {one["run"] for one in policies} == {str(folder) for folder in folders}
    assert {one["status"] for one in policies} == {"complete"}
