"""Results and gains of several runs as Markdown tables.

    python -m proco_jax.report runs/a runs/b

Prints the tables on standard output. With --write, `report.md` and the pictures of
each run are written again first. With --comparison=FOLDER, a comparison of all these
runs is written there, like that of `python -m proco_jax.compare`: several tasks, cost
limits or settings in one self-contained page.

    python -m proco_jax.report --sweep=ROOT

Writes the report of a sweep to ROOT/report, also while it runs; several folders with shares of one
sweep are separated by commas. ROOT may be an address in an object store (s3://bucket/sweep).
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from proco_jax.common.object_store import is_address
from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.report.comparison import compare, setting_of
from proco_jax.report.comparison_files import read_logs, write_comparison
from proco_jax.report.markdown import results_markdown, write_report
from proco_jax.report.tables import summarize
from proco_jax.sweeps.folder import check_root
from proco_jax.sweeps.report import write_sweep_report

_POLICY = ("task", "source", "regime", "cost_limit", "algorithm", "augmentation", "shield")
_COMPARISON = flags.DEFINE_string("comparison", None, "Folder for a comparison of the runs.")
_WRITE = flags.DEFINE_bool("write", False, "Write report.md and its pictures of each run again.")
_SWEEP = flags.DEFINE_list(
    "sweep", [], "Folder or address of a sweep, or folders with shares of one sweep."
)
_LOCAL = flags.DEFINE_string(
    "local", "", "With an address: folder for the copy on this machine, by default in runs."
)


def main(argv: Sequence[str]) -> None:
    """Prints the tables of the runs whose workdirs are the arguments after the program's name.

    Raises:
      UsageError: if there is no workdir among the arguments.
      SystemExit: with a message, if a workdir has no results or a file is damaged.
    """
    workdirs = [Path(argument) for argument in argv[1:]]
    if _SWEEP.value:
        _report_sweep(_SWEEP.value)
        return
    if not workdirs:
        raise app.UsageError("no workdir given: python -m proco_jax.report runs/a runs/b")
    try:
        if _WRITE.value:
            for workdir in workdirs:
                print(f"wrote {write_report(workdir)}", file=sys.stderr)
        if _COMPARISON.value:
            path = write_runs(Path(_COMPARISON.value), workdirs)
            print(f"wrote {path}", file=sys.stderr)
        summaries = [
            summary
            for workdir in workdirs
            for summary in summarize(load_rows(workdir / FILE), run=str(workdir))
        ]
        print(results_markdown(summaries), end="")
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


def _report_sweep(folders: Sequence[str]) -> None:
    try:
        path, lines = _write_sweep(folders)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    print("\n".join([*lines, f"report: {path}"]))


def _write_sweep(folders: Sequence[str]) -> tuple[Path, list[str]]:
    if len(folders) > 1 or not is_address(folders[0]):
        return write_sweep_report([check_root(folder) for folder in folders])
    # These take time to import, and are not needed for a folder.
    from proco_jax.sweeps.remote import open_remote

    remote = open_remote(folders[0], _LOCAL.value)
    remote.get_results()
    path, lines = write_sweep_report([remote.root])
    remote.put_report(path.parent)
    return path, lines


def write_runs(folder: Path, workdirs: Sequence[Path]) -> Path:
    """Writes a comparison of the policies of several runs.

    Runs whose policies agree in task, logs, cost limit and all axes are told apart by their
    workdirs.

    Args:
      folder: where to write.
      workdirs: of runs, or of comparisons.

    Returns:
      The path of the HTML page.

    Raises:
      FileNotFoundError: if a workdir has no results.
      ValueError: if a file is damaged.
    """
    found = {workdir: load_rows(workdir / FILE) for workdir in workdirs}
    # Rows of one policy, whatever their seeds and steps are.
    policies = [{tuple(row[name] for name in _POLICY) for row in rows} for rows in found.values()]
    ambiguous = len(set().union(*policies)) < sum(map(len, policies))
    rows, logs = [], {}
    for workdir, mine in found.items():
        for row in mine:
            rows.append(row | {"run": str(workdir) if ambiguous else ""})
            setting = setting_of(rows[-1])
            if setting not in logs:
                # A comparison has a run of each algorithm in a folder of its own.
                cards = map(
                    read_logs, (workdir, *sorted(x for x in workdir.iterdir() if x.is_dir()))
                )
                logs[setting] = next((card for card in cards if card is not None), None)
    known = {setting: card for setting, card in logs.items() if card is not None}
    title = f"Comparison of {len(workdirs)} {'run' if len(workdirs) == 1 else 'runs'}"
    made = {"command": f"python -m proco_jax.report {shlex.join(sys.argv[1:])}"}
    return write_comparison(folder, compare(rows, logs=known), rows, title, made)


if __name__ == "__main__":
    app.run(main)
