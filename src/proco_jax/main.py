"""`python -m proco_jax.main --config=experiments/car_button.py[:variant]`."""

from pathlib import Path

from absl import flags

from proco_jax import command_line
from proco_jax.config.schema import Config

RENDER = flags.DEFINE_bool("render", False, "Draw an episode of each policy as an animation.")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Write TensorBoard event files too.")


def main(config: Config, workdir: Path) -> None:
    """Runs an experiment, or resumes it."""
    # These take seconds to import; wrong flags are reported before.
    import jax

    from proco_jax.common.sharding import use_cores_as_devices
    from proco_jax.pipeline.stages import run_all
    from proco_jax.pipeline.workdir import open_run
    from proco_jax.system.description import task_of

    task_of(config)
    use_cores_as_devices(max(config.seeds, config.dynamics.members))
    store, tensorboard = command_line.store(), TENSORBOARD.value
    with open_run(config, workdir, store, tensorboard, log=command_line.say) as run:
        devices = ", ".join(str(d) for d in jax.local_devices())
        run.log(f"{config.experiment}, variant {config.variant}, in {workdir}, on {devices}")
        run_all(run, RENDER.value)


if __name__ == "__main__":
    command_line.run(main)
