"""The pictures of a report. Each function draws one file and returns its path."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.evaluation.results import Row, final_rows, policy_name
from proco_jax.report.plot_style import (
    COLORS,
    INK,
    MARKERS,
    PALE,
    cost_axis,
    label,
    legend,
    panels,
    save,
    step_axis,
)
from proco_jax.report.tables import summarize


def policy_scatter(path: Path, rows: Sequence[Row], card: Mapping[str, Any] | None) -> Path:
    """Return and cost of the logged trajectories and of the policies' episodes.

    Small points are trajectories or episodes; large ones are interquartile
    means with their 95% intervals.

    Args:
      path: of the picture.
      rows: of `results.json`; the last step is drawn.
      card: of the dataset, with `trajectories`; None where there is none.
    """
    figure, (axes,) = panels(1, 1, 5.6, 4.2)
    logged = [] if card is None else card["trajectories"]
    for part, color, text in (
        ("dropped", "#d3d6db", "logs, dropped by the regime"),
        ("train", "#9aa1ab", "logs, trained on"),
        ("holdout", "#6d747e", "logs, held out"),
    ):
        shown = [row for row in logged if row["part"] == part]
        points = [row["return"] for row in shown], [row["cost"] for row in shown]
        if shown:
            axes.scatter(*points, s=12, c=color, lw=0, label=f"{text} ({len(shown)})", zorder=3)
    summaries = summarize(rows)
    for i, (group, summary) in enumerate(zip(final_rows(rows).values(), summaries, strict=True)):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        returns = np.concatenate([row["returns"] for row in group])
        costs = np.concatenate([row["costs"] for row in group])
        axes.scatter(returns, costs, s=9, c=color, marker=marker, alpha=0.35, lw=0, zorder=4)
        axes.errorbar(
            summary.episode_return.point,
            summary.cost.point,
            xerr=_arms(summary.episode_return),
            yerr=_arms(summary.cost),
            fmt=marker,
            ms=7,
            color=color,
            mec="white",
            mew=0.8,
            elinewidth=1.6,
            label=f"{policy_name(summary.algorithm, summary.proco)}, IQM and 95% interval",
            zorder=6,
        )
    limit = rows[0]["cost_limit"] if rows else (card or {}).get("cost_limit")
    largest = [cost for row in rows for cost in row["costs"]] + [row["cost"] for row in logged]
    cost_axis(axes, max(largest, default=0), limit)
    task = rows[0]["task"] if rows else (card or {}).get("task", "")
    label(axes, "return of the episode", "cost of the episode (steps in violation)", task)
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return save(figure, path)


def learning_curves(path: Path, rows: Sequence[Row]) -> Path:
    """Return, cost and violation-free share over training, from every evaluation.

    Lines are means over seeds, bands reach from the lowest seed to the highest.
    """
    figure, axes = panels(1, 3, 9.6, 2.9)
    names = ("return_mean", "cost_mean", "violation_free_share")
    titles = ("return", "cost (steps in violation)", "violation-free episodes [%]")
    policies = list(final_rows(rows))
    for i, (algorithm, proco) in enumerate(policies):
        mine = [row for row in rows if (row["algorithm"], row["proco"]) == (algorithm, proco)]
        steps = sorted({row["step"] for row in mine})
        for one, name in zip(axes, names, strict=True):
            scale = 100 if name == "violation_free_share" else 1
            at = [[scale * row[name] for row in mine if row["step"] == step] for step in steps]
            color = COLORS[i % len(COLORS)]
            one.fill_between(steps, *zip(*map(_range, at), strict=True), color=color, alpha=0.15)
            one.plot(
                steps,
                [np.mean(values) for values in at],
                color=color,
                marker=MARKERS[i % len(MARKERS)],
                ms=4,
                lw=1.6,
                label=policy_name(algorithm, proco),
            )
    for one, title in zip(axes, titles, strict=True):
        label(one, "training step", title)
        step_axis(one, [row["step"] for row in rows])
    cost_axis(axes[1], max(row["cost_mean"] for row in rows), rows[0]["cost_limit"])
    axes[2].set_ylim(-3, 103)
    legend(axes[0], loc="best")
    return save(figure, path)


def metric_curves(path: Path, lines: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Every metric of some stages over their steps, one panel each.

    Args:
      path: of the picture.
      lines: of `metrics.jsonl`, with at least one number; stages with the same
        metric are drawn into the same panel.
      title: above all panels.
    """
    names = sorted({name for line in lines for name, value in line.items() if _drawn(name, value)})
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    columns = min(4, len(names))
    count = -(-len(names) // columns)
    figure, axes = panels(count, columns, max(2.5 * columns, 5.0), 1.9 * count + 0.7)
    for one, name in zip(axes, names, strict=False):
        for i, stage in enumerate(stages):
            found = [
                line for line in lines if line["stage"] == stage and line.get(name) is not None
            ]
            points = [line["step"] for line in found], [line[name] for line in found]
            if found:
                marker = "o" if len(found) < 3 else None
                color = COLORS[i % len(COLORS)]
                one.plot(*points, color=color, lw=1.2, marker=marker, ms=3, label=stage)
        one.set_title(name, fontsize=8, color=INK, loc="left")
        one.tick_params(labelsize=7)
        step_axis(one, [line["step"] for line in lines])
    for one in axes[len(names) :]:
        one.set_visible(False)
    for one in axes[max(0, len(names) - columns) : len(names)]:
        one.set_xlabel("step", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=9.5, color=INK, x=0.01, ha="left")
    handles, labels = _all_handles(axes)
    if len(handles) > 1:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False
        )
    return save(figure, path)


def open_loop_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Error and correlation of predicted nearest distances over the steps ahead.

    Args:
      path: of the picture.
      rows: `open_loop` of `dynamics.json`: steps, mae_model, mae_persistence
        (metres), correlation, and the episodes that they were measured on.
    """
    figure, (error, correlation) = panels(1, 2, 7.2, 2.9)
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["steps"]):
        sets.setdefault(row.get("episodes", ""), []).append(row)
    for i, (name, mine) in enumerate(sets.items()):
        steps = [row["steps"] for row in mine]
        style: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "ms": 4}
        model, still = ([row[key] for row in mine] for key in ("mae_model", "mae_persistence"))
        error.plot(steps, model, marker="o", lw=1.6, label=_join("model", name), **style)
        error.plot(
            steps, still, marker="s", lw=1.2, ls=":", label=_join("persistence", name), **style
        )
        told = [np.nan if row["correlation"] is None else row["correlation"] for row in mine]
        correlation.plot(steps, told, marker="o", lw=1.6, **style)
    for one in (error, correlation):
        step_axis(one, [row["steps"] for row in rows])
    label(error, "steps ahead", "mean absolute error [m]")
    label(correlation, "steps ahead", "correlation with the true change")
    error.set_ylim(bottom=0)
    correlation.set_ylim(min(0, correlation.get_ylim()[0]), 1.02)
    legend(error, loc="best")
    return save(figure, path)


def feasibility_map(
    path: Path,
    xs: np.ndarray,
    ys: np.ndarray,
    maps: Mapping[str, np.ndarray],
    hazards: Sequence[tuple[float, float]],
    radius: float,
    *,
    velocity: tuple[float, float] | None = None,
    title: str = "",
) -> Path:
    """V_h where the robot could stand, around hazards: below 0 is feasible.

    Args:
      path: of the picture.
      xs: `[X]` metres.
      ys: `[Y]` metres.
      maps: names, e.g. of policies, to values `[Y, X]`; one panel each, all
        with the same colors.
      hazards: their centres, metres.
      radius: within which a state is in violation, metres.
      velocity: of the robot in all these states, m/s, drawn as an arrow.
      title: above the panels.

    Raises:
      ValueError: if values don't fit the grid.
    """
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.patches import Circle

    for name, values in maps.items():
        if np.shape(values) != (len(ys), len(xs)):
            raise ValueError(
                f"the map {name!r} has shape {np.shape(values)}, expected {(len(ys), len(xs))}"
            )
    figure, axes = panels(1, len(maps), 3.5 * len(maps) + 0.9, 3.5)
    low = min(float(np.min(values)) for values in maps.values())
    high = max(float(np.max(values)) for values in maps.values())
    norm = TwoSlopeNorm(0.0, min(low, -0.1), max(high, 0.1))
    mesh = None
    for one, (name, values) in zip(axes, maps.items(), strict=True):
        mesh = one.pcolormesh(xs, ys, values, cmap="RdBu_r", norm=norm, shading="gouraud")
        if np.min(values) < 0 < np.max(values):
            one.contour(xs, ys, values, levels=[0.0], colors=INK, linewidths=1.4)
        for center in hazards:
            one.add_patch(Circle(center, radius, fill=False, ec=INK, lw=1.2, ls=(0, (3, 2))))
        if velocity is not None:
            _velocity_arrow(one, velocity)
        one.set_aspect("equal")
        one.locator_params(nbins=5)
        one.grid(visible=False)
        one.set_xlim(xs[0], xs[-1])
        one.set_ylim(ys[0], ys[-1])
        label(one, "x [m]", "y [m]", name)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.85, pad=0.02)
    bar.set_label("$V_h$ (below 0: feasible)", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, color=PALE, labelcolor=INK)
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=9.5, color=INK, x=0.01, ha="left")
    return save(figure, path)


def _velocity_arrow(axes: Any, velocity: tuple[float, float]) -> None:
    """In the lower left corner, of unit length: the text tells the speed."""
    speed = float(np.hypot(*velocity))
    if speed == 0:
        return
    direction = np.array(velocity) / speed
    start = np.array([0.13, 0.13]) - 0.06 * direction
    axes.annotate(
        "",
        xy=tuple(start + 0.12 * direction),
        xytext=tuple(start),
        xycoords="axes fraction",
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.4},
    )
    box = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1.5}
    text = f"robot moving {speed:.2g} m/s"
    axes.text(
        0.24, 0.13, text, transform=axes.transAxes, fontsize=7.5, color=INK, va="center", bbox=box
    )


def _arms(interval: Any) -> list[list[float]]:
    """The lengths of error bars, never below 0: a percentile interval can miss its point."""
    return [
        [max(0.0, interval.point - interval.low)],
        [max(0.0, interval.high - interval.point)],
    ]


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _drawn(name: str, value: Any) -> bool:
    return name not in ("stage", "step") and value is not None


def _join(name: str, dataset: str) -> str:
    return f"{name}, {dataset}" if dataset else name


def _all_handles(axes: Sequence[Any]) -> tuple[list[Any], list[str]]:
    known = {}
    for one in axes:
        for handle, text in zip(*one.get_legend_handles_labels(), strict=True):
            known.setdefault(text, handle)
    return list(known.values()), list(known)
