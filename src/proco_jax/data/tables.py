"""Logs in tables, CSV or Parquet, of a system of the user's own.

A row is a moment of an episode: what was observed, and what was commanded from then to the next
row. Reward and cost belong to the state in the row, or, if the description says so, to the step
that starts there. The last row of an episode ends its last step, so its command is not used.
"""

import csv
import datetime
import glob
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proco_jax.common.shipped import find_shipped
from proco_jax.data.checks import ROUNDING, DataError, to_flags
from proco_jax.models.normalizer import CONSTANT_BELOW
from proco_jax.system.description import System
from proco_jax.types import Episode

# A time step may deviate by this share of the described one.
IRREGULAR = 0.5
# The networks compute in single precision.
LARGEST = float(np.finfo(np.float32).max)
# Actions that use less than this share of their range are told.
LITTLE = 0.05
# Columns that logs may lack.
_OPTIONAL = ("time", "reward", "cost", "terminated")
_SPLIT = (
    "Fill in what is missing, give the rows after it another episode, or split episodes there with "
    "--config.data.gaps=split"
)


class Table(NamedTuple):
    """One file of logs.

    Attributes:
      path: of the file.
      columns: by name, `[rows]` texts of a CSV file, or arrays of a Parquet file.
      first: how the first row is numbered: 2 in a CSV file, after its header, 0 in a Parquet file.
    """

    path: Path
    columns: dict[str, Any]
    first: int

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def at(self, row: int, column: str = "") -> str:
        """The name of a row, or of a cell, for errors."""
        return f"{self.path}, row {self.first + row}" + (
            f", column {column!r:.60}" if column else ""
        )


def find_tables(pattern: str, flag: str = "--config.data.source") -> list[Path]:
    """The files that a path or a pattern such as `logs/*.csv` names.

    Args:
      flag: by which it was given, for the error.

    Raises:
      DataError: if there is none.
    """
    found = sorted(Path(name) for name in glob.glob(str(Path(pattern).expanduser())))
    shipped = find_shipped(pattern)
    if not found and shipped.is_file():
        found = [shipped]
    if not found:
        raise DataError(f"{flag}: no file {pattern!r}; give the path of the logs")
    return found


def read_csv(path: Path) -> Table:
    """A CSV file, separated by commas, semicolons or tabs, with the names of columns in row 1.

    Raises:
      DataError: naming the row that is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            separator = max(",;\t", key=head.count)
            rows = list(csv.reader(file, delimiter=separator))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; expected a CSV file in UTF-8") from error
    while rows and not any(rows[-1]):
        rows.pop()
    if len(rows) < 2:
        raise DataError(f"{path}: found no rows under a header with the names of columns")
    header = [name.strip() for name in rows[0]]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path}: the column {twice[0]!r:.60} stands twice in the header")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise DataError(
                f"{path}, row {number}: found {len(row)} cells, expected {len(header)} as in the "
                "header"
            )
    cells = list(zip(*rows[1:], strict=True))
    return Table(path, dict(zip(header, cells, strict=True)), 2)


def read_parquet(path: Path) -> Table:
    """A Parquet file; missing values become NaN.

    Raises:
      DataError: if it cannot be read, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow, which is not installed; install it with "
            "`pip install 'proco-jax[parquet]'`, or export the logs as CSV"
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}; expected a Parquet file") from error
    columns = {name: _parquet_column(table.column(name)) for name in table.column_names}
    return Table(path, columns, 0)


class Logged(NamedTuple):
    """What the files of a source hold.

    Attributes:
      episodes: actions scaled to [-1, 1].
      unread_cost: for each episode, the costs that belong to none of its steps: that of its first
        row, or instead of its last one if costs are of steps, and those of rows lost in the gap
        after it.
    """

    episodes: list[Episode]
    unread_cost: list[float]


def read_tables(
    source: str, system: System, gaps: str, log: Callable[[str], None] = print
) -> Logged:
    """The episodes of the files that a source names.

    Args:
      source: `csv:<files>` or `parquet:<files>`.
      system: names and limits.
      gaps: `refuse` or `split`, see `DataConfig`.
      log: takes lines on what was found.

    Raises:
      DataError: naming file, row and column of what is wrong, and what to do.
    """
    kind, _, pattern = source.partition(":")
    read = {"csv": read_csv, "parquet": read_parquet}[kind]
    tables = [read(path) for path in find_tables(pattern)]
    if not any(table.size for table in tables):
        raise DataError(f"{tables[0].path}: found no rows")
    _check_alike(tables, system)
    found = [_episodes(table, system, gaps, log) for table in tables]
    episodes = [episode for logged in found for episode in logged.episodes]
    unread = [cost for logged in found for cost in logged.unread_cost]
    if not episodes:
        raise DataError(f"{source}: no episode has two rows, as a step needs")
    cost = system.column("cost")
    has_cost = any(cost in table.columns for table in tables)
    for note in log_notes(episodes, system, "" if has_cost else f"column {cost!r}"):
        log(f"{source}: {note}")
    return Logged(episodes, unread)


def scale_actions(
    actions: np.ndarray, system: System, where: Callable[[int, str], str]
) -> np.ndarray:
    """Logged actions `[N, A]` in the system's units, in [-1, 1].

    Args:
      where: the name of a number for errors, from its row and its action.

    Raises:
      DataError: if a number is clearly outside of its limits.
    """
    scaled = system.scale(actions)
    outside = np.abs(scaled) > 1.0 + ROUNDING
    if outside.any():
        row, column = map(int, np.argwhere(outside)[0])
        action = system.actions[column]
        raise DataError(
            f"{where(row, action.name)}: found {actions[row, column]:g}, expected "
            f"{action.low:g} to {action.high:g} {action.unit}, as described ({int(outside.sum())} "
            "such numbers); correct the limits in '## Action', or the logs"
        )
    return np.clip(scaled, -1.0, 1.0)


def no_cost_note(what: str) -> str:
    """What it means that logs have no costs."""
    return (
        f"there is no {what}, so all of the logs count as free of violations: nothing went wrong "
        "in them"
    )


def log_notes(episodes: Sequence[Episode], system: System, no_cost: str = "") -> Iterator[str]:
    """What the user should know of logs.

    Args:
      episodes: at least one, actions scaled.
      no_cost: what is missing where the logs have no costs.
    """
    if no_cost:
        yield no_cost_note(no_cost)
    yield from _narrow_notes(system.unscale(np.concatenate([e.action for e in episodes])), system)
    yield from _constant_notes(np.concatenate([e.obs for e in episodes]), system)


def _narrow_notes(actions: np.ndarray, system: System) -> Iterator[str]:
    """Warnings about actions `[N, A]` that use little of their described range."""
    for action, column in zip(system.actions, actions.T, strict=True):
        low, high, whole = column.min(), column.max(), action.high - action.low
        if high - low >= LITTLE * whole:
            continue
        scaled = low < high and low >= -1 - ROUNDING and high <= 1 + ROUNDING and whole > 4
        hint = (
            "the logs seem to be scaled already, then describe the limits as -1 and 1"
            if scaled
            else "check the limits and the unit in the description"
        )
        yield (
            f"warning: {action.name} takes values from {low:.4g} to {high:.4g}, less than "
            f"{LITTLE:.0%} of its described range of {action.low:g} to {action.high:g} "
            f"{action.unit}; {hint}"
        )


def _constant_notes(obs: np.ndarray, system: System) -> Iterator[str]:
    """Warnings about numbers of the observations `[N, O]` that never change."""
    read = set(system.knowledge.rule.fields) if system.knowledge.rule else set()
    constant = obs.std(axis=0, dtype=np.float64) <= CONSTANT_BELOW
    slices = system.observation.slices
    for i, name in enumerate(system.observed()):
        if constant[i]:
            field = next(f for f, where in slices.items() if where.start <= i < where.stop)
            note = (
                " The rule reads it, so that states cannot be told apart by it; log situations in "
                "which it changes."
                if field in read
                else " Remove it from the description unless it varies in operation."
            )
            yield f"warning: {name} is always {obs[0, i]:g}; the networks ignore it.{note}"


def _check_alike(tables: Sequence[Table], system: System) -> None:
    """Refuses an optional column that some of the files have and others do not."""
    for name in _OPTIONAL:
        if name == "reward" and system.reward is not None:
            continue  # The column is not read.
        column = system.column(name)
        without = [table.path for table in tables if column not in table.columns]
        if 0 < len(without) < len(tables):
            raise DataError(
                f"{without[0]}: found no column {column!r}, which other files of the logs have; "
                "add it to all of them, or remove it from all"
            )


def _episodes(table: Table, system: System, gaps: str, log: Callable[[str], None]) -> Logged:
    needed = [*system.observed(), *(a.name for a in system.actions)]
    named = [name for name in _OPTIONAL if name in system.columns]
    _check_columns(table, system, ["episode", *needed, *named])
    values = np.stack([column_numbers(table, system.column(name)) for name in needed], axis=1)
    has = {name: system.column(name) in table.columns for name in _OPTIONAL}
    if system.reward is None and not has["reward"]:
        raise DataError(
            f"{table.path}: found no column {system.column('reward')!r}; add the reward of each "
            "row, name its column in '## Columns', or write a section '## Reward'"
        )
    reward, cost = (
        column_numbers(table, system.column(name)) if has[name] else np.zeros(table.size)
        for name in ("reward", "cost")
    )
    time = column_times(table, system.column("time")) if has["time"] else None
    flags = _flags(table, system)
    if (cost < 0).any():
        row = int(np.argmax(cost < 0))
        where = table.at(row, system.column("cost"))
        raise DataError(f"{where}: found {cost[row]:g}, expected 0 or more")
    o = len(system.observed())
    found, notes, unread = [], [], []
    for rows in _groups(table, system, time):
        parts = list(_parts(table, system, rows, values, time, gaps, notes))
        found += [(part, values[part, :o], values[part[:-1], o:]) for part in parts]
        unread += _unread_costs(rows, parts, cost, system.of_step)
    if notes:
        log(f"{table.path}: {len(notes)} gaps, where episodes are split; the first: {notes[0]}")
    episodes = [
        _episode(table, system, part, obs, action, reward, cost, flags)
        for part, obs, action in found
    ]
    return Logged(episodes, unread)


def _unread_costs(
    rows: np.ndarray, parts: Sequence[np.ndarray], cost: np.ndarray, of_step: bool
) -> list[float]:
    """The costs of an episode's rows that no step of its parts has, by part.

    A row that was lost counts for the part before it, which leads there, or else for the first.
    """
    if not parts:
        return []
    read = np.concatenate([_rows_of_steps(part, of_step) for part in parts])
    left = np.flatnonzero(~np.isin(rows, read) & (cost[rows] > 0))
    starts = np.flatnonzero(np.isin(rows, [part[0] for part in parts]))
    owner = np.maximum(np.searchsorted(starts, left, side="right") - 1, 0)
    return np.bincount(owner, cost[rows[left]], len(parts)).tolist()


def _rows_of_steps(part: np.ndarray, of_step: bool) -> np.ndarray:
    """The rows with reward and cost of each step."""
    return part[:-1] if of_step else part[1:]


def _episode(
    table: Table,
    system: System,
    part: np.ndarray,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    cost: np.ndarray,
    flags: np.ndarray,
) -> Episode:
    scaled = scale_actions(
        action, system, lambda row, name: table.at(int(part[row]), system.column(name))
    )
    of = _rows_of_steps(part, system.of_step)
    for name, column in (("reward", reward), ("cost", cost)):
        missing = np.flatnonzero(~np.isfinite(column[of]))
        if missing.size and (name == "cost" or system.reward is None):
            where = table.at(int(of[missing[0]]), system.column(name))
            raise DataError(f"{where}: the {name} is missing; every step needs one")
    return Episode(
        obs=obs.astype(np.float32),
        action=scaled.astype(np.float32),
        reward=rewards(system, obs.astype(np.float32), reward[of]),
        cost=cost[of].astype(np.float32),
        terminated=bool(flags[part[-1]]),
    )


def rewards(system: System, obs: np.ndarray, logged: np.ndarray) -> np.ndarray:
    """The described reward of the states `[T + 1, O]` that steps lead to, or else the logged."""
    if system.reward is None:
        return logged.astype(np.float32)
    return np.asarray(system.reward.value(obs[1:]), np.float32)


def _check_columns(table: Table, system: System, names: Sequence[str]) -> None:
    missing = [system.column(name) for name in names if system.column(name) not in table.columns]
    if missing:
        raise DataError(
            f"{table.path}: found no column {', '.join(map(repr, missing))}; the columns are "
            f"{', '.join(table.columns)}. Name columns that differ in the section '## Columns' of "
            "the description"
        )


def column_numbers(table: Table, column: str) -> np.ndarray:
    """A column as `[rows]` float64, NaN where a cell is empty.

    Raises:
      DataError: naming the first cell that is no finite number.
    """
    cells = table.columns[column]
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
        numbers = cells.astype(np.float64)
    else:
        try:
            numbers = np.array([_number(cell) for cell in cells], np.float64)
        except (TypeError, ValueError):
            row = next(i for i, cell in enumerate(cells) if not _is_number(cell))
            raise DataError(
                f"{table.at(row, column)}: found {cells[row]!r:.60}, expected a number with a "
                "decimal point, or an empty cell where it is missing"
            ) from None
    # NaN, a missing value, is not above.
    infinite = np.abs(numbers) > LARGEST
    if infinite.any():
        row = int(np.argmax(infinite))
        raise DataError(
            f"{table.at(row, column)}: found {numbers[row]:g}, expected a finite number of at most "
            f"{LARGEST:.3g}, or an empty cell where it is missing"
        )
    return numbers


def _number(cell: Any) -> float:
    return math.nan if _is_missing(cell) else float(cell)


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in ("", "nan", "na", "null", "none")
    return cell is None or cell != cell


def _is_number(cell: Any) -> bool:
    try:
        _number(cell)
    except (TypeError, ValueError):
        return False
    return True


def column_times(table: Table, column: str) -> np.ndarray:
    """A column of times in seconds: numbers, or dates and times as in ISO 8601.

    Times that are missing are NaN.

    Raises:
      DataError: naming the first cell that is no time.
    """
    cells = table.columns[column]
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "M":
        seconds = cells.astype("datetime64[us]").astype(np.int64) / 1e6
        return np.where(np.isnat(cells), np.nan, seconds)
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
        return column_numbers(table, column)
    known = next((cell for cell in cells if not _is_missing(cell)), None)
    if known is None or _is_number(known):
        return column_numbers(table, column)
    seconds = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if _is_missing(cell):
            continue
        try:
            stamp = datetime.datetime.fromisoformat(str(cell).strip())
        except ValueError:
            raise DataError(
                f"{table.at(row, column)}: found {cell!r:.60}, expected seconds, or a date and "
                "time such as 2024-05-01T12:00:00"
            ) from None
        # Without a time zone it is read as UTC, in which no hour is skipped.
        stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=datetime.UTC)
        seconds[row] = stamp.timestamp()
    return seconds


def _flags(table: Table, system: System) -> np.ndarray:
    """Whether the system truly came to its end with a row, `[rows]` bool."""
    column = system.column("terminated")
    if column not in table.columns:
        return np.zeros(table.size, bool)
    words = {"true": 1.0, "false": 0.0, "": 0.0}
    cells = table.columns[column]
    if not isinstance(cells, np.ndarray) or cells.dtype.kind not in "biuf":
        cells = [words.get(str(cell).strip().lower(), cell) for cell in cells]
        numbers = column_numbers(Table(table.path, {column: cells}, table.first), column)
    else:
        numbers = np.nan_to_num(cells.astype(np.float64))
    wrong = (numbers != 0) & (numbers != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{table.at(row, column)}: found {numbers[row]:g}, expected 0 or 1")
    return to_flags(numbers, f"{table.path}: {column}")


def _groups(table: Table, system: System, time: np.ndarray | None) -> Iterator[np.ndarray]:
    """The rows of each episode, in the order of their time, or else of the file."""
    column = system.column("episode")
    labels = np.array([str(cell).strip() for cell in table.columns[column]])
    for empty in ("", "None", "nan"):
        if (labels == empty).any():
            row = int(np.argmax(labels == empty))
            raise DataError(f"{table.at(row, column)}: the episode is missing; number the episodes")
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[number]
    order = np.argsort(rank, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(rank[order])) + 1):
        if time is not None and len(rows) > 1:
            back = np.diff(time[rows]) <= 0
            if back.any():
                i = int(np.argmax(back))
                row = int(rows[i + 1])
                remedy = (
                    "remove the rows that stand twice"
                    if time[rows[i]] == time[row]
                    else "sort the rows by time"
                )
                raise DataError(
                    f"{table.at(row, system.column('time'))}: the time does not increase within "
                    f"the episode {labels[row]!r:.60}; {remedy}, and give each episode a name of "
                    "its own"
                )
        yield rows


def _parts(
    table: Table,
    system: System,
    rows: np.ndarray,
    values: np.ndarray,
    time: np.ndarray | None,
    gaps: str,
    notes: list[str],
) -> Iterator[np.ndarray]:
    """Stretches of an episode without missing values and times, of two rows or more."""
    o = len(system.observed())
    names = [*system.observed(), *(a.name for a in system.actions)]
    absent: np.ndarray = np.isnan(values[rows])
    # The command of the last row is not used.
    absent[-1, o:] = False
    broken: np.ndarray = np.any(absent, axis=1)
    cut = np.zeros(len(rows), bool)  # Whether a row does not continue the row before.
    if broken.any():
        row = int(np.argmax(broken))
        name = names[int(np.argmax(absent[row]))]
        notes.append(
            f"{table.at(int(rows[row]), system.column(name))}: a value is missing "
            f"({int(broken.sum())} such rows in this episode)"
        )
    if time is not None and len(rows) > 1:
        step = np.diff(time[rows])
        cut[1:] = ~(np.abs(step - system.step_s) <= IRREGULAR * system.step_s)
        if cut.any():
            i = int(np.argmax(cut))
            where = table.at(int(rows[i]), system.column("time"))
            notes.append(
                f"{where}: {step[i - 1]:g} s after the row before, expected the described step of "
                f"{system.step_s:g} s"
                if np.isfinite(step[i - 1])
                else f"{where}: the time is missing here or in the row before"
            )
    if notes and gaps == "refuse":
        raise DataError(f"{notes[0]}. {_SPLIT}")
    begin = 0
    for i in range(len(rows) + 1):
        end = i == len(rows)
        if end or broken[i] or cut[i]:
            if i - begin >= 2:
                yield rows[begin:i]
            begin = i + 1 if not end and broken[i] else i


def _parquet_column(column: Any) -> Any:
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_boolean(kind):
        column = column.cast("int8")
    if kinds.is_timestamp(kind):
        return column.to_numpy().astype("datetime64[us]")
    if kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind):
        return column.cast("float64").to_numpy() if column.null_count else column.to_numpy()
    return column.to_pylist()
