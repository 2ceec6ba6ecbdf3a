"""Return and cost over a hyperparameter of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proco_jax.common.statistics import Interval, stratified_bootstrap
from proco_jax.evaluation.results import Row, policy_name
from proco_jax.report.plot_style import (
    COLORS,
    DASHES,
    figure_title,
    label,
    legend_below,
    panels,
    save,
)
from proco_jax.report.tables import short_task
from proco_jax.sweeps.results import SweepRow

# A picture with more lines cannot be read.
MOST_LINES = 12


class Point(NamedTuple):
    """The mean of a policy's scores at one value of a hyperparameter."""

    value: float
    cost: Interval
    episode_return: Interval


class Curve(NamedTuple):
    """Scores of a policy over a hyperparameter, all other axes fixed.

    Attributes:
      name: dotted name of the hyperparameter.
      task: e.g. `SafetyPointGoal1`.
      regime: of the logs.
      label: the policy, and the values of other hyperparameters.
      points: by ascending value, at least two.
    """

    name: str
    task: str
    regime: str
    label: str
    points: list[Point]


def sweep_curves(rows: Sequence[SweepRow]) -> list[Curve]:
    """A curve for each policy and each hyperparameter with at least two numbers as values."""
    groups: dict[tuple[str, str, str, str], dict[float, list[Row]]] = {}
    for run, row in rows:
        for name, value in run.settings.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            others = [f"{k}={v}" for k, v in run.settings.items() if k != name]
            policy = policy_name(row["algorithm"], row["augmentation"], row["shield"])
            key = (name, row["task"], row["regime"], ", ".join([policy, *others]))
            groups.setdefault(key, {}).setdefault(float(value), []).append(row)
    return [
        Curve(*key, [_point(value, values[value]) for value in sorted(values)])
        for key, values in groups.items()
        if len(values) > 1
    ]


def draw_curves(folder: Path, curves: Sequence[Curve]) -> dict[tuple[str, str, str], Path]:
    """A picture for each hyperparameter, task and regime: mean cost and mean return.

    Returns:
      Paths by hyperparameter, task and regime.
    """
    groups: dict[tuple[str, str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.name, curve.task, curve.regime), []).append(curve)
    drawn = {}
    for i, (key, mine) in enumerate(groups.items()):
        path = folder / f"curve_{i + 1}.png"
        _draw(path, mine[:MOST_LINES], key)
        drawn[key] = path
    return drawn


def curves_json(curves: Sequence[Curve]) -> list[Mapping[str, Any]]:
    """The curves as JSON data."""
    return [
        {**curve._asdict(), "points": [_point_json(point) for point in curve.points]}
        for curve in curves
    ]


def _point(value: float, rows: Sequence[Row]) -> Point:
    def mean(name: str) -> Interval:
        fewest = min(len(row[name]) for row in rows)
        return stratified_bootstrap([row[name][:fewest] for row in rows], np.mean)

    return Point(value, mean("costs"), mean("returns"))


def _point_json(point: Point) -> dict[str, Any]:
    return {
        "value": point.value,
        "cost": [round(float(x), 6) for x in point.cost],
        "return": [round(float(x), 6) for x in point.episode_return],
    }


def _draw(path: Path, curves: Sequence[Curve], key: tuple[str, str, str]) -> None:
    name, task, regime = key
    figure, axes = panels(1, 2, 9.6, 3.6)
    values = [point.value for curve in curves for point in curve.points]
    logarithmic = min(values) > 0 and max(values) >= 10 * min(values)
    for i, curve in enumerate(curves):
        color, dash = COLORS[i % len(COLORS)], DASHES if i >= len(COLORS) else "-"
        x = [point.value for point in curve.points]
        for one, of in zip(axes, ("cost", "episode_return"), strict=True):
            found = [getattr(point, of) for point in curve.points]
            y = [interval.point for interval in found]
            one.plot(x, y, color=color, linestyle=dash, marker="o", ms=3, label=curve.label)
            low, high = [i.low for i in found], [i.high for i in found]
            one.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    for one, words in zip(axes, ("mean cost", "mean return"), strict=True):
        if logarithmic:
            one.set_xscale("log")
        label(one, name, words, "")
    figure_title(figure, f"{short_task(task)}, {regime} logs")
    legend_below(figure, axes[0].get_legend_handles_labels()[0], 2)
    save(figure, path)
