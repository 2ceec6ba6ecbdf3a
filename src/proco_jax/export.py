"""`python -m proco_jax.export --workdir=runs/tank-default --out=FOLDER`.

Exports one policy of a finished run with its shield: a folder that runs with jax and numpy alone
(`deployment/exporting.py`).
"""

from pathlib import Path

from absl import app, flags

from proco_jax import command_line
from proco_jax.common.commands import begin_command

_OUT = flags.DEFINE_string("out", None, "Folder to make; it must not exist, or be empty.")
_ALGORITHM = flags.DEFINE_string("algorithm", "proco", "Name of the algorithm in the results.")
_AUGMENTATION = flags.DEFINE_string("augmentation", "proco", "Augmentation of the training.")
_SHIELD = flags.DEFINE_string(
    "shield", None, "none, filter or planner; by default the planner where the policy has a shield."
)
_SEED = flags.DEFINE_integer("seed", 0, "Which of the run's policies, counted from 0.")


def _main(argv: list[str]) -> None:
    begin_command(argv)
    # These take seconds to import; wrong flags are reported before.
    from proco_jax.common.compilation_cache import use_compilation_cache
    from proco_jax.pipeline.export import export_run

    with command_line.report_errors():
        use_compilation_cache()
        workdir, out = Path(flags.FLAGS.workdir), Path(_OUT.value or "")
        meta = export_run(
            workdir, out, _ALGORITHM.value, _AUGMENTATION.value, _SHIELD.value, _SEED.value
        )
        command_line.say(
            f"{out}: {meta['algorithm']}-{meta['augmentation']}, shield {meta['shield']}, seed "
            f"{meta['seed']}"
        )
        equality, latency = meta["equality"], meta["latency"]
        command_line.say(
            f"  equal to load_policy on {equality['states'] - equality['differing']} of "
            f"{equality['states']} states, largest difference {equality['largest']:.2g}"
        )
        command_line.say(
            f"  {latency['median_ms']:.3g} ms a step on one core of this CPU, 99th percentile "
            f"{latency['p99_ms']:.3g} ms"
        )
        command_line.say("  run_policy.py in it says how to run it")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "out"])
    app.run(_main)
