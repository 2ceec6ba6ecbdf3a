"""`python -m proco_jax.main --config=experiments/car_button.py[:variant]`."""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from proco_jax import command_line
from proco_jax.config import Config

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file, with a variant behind a colon: experiments/car_button.py:quick",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; runs/<experiment>-<variant> by default."
)
RENDER = flags.DEFINE_bool("render", False, "Draw an episode of each learner as an animation.")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Write TensorBoard event files too.")


def main(argv: Sequence[str]) -> None:
    """Runs an experiment, or goes on with it."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        # Orbax tells every file that it writes; what concerns the user is a warning.
        logging.set_verbosity(logging.WARNING)
    config = CONFIG.value
    workdir = Path(WORKDIR.value or f"runs/{config.experiment}-{config.variant}")
    with command_line.told_in_words():
        _run(config, workdir)


def _run(config: Config, workdir: Path) -> None:
    # These take seconds to import; wrong flags are told before.
    import jax

    from proco_jax.devices import share_cores
    from proco_jax.envs.tasks import get_task
    from proco_jax.pipeline import run_all
    from proco_jax.run import open_run

    get_task(config.task)
    share_cores(config.seeds)
    with open_run(config, workdir, TENSORBOARD.value, log=_say) as run:
        devices = ", ".join(str(d) for d in jax.local_devices())
        run.log(f"{config.experiment}, variant {config.variant}, in {workdir}, on {devices}")
        run_all(run, RENDER.value)


def _say(line: str) -> None:
    print(line, flush=True)


def run() -> None:
    """Entry point."""
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=command_line.parse)


if __name__ == "__main__":
    run()
