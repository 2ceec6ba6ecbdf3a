"""The comparison as a command: one pipeline for all algorithms, resumed, with what is missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_run import small_config

from proco_jax import compare
from proco_jax.config.schema import Config
from proco_jax.evaluation.results import load_rows
from proco_jax.pipeline.workdir import ConfigMismatchError
from proco_jax.report.__main__ import write_runs

AXES = {
    "augmentations": "('none','control','proco')",
    "shields": "('none','filter')",
    "seeds": "2",
    "evaluation.interim_episodes": "0",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


def config_of(home: Path, *algorithms: str, **changes: str) -> Config:
    return small_config(home, **AXES, algorithms=repr(algorithms), **changes)


def content_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "comparison.json").read_text())


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    """A comparison of two algorithms: the second one is added after the first one is finished."""
    workdir = home / "runs" / "whole"
    first = compare.compare_algorithms(config_of(home, "bc"), workdir)
    assert first.read_text().count("<img") >= 4
    (workdir / "bc" / "untouched").touch()
    return compare.compare_algorithms(config_of(home, "bc", "cpq"), workdir, command="a command")


@pytest.mark.slow
def test_every_algorithm_is_compared_on_every_axis(home: Path, whole: Path) -> None:
    workdir = whole.parent
    content, rows = content_of(workdir), load_rows(workdir / "results.json")
    assert len(rows) == 2 * 3 * 2 * 2
    assert len(content["policies"]) == 12
    assert {one["status"] for one in content["policies"]} == {"complete"}
    assert [finding["compared"] for finding in content["findings"]] == [2, 2, 2]
    assert content["provenance"]["command"] == "a command"
    assert re.search(r"bc \d+ s, cpq \d+ s", content["provenance"]["time"])
    card = json.loads((workdir / "cpq" / "dataset.json").read_text())
    assert content["settings"][0]["logs"]["return_mean"] == card["after"]["return"]["mean"]
    # One dynamics model, one set of labels and one cost network for all.
    made = {
        kind.name: len(list(kind.glob("*/artifact.json")))
        for kind in (workdir.parent / "store").iterdir()
    }
    assert made == {"dynamics": 1, "labels": 1, "cost": 1, "policies": 6}


@pytest.mark.slow
def test_the_same_command_skips_what_is_finished(
    home: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any) -> None:
        raise AssertionError("a finished run was made again")

    before = content_of(whole.parent)
    monkeypatch.setattr(compare.stages, "run_all", trained)
    again = compare.compare_algorithms(
        config_of(home, "bc", "cpq"), whole.parent, None, "a command"
    )
    assert again == whole and content_of(whole.parent) == before


@pytest.mark.slow
def test_an_algorithm_that_diverges_is_named_and_the_others_are_reported(
    home: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all = compare.stages.run_all

    def diverge(run: Any) -> Path:
        if run.config.algorithms == ("bear_lag",):
            raise FloatingPointError("train/bear_lag-none, step 10: loss not finite")
        return run_all(run)

    monkeypatch.setattr(compare.stages, "run_all", diverge)
    config = config_of(home, "bear_lag", "bc")
    with pytest.raises(FloatingPointError, match=r"bear_lag diverged, the report is .*html"):
        compare.compare_algorithms(config, whole.parent)
    content = content_of(whole.parent)
    status = {(one["algorithm"], one["status"]) for one in content["policies"]}
    assert status == {("bear_lag", "missing"), ("bc", "complete")}
    assert "loss not finite" in (whole.parent / "comparison.md").read_text()
    assert "loss not finite" in (whole.parent / "comparison.html").read_text()


@pytest.mark.slow
def test_another_config_is_refused_before_anything_is_done(home: Path, whole: Path) -> None:
    config = config_of(home, "fisor", "bc", **{"train.steps": "50"})
    with pytest.raises(ConfigMismatchError, match=r"train\.steps: 40 -> 50"):
        compare.compare_algorithms(config, whole.parent)
    assert not (whole.parent / "fisor").exists()


@pytest.mark.slow
def test_several_workdirs_give_one_comparison(home: Path, whole: Path, tmp_path: Path) -> None:
    path = write_runs(tmp_path / "both", [whole.parent / "bc", whole.parent / "cpq"])
    content = content_of(path.parent)
    assert len(content["policies"]) == 12 and {p["run"] for p in content["policies"]} == {""}
    # The same policies twice are told apart by their workdirs.
    path = write_runs(tmp_path / "same", [whole.parent / "bc", whole.parent])
    runs = {one["run"] for one in content_of(path.parent)["policies"]}
    assert runs == {str(whole.parent / "bc"), str(whole.parent)}


def test_a_config_that_cannot_be_run_is_refused(home: Path, tmp_path: Path) -> None:
    config = config_of(home, "bc", **{"train.steps": "7"})
    with pytest.raises(ValueError, match=r"train\.steps: found 7"):
        compare.compare_algorithms(config, tmp_path / "run")
    config = config_of(home, "bc", task="SafetyPointGoal9")
    with pytest.raises(ValueError, match="PointGoal9"):
        compare.compare_algorithms(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
