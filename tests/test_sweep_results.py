"""The results of a sweep: kills, several workers, shares in several folders, the report."""

import csv
import importlib.util
import json
import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sweeps import SimulatedWork, template_row
from proco_jax.evaluation.results import FILE
from proco_jax.sweeps.curves import sweep_curves
from proco_jax.sweeps.description import Sweep, Unit, expand
from proco_jax.sweeps.folder import FAILURE, TRAINED, Root, write_plan
from proco_jax.sweeps.queue import run_units
from proco_jax.sweeps.ray_engine import run_on_ray
from proco_jax.sweeps.report import write_sweep_report
from proco_jax.sweeps.results import ROWS_CSV, load_results, settings_text
from proco_jax.sweeps.shares import Share, take_share
from proco_jax.sweeps.status import progress_lines, sweep_progress

UNITS = expand(
    Sweep(
        ("point_goal", "car_goal"),
        "quick",
        algorithms=("proco", "bc"),
        augmentations=("proco", "none"),
        shields=("none", "planner"),
        hyperparameters={"bc.learning_rate": (1e-3, 1e-2)},
        seeds=3,
    )
)


def run_share(root: Root, row: dict[str, Any], units: list[Unit], pause: float = 0.0) -> None:
    write_plan(root, UNITS)
    work = SimulatedWork(root, row, pause)
    run_units(root, units, root.unit_finished, work, lambda line: None)


def table(root: Root) -> list[dict[str, str]]:
    write_sweep_report([root])
    with open(root.path / "report" / ROWS_CSV, newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    return template_row()


@pytest.fixture(scope="module")
def undisturbed(row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(tmp_path_factory.mktemp("sweep") / "undisturbed")
    run_share(root, row, UNITS)
    return root


@pytest.fixture(scope="module")
def results(undisturbed: Root) -> Any:
    return load_results(sweep_progress([undisturbed]))


@pytest.mark.filterwarnings("ignore:os.fork|.*fork")
def test_kills_and_two_workers_change_no_result(
    tmp_path: Path, row: dict[str, Any], results: Any
) -> None:
    root, rng = Root(tmp_path), random.Random(0)
    fork = multiprocessing.get_context("fork")
    killed = 0
    while killed < 20:
        # The first six are killed however long a fork takes, for they would never finish.
        pause = 60.0 if killed < 6 else 0.01
        workers = [fork.Process(target=run_share, args=(root, row, UNITS, pause)) for _ in range(2)]
        for worker in workers:
            worker.start()
        time.sleep(rng.uniform(0.0, 0.05))
        for worker in workers:
            assert worker.pid is not None
            if worker.is_alive():
                os.kill(worker.pid, signal.SIGKILL)
            worker.join()
            killed += worker.exitcode == -signal.SIGKILL
        if all(worker.exitcode == 0 for worker in workers):
            break
    run_share(root, row, UNITS)
    assert killed >= 6
    assert load_results(sweep_progress([root])) == results
    folders = [p for p in (root.store / "simulated").iterdir() if p.is_dir()]
    assert not [p for p in folders if p.suffix == ".partial"]


def test_shares_in_folders_of_their_own_give_the_same_results(
    tmp_path: Path, row: dict[str, Any], results: Any
) -> None:
    roots = [Root(tmp_path / str(i)) for i in range(3)]
    for i, root in enumerate(roots):
        run_share(root, row, take_share(UNITS, Share(i, 3)))
    assert load_results(sweep_progress(roots)) == results
    write_plan(roots[1], UNITS[:1])
    with pytest.raises(ValueError, match="holds another sweep"):
        sweep_progress(roots)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_results(tmp_path: Path, row: dict[str, Any], results: Any) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'proco-jax[ray]'")
    root = Root(tmp_path)
    write_plan(root, UNITS)
    work = SimulatedWork(root, row)
    lines: list[str] = []
    found = run_on_ray(work, UNITS, cpus=1, gpus=0, address="", log=lines.append)
    assert found == (len(UNITS), 0, {}) and len(lines) == len(UNITS)
    assert load_results(sweep_progress([root])) == results
    assert run_on_ray(work, UNITS, 1, 0, "", lines.append) == (0, len(UNITS), {})


def test_without_ray_its_engine_is_a_clear_error(
    tmp_path: Path, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="not installed; pip install"):
        run_on_ray(SimulatedWork(Root(tmp_path), row), UNITS, 1, 0, "", print)


def test_the_report_holds_raw_rows_tables_and_curves(undisturbed: Root, results: Any) -> None:
    path, lines = write_sweep_report([undisturbed])
    assert lines == ["6 of 6 runs are finished, 0 are left."]
    with open(path.parent / ROWS_CSV, newline="") as handle:
        rows = list(csv.DictReader(handle))
    # 2 tasks x (1 + 2 runs) x 2 augmentations x 2 shields x 3 seeds.
    assert len(rows) == 2 * 3 * 2 * 2 * 3
    assert {one["bc.learning_rate"] for one in rows} == {"", "0.001", "0.01"}
    text = path.read_text()
    assert "data:image/png;base64," in text
    # Base64 may hold any letters.
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text).replace("http-equiv", "")
    found = words.find("http")
    assert found < 0, words[max(found - 50, 0) : found + 50]
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["policies"]) == 2 * 3 * 2 * 2
    assert {one["run"] for one in data["policies"]} == {
        "",
        "bc.learning_rate=0.001",
        "bc.learning_rate=0.01",
    }
    assert all(one["status"] == "complete" for one in data["policies"])
    curves = [c for c in sweep_curves(results.rows) if c.task == "SafetyPointGoal1"]
    assert len(curves) == 4 and all(c.name == "bc.learning_rate" for c in curves)
    mine = next(c for c in curves if c.label == "bc + PROCO")
    first = [
        cost
        for run, one in results.rows
        if settings_text(run) == "bc.learning_rate=0.001"
        and (one["task"], one["augmentation"], one["shield"])
        == ("SafetyPointGoal1", "proco", "none")
        for cost in one["costs"]
    ]
    assert [point.value for point in mine.points] == [0.001, 0.01]
    assert mine.points[0].cost.point == pytest.approx(sum(first) / len(first))
    assert len(data["curves"]) == 8


def test_while_it_runs_the_report_names_what_is_left(tmp_path: Path, row: dict[str, Any]) -> None:
    root = Root(tmp_path)
    write_plan(root, UNITS)
    path, lines = write_sweep_report([root])
    assert lines == ["0 of 6 runs are finished, 6 are left."]
    assert "0 of 2 runs finished" in path.read_text()
    run_share(root, row, UNITS[:1])
    for unit, name in ((UNITS[1], TRAINED), (UNITS[2], FAILURE)):
        root.unit(unit.name).mkdir(parents=True)
        (root.unit(unit.name) / name).write_text('{"error": "ValueError: no logs"}')
    lines = progress_lines(sweep_progress([root]))
    assert lines[0] == "1 of 6 runs are finished, 5 are left."
    assert "2 of these are trained and wait" in lines[1]
    assert f"{UNITS[2].name} failed: ValueError: no logs" in lines[2]
    (root.run(UNITS[0].runs[0].name) / FILE).write_text("[")
    path, lines = write_sweep_report([root])
    assert any("cannot be read" in line for line in lines)
