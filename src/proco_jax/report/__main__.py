"""`python -m proco_jax.report runs/a runs/b`: the results of several runs as one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from proco_jax.report.markdown import write_report
from proco_jax.report.tables import results_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the Markdown table of the given runs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proco_jax.report", description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument(
        "--write", action="store_true", help="write report.md and its pictures of each run anew"
    )
    options = parser.parse_args(arguments)
    try:
        if options.write:
            for workdir in options.workdirs:
                print(f"wrote {write_report(workdir)}", file=sys.stderr)
        print(results_table(options.workdirs), end="")
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
