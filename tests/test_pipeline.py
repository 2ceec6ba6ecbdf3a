"""The whole run, small: every stage, the shared store, kills, damaged files, other commands."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from core_toys import same_leaves
from small_run import (
    ROOT,
    TIMEOUT_S,
    command,
    environment,
    finish,
    killed_command,
    run_here,
    small_config,
)

from proco_jax import ablations, compare, ladder
from proco_jax.algorithms import bc
from proco_jax.common.checksums import write_recorded
from proco_jax.config.schema import ANY_REWARD
from proco_jax.deployment.calibration import least_reward
from proco_jax.deployment.policy import load_policies
from proco_jax.deployment.shield import SHIELD_VERSION
from proco_jax.knowledge.replay import Answer, Answerer, completion, serve
from proco_jax.pipeline import policies, stages, world_model
from proco_jax.pipeline.store import ArtifactError
from proco_jax.pipeline.workdir import open_run
from proco_jax.report.markdown import write_report

pytestmark = pytest.mark.slow

MAIN = "proco_jax.main"
KEY = "sk-test-0123456789abcdef"
RULE = json.dumps({"rule": "torso_velocity_x > 0.7402 m/s", "explanation": "too fast"})
# Steps that chunks do not divide.
WHOLE = {
    "experiment_file": "hopper_velocity",
    "algorithms": "('proco', 'bc')",
    "dynamics.steps": "50",
}
# One policy without world model, and one under a shield.
PLAIN = WHOLE | {"algorithms": "('bc',)", "augmentations": "('none',)", "shields": "('none',)"}
GUARDED = WHOLE | {"algorithms": "('bc',)", "shields": "('filter',)", "shield.samples": "3"}
KILLED = WHOLE | {
    "algorithms": "('proco',)",
    "augmentations": "('proco',)",
    "shields": "('planner',)",
}
NAVIGATION = KILLED | {"experiment_file": "point_goal", "shields": "('planner', 'none')"}
FILES = (
    "config.json",
    "dataset.json",
    "dynamics.json",
    "cost.json",
    "rollouts.json",
    "feasibility.json",
    "violation_forecast.json",
    "results.json",
    "metrics.jsonl",
    "timing.json",
    "done.json",
    "report.md",
    "pictures/dataset.png",
    "pictures/cost.png",
    "pictures/open_loop.png",
)
LEARNERS = ("proco-proco", "proco-none", "bc-proco", "bc-none")
KINDS = (
    "dynamics",
    "bonus",
    "termination",
    "labels",
    "cost",
    "accurate_cost",
    "policies",
    "episodes",
)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds the datasets, the store and the workdirs of the tests here."""
    folder = tmp_path_factory.mktemp("pipeline")
    settings = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        # The checker refuses a scan over keys inside the vmap over members.
        "jax_debug_key_reuse": False,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    with pytest.MonkeyPatch.context() as patch:
        # Commands ask for devices, which this process has chosen already.
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        yield folder
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    """The workdir of a run that nothing disturbed."""
    return run_here(small_config(home, **WHOLE), home / "finished")


@pytest.fixture(scope="module")
def navigation(home: Path) -> tuple[Path, list[str]]:
    """The workdir and the log of a run on PointGoal1, whose observations have rings."""
    lines: list[str] = []
    return run_here(small_config(home, **NAVIGATION), home / "navigation", lines.append), lines


@pytest.fixture(scope="module")
def guarded(home: Path, finished: Path) -> Path:
    """The workdir of a run that differs from `finished` in its shield only, and trains nothing."""
    with pytest.MonkeyPatch.context() as patch:
        forbid_training(patch)
        return run_here(small_config(home, **GUARDED), home / "guarded")


def forbid_training(patch: pytest.MonkeyPatch) -> None:
    """Makes every fit an error."""

    def run_fit(run: Any, stage: str, *rest: Any, **more: Any) -> None:
        raise AssertionError(f"{stage} is trained")

    patch.setattr(world_model, "run_fit", run_fit)
    patch.setattr(policies, "run_fit", run_fit)


def kill_at(patch: pytest.MonkeyPatch, module: Any, name: str, after: int = 0) -> None:
    """Raises `Killed` in place of a function, after a number of calls."""
    original, calls = getattr(module, name), iter(range(after))

    def killed(*arguments: Any, **more: Any) -> Any:
        if next(calls, None) is None:
            raise Killed
        return original(*arguments, **more)

    patch.setattr(module, name, killed)


def rows_of(workdir: Path, **wanted: Any) -> list[dict]:
    rows = json.loads((workdir / "results.json").read_text())
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def lines_of(workdir: Path, stage: str) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage]


def entries(home: Path, kind: str) -> set[str]:
    """The finished artifacts of a kind in the store of a folder."""
    return {path.parent.name for path in (home / "store" / kind).glob("*/artifact.json")}


def same_policies(left: Path, right: Path, algorithm: str, augmentation: str) -> None:
    found = [load_policies(workdir, algorithm, augmentation)[1] for workdir in (left, right)]
    same_leaves(*found)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_leaves_every_file_and_its_rows(finished: Path) -> None:
    missing = [name for name in FILES if not (finished / name).stat().st_size]
    assert missing == []
    names = ("algorithm", "augmentation", "shield", "seed", "step")
    found = [tuple(row[name] for name in names) for row in rows_of(finished)]
    learners = [tuple(name.split("-")) for name in LEARNERS]
    last = {(*x, y, z, 40) for x in learners for y in ("none", "filter", "planner") for z in (0, 1)}
    interim = {(*x, "none", z, 20) for x in learners for z in (0, 1)}
    assert len(found) == len(set(found)) and set(found) == last | interim
    assert [path.name for path in finished.iterdir() if path.name.startswith(".")] == [".lock"]
    lines = map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
    stages_seen = {line["stage"] for line in lines}
    fits = {"dynamics", "dynamics/trajectories", "cost", "accurate_cost"}
    fits.add("train/proco-proco/imagination")
    assert stages_seen == fits | {f"train/{name}" for name in LEARNERS}


def test_fits_do_exactly_the_steps_that_the_config_names(home: Path, finished: Path) -> None:
    assert [line["step"] for line in lines_of(finished, "dynamics")] == [20, 40, 50]
    assert [line["step"] for line in lines_of(finished, "cost")] == [30]
    for name in LEARNERS:
        steps = [line["step"] for line in lines_of(finished, f"train/{name}")]
        assert steps == [10, 20, 30, 40]
    improved = lines_of(finished, "train/proco-proco/imagination")
    assert [line["step"] for line in improved] == [2, 4, 5]
    (folder,) = (home / "store" / "dynamics").glob("*/checkpoints")
    assert sorted(path.name for path in folder.glob("[0-9]*")) == ["40", "50"]


def test_a_finished_run_prints_its_table_again_and_trains_nothing(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("results.json", "metrics.jsonl", "timing.json")
    before = [(finished / name).read_bytes() for name in kept]
    forbid_training(monkeypatch)
    lines: list[str] = []
    run_here(small_config(home, **WHOLE), finished, lines.append)
    assert lines == [f"report: {finished / 'report.md'}"]
    assert [(finished / name).read_bytes() for name in kept] == before


def test_a_second_run_with_the_same_settings_takes_everything_from_the_store(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    again = run_here(small_config(home, **WHOLE), home / "again")
    # Interim evaluations belong to the run that trained.
    assert rows_of(again) == rows_of(finished, step=40)
    for name in FILES[1:7]:
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name
    for name in LEARNERS:
        same_policies(again, finished, *name.split("-"))
    assert not (again / "metrics.jsonl").exists()


def test_a_changed_shield_retrains_nothing_and_changes_its_own_rows(
    finished: Path, guarded: Path
) -> None:
    rows = rows_of(guarded)
    assert {(row["algorithm"], row["shield"], row["step"]) for row in rows} == {
        ("bc", "filter", 40)
    }
    assert len(rows) == 4
    before = {row["settings"] for row in rows_of(finished)}
    assert not before & {row["settings"] for row in rows}


@pytest.mark.parametrize(
    ("setting", "refitted"), [("rollouts.horizon", 0), ("exploration.horizon", 1)]
)
def test_a_changed_horizon_refits_only_what_depends_on_it(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, setting: str, refitted: int
) -> None:
    before = {kind: entries(home, kind) for kind in KINDS}
    kill_at(monkeypatch, policies, "run_fit")
    changes = GUARDED | {setting: "5"}
    with pytest.raises(Killed):
        run_here(small_config(home, **changes), home / f"horizon-{refitted}")
    added = {kind: len(entries(home, kind) - before[kind]) for kind in KINDS}
    # The first policy, trained with the augmentation, is to be trained anew.
    refits = dict.fromkeys(("labels", "cost", "accurate_cost"), refitted)
    assert added == dict.fromkeys(KINDS, 0) | refits


def test_without_augmentation_and_shield_a_run_needs_neither_dynamics_nor_knowledge(
    home: Path, finished: Path
) -> None:
    changes = PLAIN | {"knowledge.file": str(home / "missing.json"), "rollouts.horizon": "5"}
    config = small_config(home, **changes)
    config.data.root = str(home / "data")
    plain = run_here(config, home / "plain" / "run")
    assert [path.name for path in (home / "plain" / "store").iterdir()] == ["policies"]
    assert not (plain / "dynamics.json").exists() and not (plain / "cost.json").exists()
    # What it does not use does not change it, nor does it enter the hash of its artifact.
    wanted = {"algorithm": "bc", "augmentation": "none", "shield": "none"}
    assert rows_of(plain) == rows_of(finished, **wanted)
    assert entries(home / "plain", "policies") < entries(home, "policies")


def test_a_run_with_rings_has_their_map_and_a_model_of_the_bonus(
    navigation: tuple[Path, list[str]],
) -> None:
    workdir, lines = navigation
    for name in (*FILES, "pictures/feasibility_map.png"):
        assert (workdir / name).stat().st_size, name
    assert len(rows_of(workdir, shield="planner", step=40)) == 2
    assert sum("rare bonus of" in line for line in lines) == 1


def test_the_planner_searches_for_as_much_reward_as_the_logs_earn(
    home: Path, navigation: tuple[Path, list[str]]
) -> None:
    workdir, _ = navigation
    guard = load_policies(workdir, "proco", "proco")[1].shield
    assert guard is not None
    config = small_config(home, **NAVIGATION)
    with open_run(config, home / "rewards", log=lambda line: None) as run:
        logs, _ = stages.load_inputs(run)
    low, high = (float(x) for x in guard.dynamics.targets.usual)
    rewards = [episode.reward for episode in logs.episodes]
    horizon, quantile = config.shield.planner_horizon, config.shield.reward_quantile
    wanted = least_reward(rewards, (low, high), horizon, quantile)
    assert wanted > ANY_REWARD and float(guard.least_reward) == np.float32(wanted)
    forecast = json.loads((workdir / "violation_forecast.json").read_text())
    assert {report["least_reward"] for report in forecast.values()} == {wanted}


def test_two_algorithms_of_one_name_are_an_error_before_anything_is_trained(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    monkeypatch.setattr("toy_algorithm.make", bc.make)
    config = small_config(home, **WHOLE | {"algorithms": "('bc', 'toy_algorithm:make')"})
    with pytest.raises(ValueError, match="bc and toy_algorithm:make are both called 'bc'"):
        run_here(config, home / "twice")
    assert not (home / "twice" / "policies").exists()


@pytest.mark.parametrize("algorithm", ["proco", "bc"])
def test_a_policy_without_augmentation_is_guarded_by_the_shield_of_its_twin(
    finished: Path, algorithm: str
) -> None:
    alone, twin = (load_policies(finished, algorithm, name)[1] for name in ("none", "proco"))
    assert alone.shield is not None and twin.shield is not None
    same_leaves(alone.shield, twin.shield)
    with pytest.raises(AssertionError):
        same_leaves(alone.algorithm, twin.algorithm)


@pytest.mark.parametrize("kind", ["dynamics", "labels", "policies"])
def test_a_damaged_artifact_is_an_error_that_names_its_folder(
    home: Path, finished: Path, kind: str
) -> None:
    files = {"dynamics": "model/**/*", "labels": "labels.npz", "policies": "checkpoints/**/*"}
    folders = sorted((home / "store" / kind).glob("*/artifact.json"))
    damaged = []
    for folder in (path.parent for path in folders):
        found = [p for p in folder.glob(files[kind]) if p.is_file() and p.stat().st_size > 64]
        damaged.append(max(found, key=lambda path: path.stat().st_size))
    for path in damaged:
        flip_byte(path)
    try:
        with pytest.raises(ArtifactError) as error:
            run_here(small_config(home, **WHOLE), home / f"damaged-{kind}")
    finally:
        for path in damaged:
            flip_byte(path)
    text = str(error.value)
    assert str(home / "store" / kind) in text and "remove that folder" in text
    assert any(path.parent.name in text or path.name in text for path in damaged)
    assert "\n" not in text


def test_a_removed_artifact_is_made_anew_with_the_same_bytes(home: Path, finished: Path) -> None:
    root = home / "removed"
    shutil.copytree(home / "store", root / "store")
    made = root / "store" / "labels"
    before = {
        name: (made / name / "artifact.json").read_bytes() for name in entries(root, "labels")
    }
    shutil.rmtree(made)
    with open_run(small_config(home, **WHOLE), root / "run", log=lambda line: None) as run:
        stages.run_knowledge(run)
    (name,) = entries(root, "labels")
    assert (made / name / "artifact.json").read_bytes() == before[name]
    assert (run.workdir / "cost.json").read_bytes() == (finished / "cost.json").read_bytes()


def kill_process(part: str, step: int, home: Path, name: str, data: Path) -> None:
    """Runs the command until SIGKILL after a checkpoint of a part."""
    changes = KILLED | {"data.root": str(data)}
    done = subprocess.run(
        killed_command(part, step, home, name, **changes),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == -9, done.stdout + done.stderr


def test_kills_in_every_stage_change_nothing_in_the_results(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, data = home / "kills", home / "data"
    config = small_config(home, **KILLED)
    workdir, store = root / "run", root / "store"

    def killed(module: Any, name: str, after: int = 0) -> None:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, module, name, after)
            run_here(config, workdir)

    kill_process("dynamics", 20, root, "run", data)
    (partial,) = (store / "dynamics").glob("*.partial")
    assert [path.name for path in (partial / "checkpoints").glob("[0-9]*")] == ["20"]
    killed(world_model, "save_arrays")
    assert not entries(root, "dynamics")
    killed(world_model, "label_states")
    assert entries(root, "dynamics") and not entries(root, "labels")
    killed(world_model, "save_arrays")
    assert entries(root, "labels") and not entries(root, "cost")
    kill_process("policies", 20, root, "run", data)
    assert entries(root, "cost") and not entries(root, "policies")
    # The newest checkpoint is damaged as well: the one before is used.
    (newest,) = (store / "policies").glob("*.partial/checkpoints/20")
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # The improvement has checkpoints of its own.
    kill_process("policies", 4, root, "run", data)
    (partial,) = (store / "policies").glob("*.partial")
    kept = (partial / "imagination").glob("[0-9]*")
    assert sorted(path.name for path in kept) == ["2", "4"]
    killed(stages, "forecast_table")
    assert entries(root, "policies") and not (workdir / "violation_forecast.json").exists()
    killed(stages, "save_policies")
    killed(policies, "write_rows")
    assert rows_of(workdir, step=20) and not rows_of(workdir, step=40)
    killed(stages, "write_report")
    with monkeypatch.context() as patch:
        forbid_training(patch)
        run_here(config, workdir)
    wanted = {"algorithm": "proco", "augmentation": "proco"}
    final = {"shield": "planner", "step": 40}
    assert rows_of(workdir) == [
        *rows_of(finished, **wanted, **final),
        *rows_of(finished, **wanted, step=20),
    ]
    for name in ("dynamics.json", "cost.json", "dataset.json"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    for stage in ("dynamics", "cost", "train/proco-proco", "train/proco-proco/imagination"):
        assert lines_of(workdir, stage) == lines_of(finished, stage)
    for name in ("violation_forecast.json", "feasibility.json", "rollouts.json"):
        own, other = (json.loads((x / name).read_text()) for x in (workdir, finished))
        assert own == {"proco-proco": other["proco-proco"]}
    same_policies(workdir, finished, "proco", "proco")
    for kind in KINDS:
        assert entries(root, kind) <= entries(home, kind)
        for name in entries(root, kind):
            own, other = (x / "store" / kind / name / "artifact.json" for x in (root, home))
            assert json.loads(own.read_text())["inputs"] == json.loads(other.read_text())["inputs"]


def test_two_runs_at_once_on_one_store_train_once(home: Path, finished: Path) -> None:
    root = home / "pair"
    changes = PLAIN | {"data.root": str(home / "data")}
    running = [
        subprocess.Popen(
            command(MAIN, root, name, **changes),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("a", "b")
    ]
    output = [process.communicate(timeout=TIMEOUT_S)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(output)
    workdirs = [root / name for name in ("a", "b")]
    assert sum((workdir / "metrics.jsonl").exists() for workdir in workdirs) == 1
    wanted = {"algorithm": "bc", "augmentation": "none", "shield": "none", "step": 40}
    for workdir in workdirs:
        assert rows_of(workdir, step=40) == rows_of(finished, **wanted)
    assert len(entries(root, "policies")) == 1


def test_damaged_files_are_errors_that_name_file_and_remedy_and_the_remedy_works(
    home: Path, guarded: Path
) -> None:
    workdir, config = home / "damaged", small_config(home, **GUARDED)
    shutil.copytree(guarded, workdir)

    def refused(path: Path) -> None:
        with pytest.raises(ValueError) as error:
            run_here(config, workdir)
        text = str(error.value)
        assert str(path) in text and "remove" in text and "\n" not in text, text

    path = workdir / "config.json"
    for content in (path.read_text()[:100], "[]"):
        path.write_text(content)
        refused(path)
    path.unlink()
    run_here(config, workdir)
    assert path.read_bytes() == (guarded / path.name).read_bytes()

    for name in ("results.json", "violation_forecast.json", "dynamics.json", "done.json"):
        path = workdir / name
        text = path.read_text()
        path.write_text(text[: len(text) // 2])
        refused(path)
        path.write_text(text)

    results, forecast = workdir / "results.json", workdir / "violation_forecast.json"
    results.write_text("[{}]")
    refused(results)
    results.unlink()
    (workdir / "done.json").unlink()
    entry = {"rows": [], "shield_version": SHIELD_VERSION}
    write_recorded(forecast, json.dumps({"bc-proco": entry}))
    refused(forecast)
    # Thresholds that were chosen for another version of the shield are chosen anew.
    entry["shield_version"] -= 1
    write_recorded(forecast, json.dumps({"bc-proco": entry}))
    run_here(config, workdir)
    for path in (results, forecast):
        assert path.read_bytes() == (guarded / path.name).read_bytes()


def test_the_command_prints_the_table_of_a_finished_run_and_refuses_another_config(
    home: Path, finished: Path
) -> None:
    again = finish(MAIN, home, "finished", **WHOLE)
    assert again.returncode == 0, again.stderr
    assert "proco + PROCO, planner" in again.stdout and "report.md" in again.stdout
    assert "==" not in again.stdout
    other = finish(MAIN, home, "finished", **WHOLE, **{"proco.expectile": "0.8"})
    assert other.returncode == 1
    assert "proco.expectile: 0.7 -> 0.8" in other.stderr
    assert "Traceback" not in other.stderr
    stored = json.loads((finished / "config.json").read_text())
    assert stored["proco"]["expectile"] == 0.7


def file_with_rule(folder: Path, rule: str) -> dict[str, str]:
    """Settings of a knowledge file: the shipped one with another rule."""
    text = (ROOT / "experiments" / "knowledge" / "SafetyHopperVelocity.md").read_text()
    path = folder / "robot.md"
    path.write_text(re.sub(r"```[a-z]*\n.*?```", f"```rule\n{rule}\n```", text, flags=re.DOTALL))
    return {"knowledge.file": str(path)}


@pytest.mark.parametrize(
    ("rule", "reason", "loaded"),
    [
        ("torso_velocity_x > 0.7402", "cannot mix a plain number with m/s", False),
        ("torso_velocity_x > 50 m/s", "calls no state unsafe", True),
        ("torso_velocity_x > -50 m/s", "calls every state unsafe", True),
    ],
)
def test_a_rule_that_says_nothing_ends_a_run_before_anything_is_fitted(
    home: Path, finished: Path, tmp_path: Path, rule: str, reason: str, loaded: bool
) -> None:
    config = small_config(home, **WHOLE, **file_with_rule(tmp_path, rule))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=reason):
        forbid_training(patch)
        run_here(config, tmp_path / "run")
    assert (tmp_path / "run" / "dataset.json").exists() == loaded


def test_what_depends_on_a_changed_rule_is_made_anew_unless_the_run_is_finished(
    home: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(rule: str, name: str) -> Path:
        changes = KILLED | {"shields": "('filter',)", **file_with_rule(tmp_path, rule)}
        config = small_config(home, **changes)
        with open_run(config, tmp_path / name, home / "store", log=lambda line: None) as run:
            stages.make_results(run)
        return tmp_path / name

    slow, fast = (f"torso_velocity_x > {limit} m/s" for limit in (0.7402, 0.8))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, stages, "_evaluate_all")
        run(slow, "run")
    old = {name: (tmp_path / "run" / name).read_text() for name in FILES[:7]}
    again, fresh = run(fast, "run"), run(fast, "fresh")
    for name in ("cost.json", "dynamics.json", "violation_forecast.json", "done.json"):
        assert (again / name).read_text() == (fresh / name).read_text() != old.get(name), name
    assert rows_of(again, step=40) == rows_of(fresh, step=40)
    assert (again / "dataset.json").read_text() == old["dataset.json"]
    results = (again / "results.json").read_bytes()
    with pytest.raises(ValueError, match="has changed since the run in"):
        run(slow, "run")
    assert (again / "results.json").read_bytes() == results
    # Without the file the results can still be seen.
    run(fast, "run")
    (tmp_path / "robot.md").unlink()
    config = small_config(
        home,
        **KILLED | {"shields": "('filter',)", "knowledge.file": str(tmp_path / "robot.md")},
    )
    with open_run(config, again, home / "store", log=lambda line: None) as opened:
        assert stages.finished(opened)


def test_rules_that_contradict_the_logs_are_told_in_log_and_report(
    home: Path, finished: Path, tmp_path: Path
) -> None:
    rule, lines = "torso_velocity_x > 0.3 m/s", []
    config = small_config(home, **WHOLE, **file_with_rule(tmp_path, rule))
    with open_run(config, tmp_path / "run", home / "store", log=lines.append) as run:
        stages.run_knowledge(run)
    (warning,) = [line for line in lines if line.startswith("warning: the rules contradict")]
    report = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert report["warning"] == warning
    assert list(report["rules"]) == [rule] and report["rules"][rule]["logged_unsafe"] > 0.15
    assert warning in write_report(tmp_path / "run").read_text()
    own = json.loads((finished / "cost.json").read_text())
    assert own["warning"] == "" and 0 < own["rules"].popitem()[1]["varied_unsafe"] < 1


def test_a_model_is_asked_again_for_a_rule_that_says_nothing_and_never_twice(
    home: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    kill_at(monkeypatch, stages, "fit_dynamics")
    asked: list[dict] = []

    def answer(request: dict) -> Answer:
        asked.append(request)
        useless = json.dumps({"rule": "torso_velocity_x > -50 m/s"})
        return completion(useless if len(asked) == 1 else RULE)

    with serve(answer) as address:
        model = {"knowledge.model": "openai/test", "knowledge.api_base": address}
        config = small_config(home, **WHOLE, **model, **{"knowledge.votes": "1"})
        for times in (1, 2):
            with pytest.raises(Killed):
                run_here(config, tmp_path / "run")
            assert len(asked) == 2, times
    assert "calls every state unsafe" in asked[1]["messages"][-1]["content"]


def writes_the_rule(request: dict) -> Answer:
    return completion(RULE)


def labels_states(request: dict) -> Answer:
    """Reads the speed out of the description, as a model would."""
    text = request["messages"][1]["content"].split("<states>")[1].split("</states>")[0]
    speeds = [float(x) for x in re.findall(r"torso_velocity_x: (-?[\d.]+) m/s", text)]
    assert len(speeds) == text.count("State ")
    labels = [{"state": i, "unsafe": v > 0.7, "confidence": 0.9} for i, v in enumerate(speeds, 1)]
    return completion(json.dumps({"labels": labels}))


@pytest.mark.parametrize(
    ("labeler", "answer", "most"),
    [("rule", writes_the_rule, 1000), ("states", labels_states, 96)],
)
def test_a_cost_network_is_fitted_to_the_labels_of_a_language_model(
    home: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    labeler: str,
    answer: Answerer,
    most: int,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    workdir = home / labeler
    with serve(answer) as address:
        changes = WHOLE | {
            "knowledge.model": "openai/test",
            "knowledge.api_base": address,
            "knowledge.labeler": labeler,
            "knowledge.states": "96",
            "knowledge.votes": "1",
            "cost.recall": "0.8",
        }
        with open_run(small_config(home, **changes), workdir, log=lambda line: None) as run:
            stages.run_knowledge(run)
    report = json.loads((workdir / "cost.json").read_text())
    assert (report["labeler"], report["model"]) == (labeler, "openai/test")
    # Questions about states end early where the cost ensemble already finds what is unsafe.
    assert most / 2 <= report["labels"] <= most and report["calls"] > 0
    assert report["recall"] >= 0.8
    assert (workdir / "pictures" / "cost.png").stat().st_size
    for path in [*workdir.rglob("*"), *(home / "store").rglob("*")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_the_ladder_works_on_a_finished_run(
    home: Path, navigation: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    finished, _ = navigation
    config = small_config(home, **NAVIGATION)
    timing = (finished / "timing.json").read_bytes()
    ladder.climb(config, finished, ["real"], 1)
    path = finished / "ladder" / "ladder.json"
    report = json.loads(path.read_text())
    assert list(report["rungs"]) == ["run: proco-proco", "real"]
    assert report["rungs"]["real"]["seeds"] == 1
    # Two elites, four starts, two generations, and half as many recovery rollouts.
    assert report["rollouts"]["trajectories"] == 24
    assert capsys.readouterr().out.count("| real |") == 1
    # The run's own policies stand beside the rungs with their earlier evaluation.
    own = report["rungs"]["run: proco-proco"]
    assert (own["seeds"], own["episodes"]) == (2, 1)
    # A rung that is asked for again is not trained again, and the other rungs are kept.
    report["rungs"]["full"] = report["rungs"]["real"]
    write_recorded(path, json.dumps(report))
    with pytest.MonkeyPatch.context() as patch:
        forbid_training(patch)
        ladder.climb(config, finished, ["real"], 1)
    table = capsys.readouterr().out
    assert table.count("| real |") == table.count("| full |") == 1
    assert json.loads(path.read_text()) == report
    assert (finished / "timing.json").read_bytes() == timing


def ablate(home: Path, finished: Path, name: str, seeds: int) -> tuple[dict, Path]:
    """Makes one ablation of the finished run; returns its row and its folder."""
    ablations.ablate(small_config(home, **WHOLE), finished, [name], seeds)
    rows = json.loads((finished / "ablations" / "ablations.json").read_text())
    (folder,) = (finished / "ablations").glob(f"{name.replace(' ', '_')}-*")
    return rows[name], folder


def test_an_ablation_trains_what_its_setting_changes_and_shares_the_rest(
    home: Path, finished: Path
) -> None:
    before = {kind: entries(home, kind) for kind in KINDS}
    row, folder = ablate(home, finished, "no rollouts", 1)
    assert {found["seeds"] for found in row["shields"].values()} == {1}
    assert json.loads((folder / "rollouts.json").read_text()) == {}
    added = {kind: len(entries(home, kind) - before[kind]) for kind in KINDS}
    assert added == dict.fromkeys(KINDS, 0) | {"policies": 1}


def test_an_ablation_of_deployment_alone_evaluates_the_policies_of_the_run(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    row, folder = ablate(home, finished, "as it is", 1)
    assert {found["seeds"] for found in row["shields"].values()} == {1}
    wanted = {"algorithm": "proco", "augmentation": "proco", "step": 40}
    assert rows_of(folder) == rows_of(finished, **wanted)


def test_a_target_violation_rate_chooses_one_threshold(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    _, folder = ablate(home, finished, "target violation rate 0.2", 2)
    forecast = json.loads((folder / "violation_forecast.json").read_text())
    (chosen,) = [row for row in forecast["proco-proco"]["rows"] if row["deployed"]]
    shield = load_policies(folder, "proco", "proco")[1].shield
    assert shield is not None and shield.judge is not None
    assert shield.judge.widening == forecast["proco-proco"]["margin"]
    usual = small_config(home, **WHOLE)
    widening = shield.judge.widening / usual.cost.margin
    assert usual.shield.least_margin <= widening <= usual.shield.most_margin
    assert float(shield.qh_threshold) == chosen["qh_threshold"]
    assert float(shield.planner_threshold) == chosen["planner_threshold"]


def test_a_comparison_has_the_rows_of_one_run_with_all_algorithms(
    home: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    workdir = home / "compared"
    page = compare.compare_algorithms(small_config(home, **WHOLE), workdir)
    assert rows_of(workdir) == rows_of(finished, step=40)
    content = json.loads((workdir / "comparison.json").read_text())
    assert {policy["status"] for policy in content["policies"]} == {"complete"}
    card = json.loads((finished / "dataset.json").read_text())
    assert content["settings"][0]["logs"]["return_mean"] == card["after"]["return"]["mean"]
    assert page.read_text().count("<img") >= 4


@pytest.mark.parametrize(
    "call",
    [lambda c, w: ladder.climb(c, w, ["real"], 1), lambda c, w: ablations.ablate(c, w, [], 1)],
)
def test_ladder_and_ablations_need_a_finished_run(
    home: Path, call: Callable[[Any, Path], None]
) -> None:
    with pytest.raises(ValueError, match="holds no finished run"):
        call(small_config(home, **WHOLE), home / "nowhere")
    assert not (home / "nowhere").exists()
