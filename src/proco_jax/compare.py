"""Compares algorithms, each with and without PROCO, each with and without a shield.

    python -m proco_jax.compare --config=experiments/compare_point_goal.py

Each algorithm of the config is a run of its own in `<workdir>/<algorithm>`, by the same pipeline as
`python -m proco_jax.main`: with every augmentation, under every shield, with every seed. The runs
share dataset, dynamics, labels (with the rollouts that find states to label) and cost network
through the store. The rows of all runs are in `results.json`; `comparison.html` is a self-contained
report of them, beside `comparison.md`, `comparison.csv`, `comparison.json` and `runs.csv`. The
tables are written after each algorithm: what is not there yet is shown as missing.

The same command resumes, and skips what is finished. An algorithm may be added to the config later,
or left out (`--config.algorithms`). One that diverges is named in the report, the others go on.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from proco_jax import command_line
from proco_jax.common.checksums import read_json
from proco_jax.common.sharding import use_cores_as_devices
from proco_jax.config.schema import Config, replaced
from proco_jax.config.validation import validate
from proco_jax.evaluation.results import FILE, Row, load_rows, machine_name, write_rows
from proco_jax.pipeline import stages
from proco_jax.pipeline.workdir import STORE, TIMING, check_same, open_run
from proco_jax.report.comparison import Setting, compare, expected_rows
from proco_jax.report.comparison_files import read_logs, write_comparison, write_tables
from proco_jax.report.tables import short_task
from proco_jax.system.description import task_of


def main(config: Config, workdir: Path) -> None:
    """Runs a comparison, or resumes it."""
    command = f"python -m proco_jax.compare {shlex.join(sys.argv[1:])}"
    compare_algorithms(config, workdir, command_line.store(), command)


def compare_algorithms(
    config: Config, workdir: Path, store: Path | None = None, command: str = ""
) -> Path:
    """Trains and evaluates every algorithm of a config and writes the report.

    Args:
      store: root of the shared artifacts; None for the folder `store` beside the workdir.
      command: how this was called, for the report.

    Returns:
      The path of the HTML report.

    Raises:
      ValueError: if the config cannot be run, or a folder holds a run with another config.
      FloatingPointError: if an algorithm diverged; the report of the others is written before.
    """
    validate(config)
    task_of(config)
    stages.check_episodes(config, "a comparison")
    runs = {name: replaced(config, {"algorithms": (name,)}) for name in config.algorithms}
    for name, own in runs.items():
        check_same(own, _folder(workdir, name))
        stages.check_sources(own, _folder(workdir, name))
    use_cores_as_devices(max(config.seeds, config.dynamics.members))
    store = store or workdir.absolute().parent / STORE
    failed: dict[str, str] = {}
    for i, (name, own) in enumerate(runs.items()):
        command_line.say(f"\n#### {name} ({i + 1} of {len(runs)})")
        changed = True
        try:
            changed = _run(own, _folder(workdir, name), store)
        except FloatingPointError as error:
            failed[name] = f"diverged: {error}"
            command_line.say(f"{name} {failed[name]}; the other algorithms go on")
        if changed and i + 1 < len(runs):
            _report(config, workdir, command, failed, whole=False)
    report = _report(config, workdir, command, failed, whole=True)
    if failed:
        raise FloatingPointError(
            f"{', '.join(failed)} diverged, the report is {report}; the same command tries again: "
            + "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        )
    command_line.say(f"\ncomparison: {report}")
    return report


def _folder(workdir: Path, algorithm: str) -> Path:
    # Of `module:function`, an algorithm of the user's own.
    return workdir / algorithm.replace(":", ".")


def _run(config: Config, folder: Path, store: Path) -> bool:
    """Runs what is not finished; whether anything was done."""
    with open_run(config, folder, store, log=command_line.say) as run:
        if stages.finished(run) and config.data.verify != "full":
            run.log(f"   finished in {folder}")
            return False
        stages.run_all(run)
        return True


def _report(
    config: Config, workdir: Path, command: str, failed: Mapping[str, str], whole: bool
) -> Path:
    """Writes the report of what is there: its tables alone before the last algorithm is done."""
    rows = {name: _final_rows(config, _folder(workdir, name)) for name in config.algorithms}
    # An algorithm of the user's own has another name in its rows.
    names = {name: mine[0]["algorithm"] if mine else name for name, mine in rows.items()}
    stages.check_names(names)
    found = [row for mine in rows.values() for row in mine]
    policies = [
        (names[name], augmentation, shield)
        for name in config.algorithms
        for augmentation in config.augmentations
        for shield in config.shields
    ]
    seeds = range(config.seed, config.seed + config.seeds)
    setting = Setting(
        "", task_of(config).name, config.data.source, config.data.regime, config.cost_limit
    )
    # All runs have the same logs.
    cards = (read_logs(_folder(workdir, name)) for name in config.algorithms)
    card = next((one for one in cards if one is not None), None)
    comparison = compare(
        found,
        expected=expected_rows(*setting[1:], policies, seeds),
        logs={} if card is None else {setting: card},
        notes={names[name]: problem for name, problem in failed.items()},
    )
    if found:
        # Folders of algorithms may have been removed to start anew.
        write_rows(workdir / FILE, found, whole=True)
    count = len(config.algorithms)
    title = (
        f"{config.experiment}, variant {config.variant}: {count} "
        f"{'algorithm' if count == 1 else 'algorithms'} on {short_task(setting.task)}, "
        f"{config.data.regime} logs"
    )
    made = {"command": command, "machine": machine_name(), "time": _times(config, workdir)}
    if whole:
        return write_comparison(workdir, comparison, found, title, made)
    write_tables(workdir, comparison, found, title, made)
    return workdir


def _final_rows(config: Config, folder: Path) -> list[Row]:
    """The rows of the last training step; an interrupted run may have those of earlier ones."""
    path = folder / FILE
    rows = load_rows(path) if path.exists() else []
    return [row for row in rows if row["step"] == config.train.steps]


def _times(config: Config, workdir: Path) -> str:
    """Seconds of all stages of each run, for the report."""
    timings = {name: read_json(_folder(workdir, name) / TIMING) for name in config.algorithms}
    return ", ".join(
        f"{name} {sum(timing.values()):,.0f} s" for name, timing in timings.items() if timing
    )


if __name__ == "__main__":
    command_line.run(main)
