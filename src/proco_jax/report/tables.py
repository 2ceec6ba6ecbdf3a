"""Tables of results: for the terminal, as Markdown and as CSV."""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from proco_jax.common.statistics import Interval, stratified_bootstrap, wilson_interval
from proco_jax.envs.tasks import TASKS, normalized_return
from proco_jax.evaluation.results import Policy, Row, final_rows, policy_name

CAPTION = (
    "One row per policy. *Augmentation* is what generated costs and imagined samples in training, "
    "*shield* is what guards the policy at deployment: rows that differ only in augmentation show "
    "the effect of training, rows that differ only in shield show the effect of the shield. "
    "IQM: interquartile mean over all episodes of all seeds [95% stratified bootstrap interval: "
    "seeds, and within each its episodes, drawn with replacement]; mean ± standard deviation of "
    "the seeds' means. R is the normalized return (DSRL's references; of a system of your own the "
    "return itself), C is cost / cost limit. "
    "Violation length: mean number of consecutive steps in violation, over the seeds that "
    "violate. Always the last checkpoint, whatever its scores."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """Statistics of one policy, over all its seeds at its last training step.

    Attributes:
      run: the run that the rows come from; empty if only one is reported.
      task, source, regime, algorithm, augmentation, shield, step, cost_limit: as in
        the rows.
      seeds: number of seeds S.
      episodes: number of episodes E of each seed, the smallest if they differ.
      seed_values: `[S]`, the seeds in ascending order.
      returns: `[S, E]` returns of the episodes.
      costs: `[S, E]` costs of the episodes.
      episode_return: interquartile mean of the episodes' returns.
      cost: interquartile mean of the episodes' costs.
      normalized_return: `episode_return`, normalized.
      normalized_cost: `cost` / `cost_limit`.
      violation_free_share: mean share of episodes without any cost.
      episodes_within_limit: mean share of episodes whose cost is at most `cost_limit`.
      runs_within_limit: share of seeds whose mean cost is at most `cost_limit` (Wilson interval).
      mean_return: mean of the episodes' returns.
      mean_cost: mean of the episodes' costs.
      return_std: standard deviation of the seeds' mean returns, 0 for one seed.
      cost_std: the same of the seeds' mean costs.
      violation_steps_mean: mean length of violations in steps, over the seeds that
        violate; 0 if none does.
      violation_steps_std: standard deviation over the same seeds.
    """

    run: str
    task: str
    source: str
    regime: str
    algorithm: str
    augmentation: str
    shield: str
    step: int
    cost_limit: float
    seeds: int
    episodes: int
    seed_values: tuple[int, ...]
    returns: np.ndarray
    costs: np.ndarray
    episode_return: Interval
    cost: Interval
    normalized_return: Interval
    normalized_cost: Interval
    violation_free_share: Interval
    episodes_within_limit: Interval
    runs_within_limit: Interval
    mean_return: Interval
    mean_cost: Interval
    return_std: float
    cost_std: float
    violation_steps_mean: float
    violation_steps_std: float

    @property
    def policy(self) -> Policy:
        """Algorithm, augmentation and shield."""
        return self.algorithm, self.augmentation, self.shield


def summarize(rows: Sequence[Row], run: str = "") -> list[Summary]:
    """One summary per policy (algorithm, augmentation, shield), in the order of `final_rows`.

    Args:
      rows: of one `results.json`.
      run: name of the run, where several are compared.
    """
    return [_summary(group, run) for group in final_rows(rows).values()]


def summary_metrics(summary: Summary) -> dict[str, float]:
    """The main statistics of a summary as plain numbers, for JSON."""
    return {
        "return_iqm": float(summary.episode_return.point),
        "cost_iqm": float(summary.cost.point),
        "return_mean": summary.mean_return.point,
        "cost_mean": summary.mean_cost.point,
        "violation_free_share": float(summary.violation_free_share.point),
        "violation_steps_mean": summary.violation_steps_mean,
        "seeds": summary.seeds,
        "episodes": summary.episodes,
    }


def summary_markdown(summaries: Sequence[Summary]) -> str:
    """The summaries as a Markdown table, one row per policy."""
    axes = axis_columns(summaries)
    columns = axes | _STATISTICS
    rows = [[cell(summary) for cell in columns.values()] for summary in summaries]
    return markdown_table(list(columns), rows, text_columns=len(axes))


def print_summary(summaries: Sequence[Summary], console: Console | None = None) -> None:
    """Prints the main statistics of one run as a table on the terminal."""
    if not summaries:
        return
    first = summaries[0]
    table = Table(
        title=f"{short_task(first.task)}, {logs_name(first.source, first.regime)} logs, "
        f"cost limit {first.cost_limit:g}",
        caption="Mean ± standard deviation over seeds, share of episodes [95% interval].",
    )
    table.add_column("policy")
    for name in _TERMINAL:
        table.add_column(name, justify="right")
    for summary in summaries:
        name = policy_name(summary.algorithm, summary.augmentation, summary.shield)
        table.add_row(name, *(_STATISTICS[column](summary) for column in _TERMINAL))
    (console or Console()).print(table)


def axis_columns(summaries: Sequence[Summary]) -> dict[str, Callable[[Summary], str]]:
    """The columns that identify a policy, as functions of its summary.

    The run is among them only where the others do not tell all policies apart.
    """
    policies = [tuple(cell(summary) for cell in _AXES.values()) for summary in summaries]
    run = {"run": lambda s: s.run} if len(set(policies)) < len(policies) else {}
    return run | _AXES


def markdown_table(
    header: Sequence[Any], rows: Iterable[Sequence[Any]], *, text_columns: int = 1
) -> str:
    """A Markdown table.

    Args:
      header: names of the columns.
      rows: cells, as many per row as there are columns.
      text_columns: the first columns, aligned to the left; all others are numbers and
        aligned to the right.

    Raises:
      ValueError: if a row has another number of cells than the header.
    """
    numbers = len(header) - text_columns
    lines = [_line(header), _line([":--"] * text_columns + ["--:"] * numbers)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells under {len(header)} headings: {row}")
        lines.append(_line(row))
    return "\n".join(lines) + "\n"


def csv_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def number(value: Any) -> str:
    """A value as text: four significant digits, `yes` or `no`, a dash for None and NaN."""
    if value is None:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return "-"
        whole = abs(value) >= 1000
        return f"{value:,.0f}" if whole else f"{value:.4g}"
    return str(value)


def normalized(task: str, returns: np.ndarray) -> np.ndarray:
    """Normalized returns; as they are for a system of the user's own, without reference returns."""
    known = TASKS.get(task)
    return returns if known is None else np.asarray(normalized_return(known, returns))


def logs_name(source: str, regime: str) -> str:
    """Regime and source of the logs, e.g. `safe, collect`; of a file only the name."""
    kind, colon, name = source.partition(":")
    if kind in ("dsrl", "csv", "parquet"):
        name = Path(name).name
    return f"{regime}, {kind}{colon}{name}"


def short_task(task: str) -> str:
    """The task's name without the prefix that all tasks share."""
    return task.removeprefix("Safety")


def setting_title(run: str, task: str, *rest: str) -> str:
    """What a picture is about: the run if several are told apart, the task, and the rest."""
    return ", ".join(filter(None, (run, short_task(task), *rest)))


_AXES: dict[str, Callable[[Summary], str]] = {
    "task": lambda s: short_task(s.task),
    "logs": lambda s: logs_name(s.source, s.regime),
    "algorithm": lambda s: s.algorithm,
    "augmentation": lambda s: s.augmentation,
    "shield": lambda s: s.shield,
}
_STATISTICS: dict[str, Callable[[Summary], str]] = {
    "seeds x episodes": lambda s: f"{s.seeds} x {s.episodes}",
    "return, IQM": lambda s: _interval(s.episode_return, 2),
    "cost, IQM": lambda s: _interval(s.cost, 1),
    "R, IQM": lambda s: _interval(s.normalized_return, 2),
    "C, IQM": lambda s: _interval(s.normalized_cost, 2),
    "violation-free": lambda s: _percent(s.violation_free_share),
    "violation length": lambda s: f"{s.violation_steps_mean:.1f} ± {s.violation_steps_std:.1f}",
    "return, mean": lambda s: f"{s.mean_return.point:.2f} ± {s.return_std:.2f}",
    "cost, mean": lambda s: f"{s.mean_cost.point:.1f} ± {s.cost_std:.1f}",
}
_TERMINAL = ("return, mean", "cost, mean", "violation-free")


def _summary(rows: Sequence[Row], run: str) -> Summary:
    first = rows[0]
    # An interrupted evaluation can leave seeds with different numbers of episodes.
    episodes = min(row["episodes"] for row in rows)
    returns = np.array([row["returns"][:episodes] for row in rows])
    costs = np.array([row["costs"][:episodes] for row in rows])
    limit = first["cost_limit"]
    episode_return = stratified_bootstrap(returns)
    cost = stratified_bootstrap(costs)
    violations = [row["violation_steps_mean"] for row in rows if row["violation_steps_mean"] > 0]
    axes = ("task", "source", "regime", "algorithm", "augmentation", "shield", "step", "cost_limit")
    return Summary(
        run=run,
        **{name: first[name] for name in axes},
        seeds=len(rows),
        episodes=episodes,
        seed_values=tuple(row["seed"] for row in rows),
        returns=returns,
        costs=costs,
        episode_return=episode_return,
        cost=cost,
        normalized_return=Interval(*normalized(first["task"], np.array(episode_return))),
        normalized_cost=Interval(*(value / limit for value in cost)),
        violation_free_share=stratified_bootstrap(costs == 0, np.mean),
        episodes_within_limit=stratified_bootstrap(costs <= limit, np.mean),
        runs_within_limit=wilson_interval(int((costs.mean(axis=1) <= limit).sum()), len(rows)),
        mean_return=stratified_bootstrap(returns, np.mean),
        mean_cost=stratified_bootstrap(costs, np.mean),
        return_std=_std(returns.mean(axis=1)),
        cost_std=_std(costs.mean(axis=1)),
        violation_steps_mean=float(np.mean(violations)) if violations else 0.0,
        violation_steps_std=_std(violations),
    )


def _std(values: Sequence[float] | np.ndarray) -> float:
    """Sample standard deviation, 0 for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _interval(interval: Interval, digits: int) -> str:
    point, low, high = (f"{value:.{digits}f}" for value in interval)
    return f"{point} [{low}, {high}]"


def _percent(interval: Interval) -> str:
    point, low, high = (f"{100 * value:.0f}" for value in interval)
    return f"{point}% [{low}, {high}]"


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
