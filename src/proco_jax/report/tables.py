"""Tables of results, for the terminal and as Markdown."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from proco_jax.common.statistics import Interval, stratified_bootstrap
from proco_jax.envs.tasks import get_task, normalized_return
from proco_jax.evaluation.results import FILE, Row, final_rows, load_rows, policy_name

CAPTION = (
    "Interquartile mean over all episodes of all seeds [95% stratified bootstrap interval: seeds, "
    "and within each its episodes, drawn with replacement]; mean ± standard deviation of the "
    "seeds' means. R = normalized return (DSRL's references), C = cost / limit. "
    "Last checkpoint, never chosen by its scores."
)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What one policy's rows at its last step come to.

    Attributes:
      task, regime, algorithm, proco, step, cost_limit: as in the rows.
      seeds: how many.
      episodes: of each seed, at least.
      episode_return: interquartile mean of the episodes' returns.
      cost: the same of their costs.
      normalized_return: the same of the returns, normalized.
      normalized_cost: the same of the costs, over the limit.
      violation_free_share: mean share of episodes without any cost.
      return_mean, return_std: of the seeds' mean returns.
      cost_mean, cost_std: of the seeds' mean costs.
    """

    task: str
    regime: str
    algorithm: str
    proco: bool
    step: int
    cost_limit: float
    seeds: int
    episodes: int
    episode_return: Interval
    cost: Interval
    normalized_return: Interval
    normalized_cost: Interval
    violation_free_share: Interval
    return_mean: float
    return_std: float
    cost_mean: float
    cost_std: float


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """One summary for each (algorithm, proco), from its last step alone."""
    return [_summary(group) for group in final_rows(rows).values()]


def played(summary: Summary) -> dict[str, float]:
    """What a summary comes to, in plain numbers."""
    return {
        "return_iqm": float(summary.episode_return.point),
        "cost_iqm": float(summary.cost.point),
        "cost_mean": summary.cost_mean,
        "violation_free_share": float(summary.violation_free_share.point),
        "seeds": summary.seeds,
        "episodes": summary.episodes,
    }


def summary_markdown(summaries: Sequence[Summary], *, with_task: bool = False) -> str:
    """The summaries as a Markdown table; `with_task` names task and regime in each row."""
    header = (["task", "logs"] if with_task else []) + list(_COLUMNS)
    rows = [
        ([_short(item.task), item.regime] if with_task else []) + _cells(item) for item in summaries
    ]
    return markdown_table(header, rows)


def print_summary(summaries: Sequence[Summary], console: Console | None = None) -> None:
    """Prints the summaries on the terminal."""
    if summaries:
        (console or Console()).print(summary_table(summaries))


def summary_table(summaries: Sequence[Summary]) -> Table:
    """The summaries, at least one, as a table for the terminal, one column a policy."""
    first = summaries[0]
    table = Table(
        title=f"{first.task}, learned from {first.regime} logs, cost limit {first.cost_limit:g}",
        caption=CAPTION,
    )
    table.add_column("")
    for item in summaries:
        table.add_column(policy_name(item.algorithm, item.proco), justify="right")
    cells = [_cells(item)[1:] for item in summaries]
    for name, values in zip(list(_COLUMNS)[1:], zip(*cells, strict=True), strict=True):
        table.add_row(name, *values)
    return table


def results_table(workdirs: Iterable[Path]) -> str:
    """README's table: the summaries of several runs, below each other.

    Raises:
      FileNotFoundError: if a folder has no results.
      ValueError: if its results can't be read.
    """
    summaries = [
        summary for folder in workdirs for summary in summarize(load_rows(Path(folder) / FILE))
    ]
    return summary_markdown(summaries, with_task=True) + "\n" + CAPTION + "\n"


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column to the left, the others to the right.

    Raises:
      ValueError: if a row hasn't as many cells as the header.
    """
    lines = [_line(header), _line([":--", *["--:"] * (len(header) - 1)])]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells under {len(header)} headings: {row}")
        lines.append(_line(row))
    return "\n".join(lines) + "\n"


def number(value: Any) -> str:
    """A value as a person reads it: four significant digits, yes and no, a dash for nothing."""
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


_COLUMNS = {
    "policy": lambda s: policy_name(s.algorithm, s.proco),
    "seeds x episodes": lambda s: f"{s.seeds} x {s.episodes}",
    "return, IQM": lambda s: _interval(s.episode_return, 2),
    "cost, IQM": lambda s: _interval(s.cost, 1),
    "R, IQM": lambda s: _interval(s.normalized_return, 2),
    "C, IQM": lambda s: _interval(s.normalized_cost, 2),
    "violation-free": lambda s: _percent(s.violation_free_share),
    "return, mean": lambda s: f"{s.return_mean:.2f} ± {s.return_std:.2f}",
    "cost, mean": lambda s: f"{s.cost_mean:.1f} ± {s.cost_std:.1f}",
}


def _summary(rows: Sequence[Row]) -> Summary:
    first = rows[0]
    # An interrupted sweep can leave seeds with different numbers of episodes.
    episodes = min(row["episodes"] for row in rows)
    returns = np.array([row["returns"][:episodes] for row in rows])
    costs = np.array([row["costs"][:episodes] for row in rows])
    task = get_task(first["task"])
    episode_return = stratified_bootstrap(returns)
    cost = stratified_bootstrap(costs)
    means = returns.mean(axis=1), costs.mean(axis=1)
    return Summary(
        **{name: first[name] for name in ("task", "regime", "algorithm", "proco", "step")},
        cost_limit=first["cost_limit"],
        seeds=len(rows),
        episodes=episodes,
        episode_return=episode_return,
        cost=cost,
        normalized_return=Interval(*np.asarray(normalized_return(task, np.array(episode_return)))),
        normalized_cost=Interval(*(value / first["cost_limit"] for value in cost)),
        violation_free_share=stratified_bootstrap(costs == 0, np.mean),
        return_mean=float(means[0].mean()),
        return_std=float(means[0].std(ddof=min(1, len(rows) - 1))),
        cost_mean=float(means[1].mean()),
        cost_std=float(means[1].std(ddof=min(1, len(rows) - 1))),
    )


def _cells(summary: Summary) -> list[str]:
    return [cell(summary) for cell in _COLUMNS.values()]


def _interval(interval: Interval, digits: int) -> str:
    point, low, high = (f"{value:.{digits}f}" for value in interval)
    return f"{point} [{low}, {high}]"


def _percent(interval: Interval) -> str:
    point, low, high = (f"{100 * value:.0f}" for value in interval)
    return f"{point}% [{low}, {high}]"


def _short(task: str) -> str:
    return task.removeprefix("Safety")


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
