"""The smallest possible run with real episodes, in this process or as a command in its own."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import small_settings
from proco_jax.config.schema import Config
from proco_jax.pipeline import stages
from proco_jax.pipeline.workdir import open_run

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 1200
# As the command line gives them, for each experiment.
SMALL = {name: str(value) for name, value in small_settings.SMALL.items()}
HOPPER = {name: str(value) for name, value in small_settings.SMALL_HOPPER.items()}
BASES = {"point_goal": SMALL, "hopper_velocity": HOPPER}


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


def small_config(home: Path, experiment_file: str = "point_goal", **changes: str) -> Config:
    """The config of `command` with the same arguments."""
    texts = _texts(home, experiment_file, changes)
    settings = {name: _value(text) for name, text in texts.items()}
    return small_settings.small_config(settings, experiment_file)


def run_here(config: Config, workdir: Path, log: Callable[[str], None] = lambda line: None) -> Path:
    """Runs all stages in this process; returns the workdir."""
    with open_run(config, workdir, log=log) as run:
        stages.run_all(run)
    return workdir


def command(module: str, home: Path, name: str, **changes: str) -> list[str]:
    """The command line of `module` on a small run in the folder `home / name`."""
    return [sys.executable, "-m", module, *_flags(home, name, **changes)]


def killed_command(part: str, step: int, home: Path, name: str, **changes: str) -> list[str]:
    """The command line of a run that is killed after a checkpoint of a part of the store."""
    killed = [sys.executable, "-c", KILLED, "proco_jax.main", part, str(step)]
    return [*killed, *_flags(home, name, **changes)]


def environment() -> dict[str, str]:
    """The environment of a command, with the compiled programs and the one device of the tests."""
    folder = Path(jax.config.values["jax_compilation_cache_dir"])
    return os.environ | small_settings.one_compilation(folder)


def finish(
    module: str, home: Path, name: str, *more: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command, with additional flags, to its end."""
    return subprocess.run(
        [*command(module, home, name, **changes), *more],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _flags(home: Path, name: str, experiment_file: str = "point_goal", **changes: str) -> list[str]:
    texts = _texts(home, experiment_file, changes)
    return small_settings.small_flags(home / name, texts, experiment_file)


def _texts(home: Path, experiment_file: str, changes: dict[str, str]) -> dict[str, str]:
    return {"data.root": str(home / "data")} | BASES[experiment_file] | changes


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
