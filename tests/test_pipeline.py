"""The whole run, small: real episodes, every stage, killed on the way, or with a language model."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import ROOT, TIMEOUT_S, command, environment, finish

from proco_jax.knowledge.replay import Answer, Answerer, completion, serve

pytestmark = pytest.mark.slow

MAIN = "proco_jax.main"
KEY = "sk-test-0123456789abcdef"
RULE = json.dumps({"rule": "nearest(hazards_lidar) <= 0.2 m", "explanation": "on a hazard"})
ARTEFACTS = (
    "config.json",
    "dataset.json",
    "dynamics.json",
    "labels.npz",
    "cost.json",
    "rollouts.json",
    "feasibility.json",
    "foreseen.json",
    "results.json",
    "metrics.jsonl",
    "timing.json",
    "report.md",
    "pictures/dataset.png",
    "pictures/feasibility_map.png",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the datasets, the compiled programs and the workdirs of the tests here."""
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    """The workdir of a run that nothing disturbed."""
    done = finish(MAIN, home, "calm")
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "calm"


def kill_when(home: Path, name: str, ready: Callable[[], bool]) -> None:
    """Starts the run and kills it as soon as something is there."""
    log = home / f"{name}.log"
    with log.open("a") as out:
        process = subprocess.Popen(
            command(MAIN, home, name), cwd=ROOT, env=environment(home), stdout=out, stderr=out
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
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    stages = {json.loads(line)["stage"] for line in lines}
    assert stages == {"dynamics", "cost", "train/proco", "train/baseline"}


def test_a_finished_run_prints_its_table_again_and_trains_nothing(
    home: Path, finished: Path
) -> None:
    before = (finished / "results.json").read_bytes()
    metrics = (finished / "metrics.jsonl").read_bytes()
    again = finish(MAIN, home, "calm")
    assert again.returncode == 0, again.stderr
    assert "actor-critic + PROCO" in again.stdout and "report.md" in again.stdout
    assert "==" not in again.stdout
    assert (finished / "results.json").read_bytes() == before
    assert (finished / "metrics.jsonl").read_bytes() == metrics


def test_another_config_is_refused_with_the_differences(home: Path, finished: Path) -> None:
    other = finish(MAIN, home, "calm", **{"agent.samples": "3"})
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
    done = finish(MAIN, home, "killed")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("results.json", "metrics.jsonl", "cost.json", "feasibility.json"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name


def writes_the_rule(request: dict) -> Answer:
    return completion(RULE)


def labels_states(request: dict) -> Answer:
    """Reads the distance to the nearest hazard out of the words, as a model would."""
    text = request["messages"][1]["content"].split("<states>")[1].split("</states>")[0]
    near = [
        float((re.search(r"hazards_lidar: nearest ([\d.]+) m", state) or [0, "9"])[1])
        for state in text.split("State ")[1:]
    ]
    labels = [{"state": i, "unsafe": d <= 0.4, "confidence": 0.9} for i, d in enumerate(near, 1)]
    return completion(json.dumps({"labels": labels}))


@pytest.mark.parametrize(
    ("labeller", "answer", "most"),
    [("rule", writes_the_rule, 1000), ("states", labels_states, 96)],
)
def test_a_cost_network_comes_from_a_models_words(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    labeller: str,
    answer: Answerer,
    most: int,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(answer) as address:
        changes = {
            "knowledge.model": "openai/test",
            "knowledge.api_base": address,
            "knowledge.labeller": labeller,
            "knowledge.states": "96",
            "knowledge.votes": "1",
            "cost.recall": "0.8",
        }
        done = finish("proco_jax.knowledge", home, labeller, **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((home / labeller / "cost.json").read_text())
    assert (report["labeller"], report["model"]) == (labeller, "openai/test")
    # Asking about states ends early where the costs already find what is unsafe.
    assert most / 2 <= report["labels"] <= most and report["calls"] > 0
    assert report["recall"] >= 0.8
    assert (home / labeller / "pictures" / "cost.png").stat().st_size
    for path in (home / labeller).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_the_ladder_is_climbed_on_a_finished_run(home: Path, finished: Path) -> None:
    done = finish("proco_jax.ladder", home, "calm", "--seeds=1", "--rungs=real")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((finished / "ladder" / "ladder.json").read_text())
    assert list(report["rungs"]) == ["run: proco", "run: baseline", "real"]
    assert report["rungs"]["real"]["seeds"] == 1
    # Two elites, four starts, two generations, and half as many escapes.
    assert report["rollouts"]["trajectories"] == 24
    assert done.stdout.count("| real |") == 1
    # The run's own learners stand beside the rungs with what they played before.
    assert [report["rungs"][f"run: {x}"]["episodes"] for x in ("proco", "baseline")] == [1, 1]
    timing = (finished / "timing.json").read_bytes()
    # A rung that is asked for again is not climbed again, and one that is not is kept.
    report["rungs"]["full"] = report["rungs"]["real"]
    (finished / "ladder" / "ladder.json").write_text(json.dumps(report))
    metrics = (finished / "ladder" / "metrics.jsonl").read_bytes()
    again = finish("proco_jax.ladder", home, "calm", "--seeds=1", "--rungs=real")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("| real |") == again.stdout.count("| full |") == 1
    assert json.loads((finished / "ladder" / "ladder.json").read_text()) == report
    assert (finished / "ladder" / "metrics.jsonl").read_bytes() == metrics
    assert (finished / "timing.json").read_bytes() == timing


def test_ablations_take_what_a_change_does_not_touch_from_the_run(
    home: Path, finished: Path
) -> None:
    done = finish("proco_jax.ablations", home, "calm", "--seeds=1", "--only=no rollouts")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((finished / "ablations" / "ablations.json").read_text())
    assert list(rows) == ["no rollouts"] and rows["no rollouts"]["played"] == "1 x 1"
    changed = finished / "ablations" / "no_rollouts"
    assert (changed / "labels.npz").read_bytes() == (finished / "labels.npz").read_bytes()
    assert not (changed / "rollouts.json").exists()


def test_a_change_of_deployment_alone_plays_the_policies_of_the_run(
    home: Path, finished: Path
) -> None:
    done = finish("proco_jax.ablations", home, "calm", "--only=as it is")
    assert done.returncode == 0, done.stdout + done.stderr
    changed = finished / "ablations" / "as_it_is"
    assert not (changed / "metrics.jsonl").exists()  # nothing was trained
    rows = json.loads((changed / "results.json").read_text())
    own = json.loads((finished / "results.json").read_text())
    assert rows == [row for row in own if row["proco"] and row["step"] == rows[0]["step"]]


def test_a_risk_chooses_the_bounds_and_plays_with_them(home: Path, finished: Path) -> None:
    done = finish("proco_jax.ablations", home, "calm", "--only=a fifth at risk")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deployed: Q_h up to" in done.stdout
    changed = finished / "ablations" / "a_fifth_at_risk"
    foreseen = json.loads((changed / "foreseen.json").read_text())["bounds on Q_h"]
    assert [row["deployed"] for row in foreseen].count(True) == 1
    assert len(json.loads((changed / "results.json").read_text())) == 2


@pytest.mark.parametrize("module", ["proco_jax.ladder", "proco_jax.ablations"])
def test_without_a_finished_run_there_is_nothing_to_climb_or_change(
    home: Path, module: str
) -> None:
    done = finish(module, home, "nowhere")
    assert done.returncode == 1 and "holds no finished run" in done.stderr
    assert not (home / "nowhere").exists()
