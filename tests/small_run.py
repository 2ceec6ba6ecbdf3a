"""Commands on a run as small as it can be, on real episodes, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

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
    "evaluation.foreseen": "2",
}


def command(module: str, home: Path, name: str, **changes: str) -> list[str]:
    """The command line of `module` on a small PointGoal1 run in the folder `home / name`."""
    settings = {"data.root": str(home / "data")} | SMALL | changes
    return [
        sys.executable,
        "-m",
        module,
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


def finish(
    module: str, home: Path, name: str, *more: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command, with more flags, to its end."""
    return subprocess.run(
        [*command(module, home, name, **changes), *more],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
