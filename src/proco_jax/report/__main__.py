"""Results and gains of several runs as Markdown tables.

    python -m proco_jax.report runs/a runs/b

Prints the tables on standard output. With --write, `report.md` and the pictures of
each run are written again first.

    python -m proco_jax.report --sweep=ROOT

Writes the report of a sweep to ROOT/report, also while it runs; several folders with shares of one
sweep are separated by commas.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.report.markdown import results_markdown, write_report
from proco_jax.report.tables import summarize
from proco_jax.sweeps.folder import check_root
from proco_jax.sweeps.report import write_sweep_report

_WRITE = flags.DEFINE_bool("write", False, "Write report.md and its pictures of each run again.")
_SWEEP = flags.DEFINE_list("sweep", [], "Folder of a sweep, or folders with shares of one sweep.")


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
        path, lines = write_sweep_report([check_root(folder) for folder in folders])
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    print("\n".join([*lines, f"report: {path}"]))


if __name__ == "__main__":
    app.run(main)
