"""`python -m proco_jax.describe --data=logs.parquet --out=pump.md`.

Drafts the description of a system of your own from the columns of its logs, CSV or Parquet, and
lists what only you can know.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from proco_jax import command_line

_DATA = flags.DEFINE_string("data", None, "Logs: a .csv or .parquet file.")
_OUT = flags.DEFINE_string("out", "", "File to write; empty for the name of the logs with .md.")
_NAME = flags.DEFINE_string("name", "", "Name of the system; empty for that of the file.")
_ACTIONS = flags.DEFINE_list("actions", [], "Columns that are actions; guessed if empty.")


def describe(data: Path, out: Path, name: str, actions: Sequence[str] = ()) -> list[str]:
    """Writes the draft, and returns lines for the user.

    Raises:
      DataError: if the logs cannot be read, or a description of them cannot be drafted.
      ValueError: if the file exists.
    """
    from proco_jax.common.files import write_text
    from proco_jax.data.drafting import draft_description
    from proco_jax.data.tables import find_tables, read_csv, read_parquet

    if out.exists():
        raise ValueError(f"{out} exists; name another file with --out")
    (path, *_) = find_tables(str(data))
    table = read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    draft = draft_description(table, name, actions)
    write_text(out, draft.text)
    return [
        f"{data}: {draft.notes[0]}",
        *draft.notes[1:],
        f"{out}: drafted; fill in:",
        *(f"  - {line}" for line in draft.open),
        f"then run with --config.system.file={out}",
    ]


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    data = Path(str(_DATA.value))
    out = Path(_OUT.value) if _OUT.value else data.with_suffix(".md")
    with command_line.report_errors():
        for line in describe(data, out, _NAME.value or data.stem, _ACTIONS.value):
            command_line.say(line)


if __name__ == "__main__":
    flags.mark_flag_as_required("data")
    app.run(_main)
