"""Sweeps at scale: many units, killed workers, members of one program.

    python -m benchmarks.sweeps --units=1000,3000,10000
    python -m benchmarks.sweeps --kills=20
    python -m benchmarks.sweeps --engines
    python -m benchmarks.sweeps --members=1,4,16,64

`--units` runs simulated sweeps, whose units sleep and write what real ones would, through queue,
store and report. It prints the seconds of CPU time of each part, of which none should grow faster
than the number of units, and the most memory that the process ever had. `--kills` runs a real sweep
of small networks, 4 values of a hyperparameter x 16 seeds, undisturbed and then with two workers
that are killed with SIGKILL at random times and started again, until they have finished and at
least so many kills have hit; the results must be equal. `--engines` runs the same sweep by one
process, by two with a share each, and by Ray where it is installed; the results must be equal.
`--members` times a gradient step of PROCO's actor-critic with so many members in one program on
this device.
"""

import contextlib
import csv
import dataclasses
import hashlib
import importlib.util
import os
import random
import resource
import shutil
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

_UNITS = flags.DEFINE_list("units", [], "Units of simulated sweeps, multiples of 100.")
_PAUSE = flags.DEFINE_float("pause", 0.001, "Seconds that each part of a simulated unit sleeps.")
_KILLS = flags.DEFINE_integer("kills", 0, "Kills of a real, small sweep, at the least.")
_ENGINES = flags.DEFINE_bool("engines", False, "A real, small sweep by all engines.")
_MEMBERS = flags.DEFINE_list("members", [], "Members of one program, for the time of a step.")
_FOLDER = flags.DEFINE_string(
    "folder", "", "Folder of the sweeps, kept, with which the same command goes on."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the times of the kills.")

_EPISODES, _STEPS = 4, 10
_SILENT: Any = {"stdout": subprocess.DEVNULL}
_WORKERS = 2
# Seconds of CPU time of the longest life before the first kill; starting takes about five.
_FIRST_LIFE = 12.0
_SMALL = """
from proco_jax.sweeps.description import Sweep

def get_sweep():
    return Sweep(
        experiments=("point_goal",), variant="quick", algorithms=("bc",),
        augmentations=("none",), shields=("none",),
        hyperparameters={{"bc.learning_rate": (1e-4, 1e-3, 1e-2, 3e-2)}},
        settings={settings!r}, seeds=16, unit_members=32,
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

    def is_trained(self, unit: Unit) -> bool:
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


def time_units(units: int, folder: Path, pause: float) -> dict[str, float]:
    """Seconds of CPU time of each part of a simulated sweep, and the most memory so far in MB."""
    root, found = Root(folder), {}
    shutil.rmtree(folder, ignore_errors=True)

    def timed(name: str, part: Callable[[], Any]) -> Any:
        begun = time.process_time()
        value = part()
        found[name] = round(time.process_time() - begun, 2)
        return value

    expanded = timed("expand", lambda: expand(simulated_sweep(units)))
    timed("plan", lambda: write_plan(root, expanded))
    work = SimulatedWork(root, template_row(), pause)
    outcome = timed("run", lambda: run_units(root, expanded, root.unit_finished, work, _quiet))
    assert outcome == (units, 0, {}), outcome
    again = timed("resume", lambda: run_units(root, expanded, root.unit_finished, work, _quiet))
    assert again == (0, units, {}), again
    timed("report", lambda: write_sweep_report([root]))
    found["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def kill_at_random(kills: int, folder: Path, seed: int) -> tuple[int, int]:
    """Runs a small sweep undisturbed, and with workers that are killed; compares their results.

    Each life of a worker ends after a random CPU time, and the next one begins at once. Lives
    become longer with every kill, so that a sweep is finished in the end. One that is finished
    before there were enough kills is compared too, and another one begins.

    Returns:
      The number of kills, and of disturbed sweeps.

    Raises:
      AssertionError: if results differ, or a worker fails.
    """
    file = _small_sweep(folder)
    rng = random.Random(seed)
    quiet = folder / "undisturbed"
    subprocess.run(_command(file, quiet), check=True, env=_environment(folder), **_SILENT)
    expected = _table(quiet)
    killed = sweeps = 0
    while killed < kills:
        sweeps += 1
        disturbed = folder / f"disturbed-{sweeps}"
        shutil.rmtree(disturbed, ignore_errors=True)
        killed += _disturbed(file, disturbed, folder, rng)
        if _table(disturbed) != expected:
            raise AssertionError(f"results differ: {quiet} and {disturbed}")
        print(f"{killed} kills so far, {sweeps} sweeps with equal results", flush=True)
    return killed, sweeps


def compare_engines(folder: Path) -> list[str]:
    """Runs a small sweep by one process, by two shares, and by Ray if there is one.

    Returns:
      The names of those that ran, all with equal results.

    Raises:
      AssertionError: if results differ.
      CalledProcessError: if a process fails.
    """
    file = _small_sweep(folder)
    engines = {"alone": [[]], "shares": [[f"--shard={i}/{_WORKERS}"] for i in range(_WORKERS)]}
    if importlib.util.find_spec("ray") is not None:
        engines["ray"] = [["--engine=ray"]]
    tables = []
    for name, flags_of_each in engines.items():
        root = folder / name
        commands = [_command(file, root) + more for more in flags_of_each]
        running = [
            subprocess.Popen(command, env=_environment(folder), **_SILENT) for command in commands
        ]
        codes = [process.wait() for process in running]
        for code, command in zip(codes, commands, strict=True):
            if code:
                raise subprocess.CalledProcessError(code, command)
        tables.append(_table(root))
        if tables[-1] != tables[0]:
            raise AssertionError(f"results differ: {folder / 'alone'} and {root}")
        print(f"{name}: {len(tables[-1])} rows", flush=True)
    return list(engines)


def _small_sweep(folder: Path) -> Path:
    """Writes the description of a sweep of small networks, two units of 32 members."""
    settings = SMALL | {"data.root": str(folder / "data"), "encoder.rings": False}
    # A sweep sets it itself.
    del settings["evaluation.interim_episodes"]
    write_text(folder / "small.py", _SMALL.format(settings=settings))
    return folder / "small.py"


def _disturbed(file: Path, root: Path, folder: Path, rng: random.Random) -> int:
    """Runs a sweep with workers that are killed; returns how many kills hit one."""
    lives: dict[int, tuple[subprocess.Popen[Any], float]] = {}
    killed, finished, longest = 0, set[int](), _FIRST_LIFE
    while len(finished) < _WORKERS:
        for index in set(range(_WORKERS)) - finished:
            if index not in lives:
                share = [f"--shard={index}/{_WORKERS}", "--take_over"]
                process = subprocess.Popen(
                    _command(file, root) + share, env=_environment(folder), **_SILENT
                )
                lives[index] = process, rng.uniform(0.0, longest)
            process, life = lives[index]
            code = process.poll()
            if code is None and _cpu_seconds(process.pid) > life:
                process.send_signal(signal.SIGKILL)
                code = process.wait()
            if code is None:
                continue
            del lives[index]
            if code == 0:
                finished.add(index)
            elif code == -signal.SIGKILL:
                killed, longest = killed + 1, longest * 1.1
            else:
                raise AssertionError(f"a worker failed with status {code}")
        time.sleep(0.05)
    return killed


def _cpu_seconds(process: int) -> float:
    """The CPU time of a process so far; on a busy machine, lives are then no shorter."""
    # The name of the program, in parentheses, may hold spaces.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _table(root: Path) -> list[dict[str, str]]:
    """The raw rows of a sweep's report, without the commit, which may change meanwhile."""
    write_sweep_report([Root(root)])
    with open(root / "report" / ROWS_CSV, newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [{name: x for name, x in row.items() if name != "commit"} for row in rows]


def time_members(members: int) -> float:
    """Seconds of a gradient step of so many members of PROCO's actor-critic."""
    from proco_jax.sweeps.estimate import time_step

    config = expand(Sweep(("point_goal",), settings={"train.chunk": 250}))[0].runs[0].config
    return time_step(config, "proco", "proco", members)


def main(argv: list[str]) -> None:
    """Runs what the flags name."""
    del argv
    with contextlib.ExitStack() as stack:
        folder = Path(_FOLDER.value or stack.enter_context(tempfile.TemporaryDirectory()))
        for units in map(int, _UNITS.value):
            found = time_units(units, folder / str(units), _PAUSE.value)
            print(units, "units:", found, flush=True)
        if _KILLS.value:
            killed, sweeps = kill_at_random(_KILLS.value, folder, _SEED.value)
            print(f"{killed} kills in {sweeps} sweeps, equal results", flush=True)
        if _ENGINES.value:
            print(f"equal results: {', '.join(compare_engines(folder))}", flush=True)
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
    # Workers are killed while they compile too, but not forever.
    return {"PROCO_JAX_CACHE": str(folder / "compiled"), **os.environ}


if __name__ == "__main__":
    app.run(main)
