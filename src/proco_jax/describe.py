"""`python -m proco_jax.describe --data=logs.parquet --out=pump.md`.

Drafts the description of a system of your own from the columns of its logs, CSV or Parquet, and
lists what only you can know.
"""

from pathlib import Path

from absl import app, flags

from proco_jax import command_line
from proco_jax.common.commands import begin_command

_DATA = flags.DEFINE_string("data", None, "Logs: a .csv or .parquet file.")
_OUT = flags.DEFINE_string("out", "", "File to write; empty for the name of the logs with .md.")
_NAME = flags.DEFINE_string("name", "", "Name of the system; empty for that of the file.")
_ACTIONS = flags.DEFINE_list("actions", [], "Columns that are actions; guessed if empty.")


def _main(argv: list[str]) -> None:
    begin_command(argv)
    data = Path(str(_DATA.value))
    out = Path(_OUT.value) if _OUT.value else data.with_suffix(".md")
    # This takes seconds to import; wrong flags are reported before.
    from proco_jax.data.drafting import write_draft

    with command_line.report_errors():
        for line in write_draft(data, out, _NAME.value or data.stem, _ACTIONS.value):
            command_line.say(line)


if __name__ == "__main__":
    flags.mark_flag_as_required("data")
    app.run(_main)
