"""Run by name, `pytest -n 0 tests/whole_run.py`: not yet collected, it was never seen to pass.

The whole run, small: real episodes, every stage, killed on the way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "data.episodes": "6",
    "data.holdout_share": "0.2",
    "encoder.bin_hidden": "(8,)",
    "encoder.features": "16",
    "dynamics.members": "2",
    "dynamics.elites": "2",
    "dynamics.bin_hidden": "(8,)",
    "dynamics.hidden": "(16,)",
    "dynamics.steps": "60",
    "dynamics.holdout_every": "20",
    "dynamics.batch": "32",
    "knowledge.rule_states": "1000",
    "cost.members": "2",
    "cost.hidden": "(16,)",
    "cost.steps": "30",
    "cost.batch": "64",
    "cost.recall": "0.9",
    "rollouts.horizon": "4",
    "rollouts.starts": "4",
    "rollouts.candidates": "2",
    "rollouts.interval": "10",
    "rollouts.generations": "2",
    "rollouts.warmup": "1",
    "agent.hidden": "(16,)",
    "agent.samples": "2",
    "train.batch": "16",
    "train.steps": "40",
    "train.chunk": "10",
    "train.checkpoint_every": "10",
    "evaluation.episodes": "1",
    "evaluation.interim_episodes": "1",
    "evaluation.interim_every": "20",
    "evaluation.worlds": "2",
}
ARTEFACTS = (
    "config.json",
    "dataset.json",
    "dynamics.json",
    "labels.npz",
    "cost.json",
    "rollouts.json",
    "feasibility.json",
    "results.json",
    "metrics.jsonl",
    "timing.json",
    "report.md",
    "pictures/dataset.png",
    "pictures/feasibility_map.png",
)
TIMEOUT_S = 1200


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the datasets, the compiled programs and the workdirs of the tests here."""
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    """The workdir of a run that nothing disturbed."""
    done = finish(home, "calm")
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "calm"


def command(home: Path, name: str, **changes: str) -> list[str]:
    settings = {"data.root": str(home / "data")} | SMALL | changes
    return [
        sys.executable,
        "-m",
        "proco_jax.main",
        "--config=experiments/point_goal.py:quick",
        f"--workdir={home / name}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]


def environment(home: Path) -> dict[str, str]:
    """The same programs are compiled in every process here; once is enough."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return os.environ | {"JAX_PLATFORMS": "cpu"} | cache


def finish(home: Path, name: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, name, **changes),
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def kill_when(home: Path, name: str, ready: Callable[[], bool]) -> None:
    """Starts the run and kills it as soon as something is there."""
    log = home / f"{name}.log"
    with log.open("a") as out:
        process = subprocess.Popen(
            command(home, name), cwd=ROOT, env=environment(home), stdout=out, stderr=out
        )
    deadline = time.monotonic() + TIMEOUT_S
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    alive = process.poll() is None
    process.kill()
    process.wait(TIMEOUT_S)
    assert alive, f"the run ended by itself:\n{log.read_text()}"


def checkpointed(workdir: Path, part: str) -> Callable[[], bool]:
    """Whether a part has a checkpoint or is about to write one."""
    return lambda: any((workdir / "checkpoints" / part).glob("[0-9]*"))


def test_a_run_leaves_every_artefact_and_tells_its_stages(finished: Path) -> None:
    missing = [name for name in ARTEFACTS if not (finished / name).stat().st_size]
    assert missing == []
    rows = json.loads((finished / "results.json").read_text())
    expected = {(p, seed, step) for p in (True, False) for seed in (0, 1) for step in (20, 40)}
    assert {(row["proco"], row["seed"], row["step"]) for row in rows} == expected
    assert [path.name for path in finished.iterdir() if path.name.startswith(".")] == [".lock"]
    stages = {json.loads(line)["stage"] for line in (finished / "metrics.jsonl").open()}
    assert stages == {"dynamics", "cost", "train/proco", "train/baseline"}


def test_a_finished_run_prints_its_table_again_and_trains_nothing(
    home: Path, finished: Path
) -> None:
    before = (finished / "results.json").read_bytes()
    metrics = (finished / "metrics.jsonl").read_bytes()
    again = finish(home, "calm")
    assert again.returncode == 0, again.stderr
    assert "actor-critic + PROCO" in again.stdout and "report.md" in again.stdout
    assert "==" not in again.stdout
    assert (finished / "results.json").read_bytes() == before
    assert (finished / "metrics.jsonl").read_bytes() == metrics


def test_another_config_is_refused_with_the_differences(home: Path, finished: Path) -> None:
    other = finish(home, "calm", **{"agent.samples": "3"})
    assert other.returncode == 1
    assert "agent.samples: 2 -> 3" in other.stderr
    assert "Traceback" not in other.stderr
    assert json.loads((finished / "config.json").read_text())["agent"]["samples"] == 2


def test_kills_on_the_way_change_nothing_in_the_results(home: Path, finished: Path) -> None:
    workdir = home / "killed"
    kill_when(home, "killed", checkpointed(workdir, "dynamics"))
    assert not (workdir / "cost.json").exists()
    kill_when(home, "killed", checkpointed(workdir, "proco"))
    assert (workdir / "cost.json").exists() and not (workdir / "results.json").exists()
    done = finish(home, "killed")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("results.json", "metrics.jsonl", "cost.json", "feasibility.json"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
