"""`python -m proco_jax.sweep --sweep=experiments/sweeps/quick.py --workdir=ROOT`.

Runs the units of a sweep that are not finished, one after the other, or this process's share of
them. The same command resumes. `--dry_run` says what would be done.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from proco_jax import command_line
from proco_jax.common.commands import begin_command
from proco_jax.common.object_store import is_address
from proco_jax.sweeps.description import Unit, expand, load_sweep
from proco_jax.sweeps.folder import PLAN, Root, check_root, write_plan
from proco_jax.sweeps.shares import find_share, take_share

if TYPE_CHECKING:
    from proco_jax.sweeps.remote import Remote

_SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    "Python file whose get_sweep() returns what varies, with an optional variant behind a colon; "
    "also the name of a shipped one.",
)
_SHARD = flags.DEFINE_string(
    "shard", "", "Share of the units, as i/n with i from 0; by default from the environment."
)
_TAKE_OVER = flags.DEFINE_bool(
    "take_over",
    False,
    "After the own share, run units of other shares that nobody works on; the workdir must be "
    "shared by all.",
)
_LOCAL = flags.DEFINE_string(
    "local",
    "",
    "If --workdir is an address (s3://bucket/sweep): folder where this machine works, by default "
    "one in runs.",
)
_EVALUATE = flags.DEFINE_enum(
    "evaluate",
    "now",
    ["now", "later", "only"],
    "Evaluate policies in the simulator after training, leave that for later, or do only that.",
)
_ENGINE = flags.DEFINE_enum(
    "engine", "here", ["here", "ray"], "What runs the units: this process, or a queue of Ray."
)
_MEMBERS = flags.DEFINE_integer(
    "members",
    0,
    "Members trained at once; the others follow. 0 for as many as fit into memory.",
    lower_bound=0,
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print units, members, memory and time, and stop.")
_PROBE = flags.DEFINE_bool(
    "probe",
    False,
    "Measure the memory of a member on this device, by compiling a step, instead of calculating "
    "it; with --dry_run, also time one chunk of each kind of unit.",
)
_SECONDS_PER_STEP = flags.DEFINE_float(
    "seconds_per_step",
    0.0,
    "With --dry_run: seconds of a gradient step of all members of a program, if known.",
    lower_bound=0.0,
)
_TRANSITIONS = flags.DEFINE_integer(
    "transitions",
    1_000_000,
    "With --dry_run: logged transitions of datasets that are not collected by the run itself.",
    lower_bound=1,
)
_CPUS = flags.DEFINE_float("ray_cpus", 1.0, "CPU cores of a unit on Ray.", lower_bound=0.0)
_GPUS = flags.DEFINE_float(
    "ray_gpus", 0.0, "GPUs of a unit on Ray; a fraction lets units share one.", lower_bound=0.0
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address", "", "Ray cluster to use; empty for $RAY_ADDRESS or else this machine."
)


def main(argv: Sequence[str]) -> None:
    """Runs the sweep of the flags."""
    begin_command(argv)
    with command_line.report_errors():
        workdir = flags.FLAGS.workdir
        if not workdir and not _DRY_RUN.value:
            raise ValueError("--workdir: found none, expected the folder of the sweep")
        if _TAKE_OVER.value and _ENGINE.value == "ray":
            raise ValueError(
                "--take_over has no effect with --engine=ray, whose queue holds only the units of "
                "its own share; leave out one of the two"
            )
        units = expand(load_sweep(_SWEEP.value or ""))
        share = find_share(_SHARD.value, os.environ)
        remote = _open_remote(workdir or "")
        root = remote.root if remote else check_root(workdir or "runs/sweep")
        if _DRY_RUN.value:
            if remote and (root.path / PLAN).exists():
                remote.get_results()
            _describe(root, take_share(units, share))
            return
        new, gone = write_plan(root, units)
        if remote:
            remote.put_plan()
        if gone:
            command_line.say(
                f"the description has changed: {new} runs are new, {gone} occur no more; these "
                "stay in their folders, and the report leaves them out"
            )
        own = take_share(units, share)
        if share.source:
            command_line.say(
                f"share {share.index} of {share.count} by {share.source}: {len(own)} of "
                f"{len(units)} units"
            )
        _run(root, remote, units, own)


def _open_remote(workdir: str) -> "Remote | None":
    """The sweep in an object store, if the workdir is an address."""
    if not is_address(workdir):
        return None
    if _TAKE_OVER.value:
        raise ValueError(
            f"--take_over: an object store such as {workdir} has no locks, so two processes would "
            "take over the same unit; start the command again with the --shard of a lost process"
        )
    from proco_jax.sweeps.remote import open_remote

    return open_remote(workdir, _LOCAL.value)


def _run(root: Root, remote: "Remote | None", units: Sequence[Unit], own: Sequence[Unit]) -> None:
    # These take seconds to import; wrong flags are reported before.
    from proco_jax.sweeps.queue import Work, run_units
    from proco_jax.sweeps.work import LATER, UnitWork, device_members

    devices = device_members(units)
    work: Work = UnitWork(root, _EVALUATE.value, _MEMBERS.value, devices, _PROBE.value)
    if remote:
        from proco_jax.sweeps.remote import RemoteWork

        work = RemoteWork(work, remote, trains_only=_EVALUATE.value == LATER)
    others = [unit for unit in units if unit not in own]
    if _EVALUATE.value == "only":
        trained = [u for u in own if work.is_trained(u)]
        if len(trained) < len(own):
            command_line.say(
                f"{len(own) - len(trained)} of {len(own)} units are not trained yet and are left "
                "out; the same command evaluates them once they are"
            )
        own, others = trained, [u for u in others if work.is_trained(u)]
    if _ENGINE.value == "ray":
        from proco_jax.sweeps.ray_engine import run_on_ray

        outcome = run_on_ray(
            work, own, _CPUS.value, _GPUS.value, _RAY_ADDRESS.value, command_line.say
        )
    else:
        work.prepare()
        outcome = run_units(root, own, work.is_done, work, command_line.say)
        if _TAKE_OVER.value:
            more = run_units(root, others, work.is_done, work, command_line.say)
            outcome = outcome.plus(more)
    command_line.say(
        f"\n{outcome.done} units done, {outcome.skipped} were done before, "
        f"{len(outcome.failed)} failed; results: python -m proco_jax.report "
        f"--sweep={remote.place.address if remote else root.path}"
    )
    if outcome.failed:
        lines = "\n  ".join(f"{name}: {error}" for name, error in outcome.failed.items())
        raise SystemExit(f"error: units failed; the same command tries them again:\n  {lines}")


def _describe(root: Root, units: Sequence[Unit]) -> None:
    """Prints what a run of these units would do."""
    from proco_jax.common.sharding import use_cores_as_devices
    from proco_jax.sweeps.estimate import plan_lines
    from proco_jax.sweeps.work import device_members

    use_cores_as_devices(device_members(units))
    for line in plan_lines(
        root, units, _MEMBERS.value, _SECONDS_PER_STEP.value, _PROBE.value, _TRANSITIONS.value
    ):
        command_line.say(line)


if __name__ == "__main__":
    flags.mark_flag_as_required("sweep")
    app.run(main, flags_parser=command_line.parse)
