"""The results of a sweep: raw rows of all runs, with the values of its axes as columns."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proco_jax.common.files import write_atomic, write_text
from proco_jax.evaluation.results import COLUMNS, FILE, Row, final_rows, load_rows
from proco_jax.report.comparison import expected_rows
from proco_jax.report.tables import csv_table
from proco_jax.sweeps.folder import PlannedRun
from proco_jax.sweeps.status import Progress

ROWS_CSV, ROWS_PARQUET = "rows.csv", "rows.parquet"


class SweepRow(NamedTuple):
    """A row of results, and the run that it belongs to."""

    run: PlannedRun
    row: Row


class SweepResults(NamedTuple):
    """The rows of all finished runs at the last step of their trainings.

    Attributes:
      rows: in the order of the axes.
      problems: messages by run, for those whose results cannot be read.
    """

    rows: list[SweepRow]
    problems: dict[str, str]


def load_results(progress: Progress) -> SweepResults:
    """Reads the results of all finished runs; one that cannot be read stops no other."""
    rows, problems = [], {}
    for run in progress.planned:
        root = progress.finished.get(run.name)
        if root is None:
            continue
        try:
            found = final_rows(load_rows(root.run(run.name) / FILE))
        except (OSError, ValueError) as error:
            problems[run.name] = str(error)
            continue
        rows += [SweepRow(run, row) for group in found.values() for row in group]
    return SweepResults(rows, problems)


def settings_text(run: PlannedRun) -> str:
    """The values of a run's hyperparameters in words, e.g. `bc.learning_rate=0.001`."""
    return ", ".join(f"{name}={_value(value)}" for name, value in run.settings.items())


def compared_rows(results: SweepResults) -> list[Row]:
    """The rows for `report.comparison.compare`: what tells runs apart is their key `run`."""
    return [{**found.row, "run": settings_text(found.run)} for found in results.rows]


def all_expected(planned: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    """The rows that a finished sweep has; the name of an algorithm of the user's own is unknown."""
    return [
        row
        for run in planned
        if ":" not in run.algorithm
        for row in expected_rows(
            run.task,
            run.source,
            run.regime,
            run.cost_limit,
            [(run.algorithm, a, s) for a in run.augmentations for s in run.shields],
            run.seeds,
            settings_text(run),
        )
    ]


def write_rows(folder: Path, results: SweepResults) -> list[Path]:
    """Writes the raw rows as CSV, and as Parquet where pyarrow is installed.

    A column for each hyperparameter follows those of the runs; it is empty where a run has none.

    Returns:
      The paths.
    """
    names = list(dict.fromkeys(name for found in results.rows for name in found.run.settings))
    header = ["run", *names, *COLUMNS]
    lines = [
        [found.run.name, *(found.run.settings.get(name) for name in names)]
        + [found.row[name] for name in COLUMNS]
        for found in results.rows
    ]
    texts = [["" if x is None else _value(x) for x in line] for line in lines]
    write_text(folder / ROWS_CSV, csv_table(header, texts))
    paths = [folder / ROWS_CSV]
    if importlib.util.find_spec("pyarrow") is not None:
        columns = {name: [line[i] for line in lines] for i, name in enumerate(header)}
        _write_parquet(folder / ROWS_PARQUET, columns)
        paths.append(folder / ROWS_PARQUET)
    return paths


def _write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    import pyarrow  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]

    # Values of one hyperparameter may be of several types, e.g. widths of layers.
    plain = {
        name: values if _one_type(values) else [None if x is None else _value(x) for x in values]
        for name, values in columns.items()
    }
    table = pyarrow.table(plain)
    write_atomic(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def _one_type(values: Sequence[Any]) -> bool:
    kinds = {type(value) for value in values if value is not None}
    return len(kinds) <= 1 and kinds <= {str, int, float, bool}


def _value(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
