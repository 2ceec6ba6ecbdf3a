"""Return and cost over a hyperparameter of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proco_jax.common.statistics import Interval, stratified_bootstrap
from proco_jax.evaluation.results import SHIELDS, Row, policy_name, rounded
from proco_jax.report.plot_style import (
    COLORS,
    SHIELD_NAMES,
    color_handles,
    figure_title,
    label,
    legend_below,
    panels,
    save,
)
from proco_jax.report.tables import setting_title
from proco_jax.sweeps.results import SweepRow

# A panel with more lines cannot be read.
MOST_LINES = len(COLORS)
_QUANTITIES = {"cost": "mean cost per episode", "episode_return": "mean return per episode"}


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
      label: the trained policy, and the values of other hyperparameters.
      shield: of the policy.
      points: by ascending value, at least two.
    """

    name: str
    task: str
    regime: str
    label: str
    shield: str
    points: list[Point]


def sweep_curves(rows: Sequence[SweepRow]) -> list[Curve]:
    """A curve for each policy and each hyperparameter with at least two numbers as values."""
    groups: dict[tuple[str, str, str, str, str], dict[float, list[Row]]] = {}
    for run, row in rows:
        for name, value in run.settings.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            others = [f"{k}={v}" for k, v in run.settings.items() if k != name]
            trained = ", ".join([policy_name(row["algorithm"], row["augmentation"]), *others])
            key = (name, row["task"], row["regime"], trained, row["shield"])
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
        _draw(path, mine, key)
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
        "cost": [rounded(x) for x in point.cost],
        "return": [rounded(x) for x in point.episode_return],
    }


def _draw(path: Path, curves: Sequence[Curve], key: tuple[str, str, str]) -> None:
    """A row of panels for each shield, whose costs differ too much for one axis."""
    name, task, regime = key
    shields = [shield for shield in reversed(SHIELDS) if any(c.shield == shield for c in curves)]
    labels = dict.fromkeys(curve.label for curve in curves)
    colors = dict(zip(labels, COLORS, strict=False))
    drawn = [curve for curve in curves if curve.label in colors]
    height = 2.4 * len(shields) + 0.6 + 0.2 * -(-len(colors) // 2)
    figure, axes = panels(len(shields), 2, 9.6, height, sharex=True)
    for i, shield in enumerate(shields):
        for one, (quantity, words) in zip(axes[2 * i :], _QUANTITIES.items(), strict=False):
            for curve in drawn:
                if curve.shield == shield:
                    _draw_curve(one, curve, quantity, colors[curve.label])
            lowest = i + 1 == len(shields)
            label(one, name if lowest else "", words, SHIELD_NAMES[shield])
            _value_axis(one, sorted({point.value for curve in drawn for point in curve.points}))
            one.tick_params(labelbottom=lowest)
    figure_title(figure, setting_title("", task, f"{regime} logs"))
    legend_below(figure, color_handles(colors), 2)
    save(figure, path)


def _draw_curve(axes: Any, curve: Curve, quantity: str, color: str) -> None:
    x = [point.value for point in curve.points]
    y = [getattr(point, quantity) for point in curve.points]
    axes.plot(x, [interval.point for interval in y], color=color, lw=1.4, marker="o", ms=3)
    low, high = [interval.low for interval in y], [interval.high for interval in y]
    axes.fill_between(x, low, high, color=color, alpha=0.12, lw=0)


def _value_axis(axes: Any, values: Sequence[float]) -> None:
    """Logarithmic where the values span a factor of 10; ticks at the values if they are few."""
    if values[0] > 0 and values[-1] >= 10 * values[0]:
        axes.set_xscale("log")
    if len(values) <= 6:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
