"""Trains behavior policies of a task, with which `collect` records logs.

    python -m proco_jax.behaviors --task=SafetyPointGoal1 --out=SafetyPointGoal1.npz

The same command resumes after an interruption, and ends at once if the file is complete.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from proco_jax.common.commands import REPORTED_ERRORS, begin_command

_TASK = flags.DEFINE_string("task", None, "Safety-Gymnasium task, e.g. SafetyPointGoal1.")
_OUT = flags.DEFINE_string("out", None, "File of the policies; empty for TASK.npz here.")
_STEPS = flags.DEFINE_integer(
    "steps", None, "Steps in the simulator; by default those of the kind of task.", lower_bound=0
)
_PLANAR = flags.DEFINE_integer(
    "planar_steps",
    None,
    "Steps in the planar model of a navigation task, before those in the simulator.",
    lower_bound=0,
)
_WORLDS = flags.DEFINE_integer("worlds", 64, "Simulated worlds.", lower_bound=4, upper_bound=1024)
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "Threads of the simulator; 0 for one per core.", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the training.", lower_bound=0)
_EPISODES = flags.DEFINE_integer(
    "episodes", 10, "Episodes for each price of the frontier.", lower_bound=1
)
flags.mark_flag_as_required("task")

# Steps in the simulator and in the planar model by default.
_NAVIGATION_STEPS, _VELOCITY_STEPS = (128_000, 6_000_000), (1_500_000, 0)


def main(argv: Sequence[str]) -> None:
    """Trains and writes the file."""
    begin_command(argv)
    # JAX and the simulator take seconds to import; wrong flags are reported before.
    from proco_jax.envs.tasks import get_task

    try:
        task = get_task(str(_TASK.value))
    except ValueError as error:
        sys.exit(f"error: {error}")
    from proco_jax.behaviors.command import TrainingSettings, train_behaviors
    from proco_jax.common.compilation_cache import use_compilation_cache

    use_compilation_cache()
    steps, planar = _VELOCITY_STEPS if task.kind == "Velocity" else _NAVIGATION_STEPS
    settings = TrainingSettings(
        planar_steps=planar if _PLANAR.value is None else _PLANAR.value,
        steps=steps if _STEPS.value is None else _STEPS.value,
        worlds=_WORLDS.value,
        workers=_WORKERS.value,
        seed=_SEED.value,
        episodes=_EPISODES.value,
    )
    out = Path(_OUT.value or f"{task.name}.npz")
    command = (
        f"python -m proco_jax.behaviors --task={task.name} --planar_steps={settings.planar_steps} "
        f"--steps={settings.steps} --worlds={settings.worlds} --seed={settings.seed}"
    )
    try:
        train_behaviors(task, settings, out, command, lambda line: print(line, flush=True))
    except REPORTED_ERRORS as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to resume")


if __name__ == "__main__":
    app.run(main)
