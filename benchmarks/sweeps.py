"""Sweeps at scale: many units, killed workers, members of one program.

    python -m benchmarks.sweeps --units=10000
    python -m benchmarks.sweeps --kills=20
    python -m benchmarks.sweeps --members=1,4,16,64

`--units` runs a simulated sweep, whose units only write what real ones would, through queue, store
and report, and prints seconds and memory, also for a quarter of the units: what is four times as
much should take four times as long. `--kills` runs a real sweep of small networks and kills its
process with SIGKILL at random times, at least so many times, until it is finished; its results must
equal those of an undisturbed one. `--members` times a gradient step of PROCO's actor-critic with so
many members in one program on this device.
"""

import csv
import dataclasses
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.small_settings import SMALL
from proco_jax.common.files import write_text
from proco_jax.envs.tasks import get_task
from proco_jax.evaluation.results import FILE, Row, result_row, write_rows
from proco_jax.pipeline.store import artifact
from proco_jax.pipeline.workdir import DONE
from proco_jax.sweeps.description import Sweep, Unit, expand
from proco_jax.sweeps.folder import Root, write_plan
from proco_jax.sweeps.queue import run_units
from proco_jax.sweeps.report import write_sweep_report
from proco_jax.sweeps.results import ROWS_CSV
from proco_jax.types import Episode

_UNITS = flags.DEFINE_integer("units", 0, "Units of a simulated sweep; a multiple of 400.")
_KILLS = flags.DEFINE_integer("kills", 0, "Kills of a real, small sweep, at the least.")
_MEMBERS = flags.DEFINE_list("members", [], "Members of one program, for the time of a step.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the times of the kills.")

_EPISODES, _STEPS = 4, 10
_SMALL = """
from proco_jax.sweeps.description import Sweep

def get_sweep():
    return Sweep(
        experiments=("point_goal",), variant="quick", algorithms=("bc",),
        augmentations=("proco",), shields=("none",),
        hyperparameters={{"bc.learning_rate": (1e-3, 1e-2), "train.n_step": (5, 10)}},
        settings={settings!r}, seeds=2,
    )
"""


@dataclasses.dataclass(frozen=True)
class SimulatedWork:
    """Writes an artifact and rows of results for each run of a unit, as real work would.

    Attributes:
      root: of the sweep.
      template: a row of results.
      pause: seconds between the steps of the work.
    """

    root: Root
    template: Row
    pause: float = 0.0

    def prepare(self) -> None:
        """Nothing to prepare."""

    def is_done(self, unit: Unit) -> bool:
        """Whether all runs of a unit have their results."""
        return self.root.unit_finished(unit)

    def __call__(self, unit: Unit, log: Callable[[str], None]) -> None:
        """Does the work, or resumes it."""
        for run in unit.runs:
            if self.root.run_finished(run.name):
                continue
            config, folder = run.config, self.root.run(run.name)
            scores = np.frombuffer(hashlib.sha256(run.name.encode()).digest(), np.uint8)

            def make(folder: Path, scores: np.ndarray = scores) -> None:
                time.sleep(self.pause)
                write_text(folder / "scores.txt", " ".join(map(str, scores)))

            artifact(self.root.store, "simulated", {"run": run.name}, make, log)
            time.sleep(self.pause)
            rows = [
                self.template
                | {
                    "task": config.task,
                    "regime": config.data.regime,
                    "algorithm": config.algorithms[0],
                    "augmentation": augmentation,
                    "shield": shield,
                    "seed": config.seed + i,
                    "costs": [float(x) for x in scores[i : i + _EPISODES]],
                    "returns": [float(x) for x in scores[-1 - i - _EPISODES : -1 - i]],
                }
                for augmentation in config.augmentations
                for shield in config.shields
                for i in range(config.seeds)
            ]
            write_rows(folder / FILE, rows)
            time.sleep(self.pause)
            write_text(folder / DONE, "{}\n")


def simulated_sweep(units: int) -> Sweep:
    """A sweep of so many units of one run with two seeds; a multiple of 100."""
    return Sweep(
        experiments=("point_goal",),
        variant="quick",
        algorithms=("bc",),
        augmentations=("none",),
        shields=("none",),
        # Numbers that change shapes, so that each is a unit of its own.
        hyperparameters={
            "train.batch": tuple(range(1, units // 100 + 1)),
            "dynamics.batch": tuple(range(1, 101)),
        },
        seeds=2,
    )


def template_row() -> Row:
    """A row of results, from made-up episodes."""
    zeros = np.zeros(_STEPS, np.float32)
    episode = Episode(np.zeros((_STEPS + 1, 1)), np.zeros((_STEPS, 2)), zeros, zeros, False)
    return result_row(
        get_task("SafetyPointGoal1"),
        [episode] * _EPISODES,
        source="collect",
        regime="safe",
        algorithm="bc",
        augmentation="none",
        shield="none",
        seed=0,
        step=1000,
        settings="0" * 12,
        cost_limit=10.0,
    )


def time_units(units: int, folder: Path) -> dict[str, float]:
    """Seconds of each part of a simulated sweep, and the process's largest memory so far in MB."""
    root, found = Root(folder), {}

    def timed(name: str, part: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        value = part()
        found[name] = round(time.monotonic() - begun, 2)
        return value

    expanded = timed("expand", lambda: expand(simulated_sweep(units)))
    timed("plan", lambda: write_plan(root, expanded))
    work = SimulatedWork(root, template_row())
    outcome = timed("run", lambda: run_units(root, expanded, root.unit_finished, work, _quiet))
    assert outcome == (units, 0, {}), outcome
    again = timed("resume", lambda: run_units(root, expanded, root.unit_finished, work, _quiet))
    assert again == (0, units, {}), again
    timed("report", lambda: write_sweep_report([root]))
    found["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def kill_at_random(kills: int, folder: Path, seed: int) -> int:
    """Runs a small sweep undisturbed, and another under kills; compares their results.

    Returns:
      The number of kills, which exceeds `kills` where the sweep took longer.

    Raises:
      AssertionError: if the results differ.
    """
    # The small cost network calls every row unsafe.
    settings = SMALL | {"data.root": str(folder / "data"), "bc.safe_only": False}
    # A sweep sets it itself.
    del settings["evaluation.interim_episodes"]
    file = folder / "small.py"
    write_text(file, _SMALL.format(settings=settings))
    quiet = folder / "undisturbed"
    begun = time.monotonic()
    subprocess.run(_command(file, quiet), check=True, env=_environment(folder))
    whole = time.monotonic() - begun
    disturbed, count = folder / "disturbed", 0
    rng = random.Random(seed)
    while True:
        process = subprocess.Popen(_command(file, disturbed), env=_environment(folder))
        try:
            # The later kills leave enough time to finish.
            longest = whole if count < kills else 10 * whole
            code = process.wait(timeout=rng.uniform(0.1, 1.0) * longest)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            count += 1
            continue
        if code:
            raise AssertionError(f"the sweep failed with status {code}")
        if count >= kills:
            break
        # It finished too early: another one, with other kills.
        subprocess.run(["rm", "-rf", str(disturbed)], check=True)
    tables = []
    for root in (quiet, disturbed):
        write_sweep_report([Root(root)])
        with open(root / "report" / ROWS_CSV, newline="") as handle:
            tables.append(list(csv.DictReader(handle)))
    if tables[0] != tables[1]:
        raise AssertionError(f"results differ: {quiet} and {disturbed}")
    return count


def time_members(members: int) -> float:
    """Seconds of a gradient step of so many members of PROCO's actor-critic."""
    from proco_jax.sweeps.estimate import time_step

    config = expand(Sweep(("point_goal",), settings={"train.chunk": 250}))[0].runs[0].config
    return time_step(config, "proco", "proco", members)


def main(argv: list[str]) -> None:
    """Runs what the flags name."""
    del argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if _UNITS.value:
            for units in (_UNITS.value // 4, _UNITS.value):
                print(units, "units:", time_units(units, folder / str(units)), flush=True)
        if _KILLS.value:
            count = kill_at_random(_KILLS.value, folder, _SEED.value)
            print(f"{count} kills, equal results", flush=True)
        for members in map(int, _MEMBERS.value):
            seconds = time_members(members)
            print(
                f"{members} members: {seconds * 1e3:.3g} ms a step, "
                f"{seconds / members * 1e3:.3g} ms a member",
                flush=True,
            )


def _quiet(line: str) -> None:
    pass


def _command(file: Path, root: Path) -> list[str]:
    module = [sys.executable, "-m", "proco_jax.sweep"]
    return [*module, f"--sweep={file}", f"--workdir={root}"]


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PROCO_JAX_CACHE": str(folder / "compiled")}


if __name__ == "__main__":
    app.run(main)
