"""The smallest possible run with real episodes, in this process or as a command in its own."""

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proco_jax.config.schema import Config, replaced
from proco_jax.pipeline import stages
from proco_jax.pipeline.workdir import open_run

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 1200
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
    "dynamics.trajectory.steps": "20",
    "dynamics.trajectory.horizon": "3",
    "dynamics.trajectory.batch": "8",
    "knowledge.rule_states": "1000",
    "cost.members": "2",
    "cost.hidden": "(16,)",
    "cost.steps": "30",
    "cost.batch": "64",
    "cost.recall": "0.9",
    "exploration.horizon": "4",
    "exploration.starts": "4",
    "exploration.candidates": "2",
    "rollouts.horizon": "4",
    "rollouts.starts": "4",
    "rollouts.candidates": "2",
    "rollouts.interval": "10",
    "rollouts.generations": "2",
    "rollouts.warmup": "1",
    "bonus.members": "2",
    "bonus.steps": "30",
    "proco.hidden": "(16,)",
    "proco.imagination.updates": "5",
    "proco.imagination.warmup": "1",
    "proco.imagination.interval": "2",
    "proco.imagination.critic_steps": "2",
    "proco.imagination.worlds": "4",
    "proco.imagination.horizon": "4",
    "proco.imagination.age": "3",
    "proco.imagination.minibatches": "2",
    "feasibility.hidden": "(16,)",
    "bc.hidden": "(16,)",
    "coptidice.hidden": "(16,)",
    "fisor.hidden": "(16,)",
    "fisor.width": "8",
    "fisor.blocks": "1",
    "shield.samples": "2",
    "shield.planner_candidates": "4",
    "shield.planner_horizon": "4",
    "shield.forecast_starts": "2",
    "train.batch": "16",
    "train.steps": "40",
    "train.chunk": "10",
    "train.checkpoint_every": "10",
    "evaluation.episodes": "1",
    "evaluation.interim_episodes": "1",
    "evaluation.interim_every": "20",
    "evaluation.worlds": "2",
}


# Runs a module like `python -m`, but is killed once a checkpoint of a part was saved at a step.
KILLED = """
import os, runpy, signal, sys
from proco_jax.common.checkpoint import Checkpoints

module, part, at = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
save = Checkpoints.save

def save_and_die(self, step, state):
    save(self, step, state)
    if step == at and f"/{part}/" in str(self._manager.directory):
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.save = save_and_die
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def small_config(home: Path, **changes: str) -> Config:
    """The config of `command` with the same arguments."""
    spec = importlib.util.spec_from_file_location("experiment", ROOT / "experiments/point_goal.py")
    assert spec is not None and spec.loader is not None
    experiment = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(experiment)
    settings = {name: _value(text) for name, text in (SMALL | changes).items()}
    return replaced(experiment.get_config("quick"), {"data.root": str(home / "data")} | settings)


def run_here(config: Config, workdir: Path, log: Callable[[str], None] = lambda line: None) -> Path:
    """Runs all stages in this process; returns the workdir."""
    with open_run(config, workdir, log=log) as run:
        stages.run_all(run)
    return workdir


def command(module: str, home: Path, name: str, **changes: str) -> list[str]:
    """The command line of `module` on a small PointGoal1 run in the folder `home / name`."""
    return [sys.executable, "-m", module, *_flags(home, name, **changes)]


def killed_command(part: str, step: int, home: Path, name: str, **changes: str) -> list[str]:
    """The command line of a run that is killed after a checkpoint of a part of the store."""
    killed = [sys.executable, "-c", KILLED, "proco_jax.main", part, str(step)]
    return [*killed, *_flags(home, name, **changes)]


def environment(home: Path) -> dict[str, str]:
    """The environment of a command; all share one compilation cache."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    # With as many devices as the tests' own process, so that both compile the same programs.
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return os.environ | own | cache


def finish(
    module: str, home: Path, name: str, *more: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command, with additional flags, to its end."""
    return subprocess.run(
        [*command(module, home, name, **changes), *more],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _flags(home: Path, name: str, **changes: str) -> list[str]:
    settings = {"data.root": str(home / "data")} | SMALL | changes
    return [
        "--config=experiments/point_goal.py:quick",
        f"--workdir={home / name}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
