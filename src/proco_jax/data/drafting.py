"""The draft of a description from the columns of logs.

Names, ranges, the step and the length of episodes are in the logs. What is unsafe, units that no
column states, and the true limits of the actions are not: the draft asks for them, and cannot be
used before they are filled in.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proco_jax.common.files import write_text
from proco_jax.data.checks import DataError
from proco_jax.data.tables import (
    IRREGULAR,
    Table,
    column_numbers,
    column_times,
    find_tables,
    no_cost_note,
    read_csv,
    read_parquet,
)
from proco_jax.system.description import OPEN, ROLES

# Names of columns, in lower case, that tell what is in them.
_ROLE_NAMES = {
    "episode": (
        "episode",
        "episode_id",
        "batch",
        "batch_id",
        "run",
        "run_id",
        "trajectory",
        "trip",
    ),
    "time": ("time", "timestamp", "t", "datetime", "date", "time_s"),
    "reward": ("reward", "r", "profit", "throughput"),
    "cost": ("cost", "violation", "alarm", "unsafe"),
    "terminated": ("terminated", "terminal"),
}
_ACTION_NAMES = re.compile(
    r"(action|act|command|cmd|control|setpoint|sp|u)(_.*|\d*)|.*_(cmd|command|setpoint|sp)"
)
_UNIT = re.compile(r"(.*?)\s*[\[(]\s*([^\])]+?)\s*[\])]\s*$")


class Draft(NamedTuple):
    """A drafted description.

    Attributes:
      text: of the file.
      open: what has to be filled in, one line each.
      notes: what was found, one line each.
    """

    text: str
    open: list[str]
    notes: list[str]


def write_draft(data: Path, out: Path, name: str, actions: Sequence[str] = ()) -> list[str]:
    """Writes the draft, and returns lines for the user.

    Raises:
      DataError: if the logs cannot be read, or a description of them cannot be drafted.
      ValueError: if the file exists.
    """
    if out.exists():
        raise ValueError(f"{out} exists; name another file with --out")
    (path, *_) = find_tables(str(data), "--data")
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


def draft_description(table: Table, name: str, actions: Sequence[str] = ()) -> Draft:
    """Drafts the description of a system from its logs.

    Args:
      table: the logs.
      name: of the system.
      actions: columns that are actions; empty to guess them from their names.

    Raises:
      DataError: if there is no column of episodes or of actions, or an action is no column.
    """
    columns = list(table.columns)
    roles = _roles(columns)
    if "episode" not in roles:
        raise DataError(
            f"{table.path}: no column tells the episodes apart (looked for "
            f"{', '.join(_ROLE_NAMES['episode'])}; found {', '.join(columns)}); add one, with a "
            "number for each run of the system"
        )
    chosen = _chosen_actions(table, columns, roles, actions)
    observed, skipped = [], []
    for column in columns:
        if column not in roles.values() and column not in chosen:
            (observed if _numeric(table, column) else skipped).append(column)
    if not observed:
        raise DataError(f"{table.path}: no column of numbers is left to be observed")
    names = _names([*observed, *chosen])
    open_: list[str] = [f"what is unsafe, in words ({OPEN} in '## What is unsafe')"]
    rows = [_observation_row(table, column, names, open_) for column in observed]
    action_rows = [_action_row(table, column, names, open_) for column in chosen]
    step, longest, notes = _time(table, roles, open_)
    open_.append("the acceptable number of violations per episode")
    if "reward" not in roles:
        open_.append("the reward: a column, or an expression in '## Reward'")
    notes += [f"column {column!r} is left out: it holds no numbers" for column in skipped]
    if "cost" not in roles:
        notes.append(no_cost_note("column of costs"))
    renamed = {names[c]: c for c in names if names[c] != c}
    renamed |= {role: column for role, column in roles.items() if role != column}
    text = _text(name, rows, action_rows, step, longest, renamed, "reward" in roles)
    return Draft(text, open_, notes)


def _roles(columns: Sequence[str]) -> dict[str, str]:
    lower = {column.lower(): column for column in reversed(columns)}
    found = {}
    for role in ROLES:
        known = [lower[name] for name in _ROLE_NAMES[role] if name in lower]
        if known:
            found[role] = known[0]
    return found


def _chosen_actions(
    table: Table, columns: Sequence[str], roles: dict[str, str], actions: Sequence[str]
) -> list[str]:
    unknown = [name for name in actions if name not in columns]
    if unknown:
        raise DataError(f"{table.path}: no column {unknown[0]!r}; found {', '.join(columns)}")
    if actions:
        return list(actions)
    free = [column for column in columns if column not in roles.values()]
    chosen = [c for c in free if _ACTION_NAMES.fullmatch(_split_unit(c)[0].lower())]
    if not chosen:
        raise DataError(
            f"{table.path}: no column looks like an action; name them, as in "
            f"--actions={free[-1] if free else 'COLUMN'} (found {', '.join(columns)})"
        )
    return chosen


def _split_unit(column: str) -> tuple[str, str]:
    """The name and the unit of a column such as `Level [m]`."""
    found = _UNIT.fullmatch(column)
    return (found[1], found[2]) if found else (column, "")


def _names(columns: Sequence[str]) -> dict[str, str]:
    """Names of letters, digits and underscores, by column."""
    names: dict[str, str] = {}
    for column in columns:
        base = re.sub(r"\W+", "_", _split_unit(column)[0], flags=re.ASCII).strip("_").lower()
        base = base if re.match("[a-z_]", base) else f"x_{base}"
        name, number = base[:50], 2
        while name in names.values() or name in ROLES:
            name, number = f"{base[:50]}_{number}", number + 1
        names[column] = column if column == name else name
    return names


def _numeric(table: Table, column: str) -> bool:
    try:
        return bool(np.isfinite(column_numbers(table, column)).any())
    except DataError:
        return False


def _range(table: Table, column: str) -> tuple[float, float, int]:
    values = column_numbers(table, column)
    return float(np.nanmin(values)), float(np.nanmax(values)), int(np.isnan(values).sum())


def _observation_row(table: Table, column: str, names: dict[str, str], open_: list[str]) -> str:
    unit = _split_unit(column)[1] or OPEN
    if unit == OPEN:
        open_.append(f"the unit of {names[column]} (1 for a plain number)")
    low, high, missing = _range(table, column)
    meaning = f"Logged from {low:.6g} to {high:.6g}."
    meaning += f" {missing} values are missing." if missing else ""
    meaning += " It never changes; leave it out unless it varies in operation." * (low == high)
    return f"| {names[column]} | 1 | flat | {unit} |  | {meaning} |"


def _action_row(table: Table, column: str, names: dict[str, str], open_: list[str]) -> str:
    unit = _split_unit(column)[1] or OPEN
    if unit == OPEN:
        open_.append(f"the unit of {names[column]} (1 for a plain number)")
    low, high, _ = _range(table, column)
    open_.append(f"the limits of {names[column]}, logged from {low:.6g} to {high:.6g}")
    meaning = f"Logged from {low:.6g} to {high:.6g}."
    return f"| {names[column]} | {unit} | {OPEN} | {OPEN} | {meaning} |"


def _time(table: Table, roles: dict[str, str], open_: list[str]) -> tuple[str, int, list[str]]:
    """The step, the length of the longest episode, and what was found."""
    labels = np.array([str(cell) for cell in table.columns[roles["episode"]]])
    counts = np.unique(labels, return_counts=True)[1]
    notes = [
        f"{table.size:,} rows in {len(counts)} episodes of {counts.min()} to {counts.max()} rows"
    ]
    longest = max(int(counts.max()) - 1, 1)
    if "time" not in roles:
        open_.append("the length of a step")
        return OPEN, longest, notes
    time = column_times(table, roles["time"])
    same = labels[1:] == labels[:-1]
    steps = np.diff(time)[same]
    steps = steps[steps > 0]
    if not len(steps):
        open_.append("the length of a step")
        return OPEN, longest, notes
    step = float(np.median(steps))
    uneven = int((np.abs(steps - step) > IRREGULAR * step).sum())
    if uneven:
        notes.append(
            f"{uneven} steps are not {step:g} s long; --config.data.gaps=split splits episodes "
            "there"
        )
    return f"{step:g} s", longest, notes


def _text(
    name: str,
    rows: Sequence[str],
    actions: Sequence[str],
    step: str,
    longest: int,
    renamed: dict[str, str],
    rewarded: bool,
) -> str:
    lines = [
        f"# {name}",
        "",
        "## What is unsafe",
        "",
        f"{OPEN}: say in plain words which states must not happen, with numbers and units.",
        "",
        "## Observation",
        "",
        "| field | size | kind | unit | reach | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "## Action",
        "",
        "| action | unit | low | high | meaning |",
        "| --- | --- | --- | --- | --- |",
        *actions,
        "",
        "## System",
        "",
        "| setting | value |",
        "| --- | --- |",
        f"| step | {step} |",
        f"| episode steps | {longest} |",
        f"| cost limit | {OPEN} |",
    ]
    if renamed:
        lines += ["", "## Columns", "", "| name | column |", "| --- | --- |"]
        lines += [
            f"| {short} | {column.replace('|', chr(92) + '|')} |"
            for short, column in renamed.items()
        ]
    if not rewarded:
        lines += ["", "## Reward", "", "```", f"{OPEN}: such as {_first_name(rows[0])}", "```"]
    return "\n".join(lines) + "\n"


def _first_name(row: str) -> str:
    return row.split("|")[1].strip()
