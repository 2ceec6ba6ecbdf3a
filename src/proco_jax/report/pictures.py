"""The pictures of a report. Each function draws one file and returns its path."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.evaluation.results import AUGMENTATIONS, SHIELDS, Row, policy_name
from proco_jax.report.plot_style import (
    COLORS,
    DASHES,
    SHIELD_LINES,
    SHIELD_NAMES,
    TEXT,
    color_handles,
    colorbar,
    cost_axis,
    cost_limit_line,
    error_bar,
    figure_title,
    label,
    legend_below,
    panels,
    save,
    step_axis,
)
from proco_jax.report.tables import Summary, setting_title

# Algorithm and augmentation of a trained policy.
Training = tuple[str, str]

RESULTS_CAPTION = (
    "Mean return and mean cost per episode of every policy, with 95% stratified bootstrap "
    "intervals. Colors are trained policies, markers are shields, and a line joins the policies "
    "that differ only in their shield. The dashed line is the cost limit; costs above 1 are on a "
    "logarithmic scale if they exceed 20."
)
_MARKERS = {"none": "o", "filter": "^", "planner": "s"}


def results_picture(path: Path, summaries: Sequence[Summary]) -> Path:
    """Mean return and mean cost of every policy with 95% intervals, and the cost limit.

    Colors tell the trained policies apart, markers the shields; a line joins the
    policies that differ only in their shield. Trained policies that are more than
    the colors get a panel for each algorithm.

    Args:
      path: of the picture.
      summaries: of one run, at least one.
    """
    groups = _groups([(s.algorithm, s.augmentation) for s in summaries])
    rows = -(-len(groups) // 4)
    columns = -(-len(groups) // rows)
    size = (6.0, 4.4) if len(groups) == 1 else (2.7 * columns + 0.6, 2.5 * rows + 0.7)
    figure, axes = panels(rows, columns, *size, sharex=True, sharey=True)
    limit = summaries[0].cost_limit
    for i, (one, (title, trainings)) in enumerate(zip(axes, groups.items(), strict=False)):
        for training, color in trainings.items():
            mine = [s for s in summaries if (s.algorithm, s.augmentation) == training]
            _draw_training(one, mine, color)
        cost_limit_line(one, limit, named=(i + 1) % columns == 0)
        lowest, leftmost = i + columns >= len(groups), i % columns == 0
        x = "mean return per episode" if lowest else ""
        label(one, x, "mean cost per episode" if leftmost else "", title)
        one.tick_params(labelbottom=lowest)
    for one in axes[len(groups) :]:
        one.set_visible(False)
    cost_axis(axes[0], max([limit, *(s.mean_cost.high for s in summaries)]))
    first = summaries[0]
    figure_title(figure, setting_title(first.run, first.task, f"{first.regime} logs"))
    shields = [name for name in reversed(SHIELDS) if any(s.shield == name for s in summaries)]
    trained = _training_handles(groups)
    _legend_in_columns(figure, trained, [_shield_handle(name) for name in shields])
    return save(figure, path)


def learning_curves(path: Path, rows: Sequence[Row]) -> Path:
    """Return, cost and violation-free share over the training steps.

    Lines are means over seeds, bands reach from the lowest seed to the highest.
    Policies that were evaluated at one step only are left out.

    Args:
      path: of the picture.
      rows: of `results.json`, with at least one policy at two steps or more.

    Raises:
      ValueError: if no policy was evaluated at two steps or more.
    """
    policies: dict[tuple[Training, str], list[Row]] = {}
    for row in rows:
        training = row["algorithm"], row["augmentation"]
        policies.setdefault((training, row["shield"]), []).append(row)
    policies = {
        policy: mine for policy, mine in policies.items() if len({row["step"] for row in mine}) > 1
    }
    if not policies:
        raise ValueError("learning curves need a policy that was evaluated at two steps or more")
    drawn = [row for mine in policies.values() for row in mine]
    groups = _groups([training for training, _ in policies])
    figure, axes = panels(len(groups), 3, 9.6, 2.5 * len(groups) + 0.8, sharex=True)
    for i, (title, trainings) in enumerate(groups.items()):
        line_axes = axes[3 * i : 3 * i + 3]
        for (training, shield), mine in policies.items():
            if training in trainings:
                _draw_curves(line_axes, mine, trainings[training], shield)
        bottom = "training step" if i + 1 == len(groups) else ""
        label(line_axes[0], bottom, "mean return", title)
        label(line_axes[1], bottom, "mean cost")
        label(line_axes[2], bottom, "violation-free episodes [%]")
        for one in line_axes:
            step_axis(one, [row["step"] for row in drawn])
        limit = drawn[0]["cost_limit"]
        cost_axis(line_axes[1], max([limit, *(row["cost_mean"] for row in drawn)]))
        cost_limit_line(line_axes[1], limit)
        line_axes[2].set_ylim(-3, 103)
    shields = [name for name in reversed(SHIELDS) if any(name == s for _, s in policies)]
    trained = _training_handles(groups)
    lines = (
        [_shield_handle(name, SHIELD_LINES[name]) for name in shields] if len(shields) > 1 else []
    )
    _legend_in_columns(figure, trained, lines)
    return save(figure, path)


def metric_curves(path: Path, lines: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Every metric of some stages over their steps, one panel per metric.

    Args:
      path: of the picture.
      lines: of `metrics.jsonl`, with at least one number; stages with the same
        metric share a panel.
      title: above all panels.
    """
    from matplotlib.lines import Line2D

    names = sorted({name for line in lines for name, value in line.items() if _drawn(name, value)})
    stages = sorted({line["stage"] for line in lines}, key=_stage_order)
    styles: dict[str, dict[str, Any]] = {
        stage: {"color": COLORS[i % len(COLORS)], "ls": ("-", "--", ":")[i // len(COLORS) % 3]}
        for i, stage in enumerate(stages)
    }
    count = -(-len(names) // 4)
    columns = -(-len(names) // count)
    figure, axes = panels(count, columns, max(2.5 * columns, 5.0), 1.9 * count + 0.7)
    for one, name in zip(axes, names, strict=False):
        for stage in stages:
            found = [
                line for line in lines if line["stage"] == stage and line.get(name) is not None
            ]
            points = [line["step"] for line in found], [line[name] for line in found]
            if found:
                marker = "o" if len(found) < 3 else None
                one.plot(*points, lw=1.2, marker=marker, ms=3, **styles[stage])
        one.set_title(name, fontsize=8, color=TEXT, loc="left")
        one.tick_params(labelsize=7)
        step_axis(one, [line["step"] for line in lines])
    for one in axes[len(names) :]:
        one.set_visible(False)
    for one in axes[max(0, len(names) - columns) : len(names)]:
        one.set_xlabel("step", fontsize=8, color=TEXT)
    figure_title(figure, title)
    if len(stages) > 1:
        legend_below(figure, [Line2D([], [], label=s, **styles[s]) for s in stages], 4)
    return save(figure, path)


def open_loop_curves(path: Path, rows: Sequence[Mapping[str, Any]], unit: str = "m") -> Path:
    """Error and correlation of the rules' predicted margin over the prediction horizon.

    Args:
      path: of the picture.
      rows: `open_loop` of `dynamics.json`: steps, mae_model, mae_persistence
        (in the unit of the margin), correlation, and the kind of episodes they were measured on.
      unit: of the margin.
    """
    figure, (error, correlation) = panels(1, 2, 7.6, 2.9)
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["steps"]):
        sets.setdefault(row.get("episodes", ""), []).append(row)
    for i, (name, mine) in enumerate(sets.items()):
        steps = [row["steps"] for row in mine]
        style: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "ms": 4}
        model, still = ([row[key] for row in mine] for key in ("mae_model", "mae_persistence"))
        suffix = f", {name} episodes" if name else ""
        error.plot(steps, model, marker="o", lw=1.6, label=f"model{suffix}", **style)
        error.plot(steps, still, marker="s", lw=1.2, ls=":", label=f"persistence{suffix}", **style)
        values = [np.nan if row["correlation"] is None else row["correlation"] for row in mine]
        correlation.plot(steps, values, marker="o", lw=1.6, label=f"model{suffix}", **style)
    for one in (error, correlation):
        step_axis(one, [row["steps"] for row in rows])
    label(error, "prediction horizon [steps]", f"mean absolute error [{unit}]")
    label(correlation, "prediction horizon [steps]", "correlation with the true change")
    error.set_ylim(bottom=0)
    correlation.set_ylim(min(0, correlation.get_ylim()[0]), 1.02)
    handles, _ = error.get_legend_handles_labels()
    legend_below(figure, handles, len(sets) if len(sets) > 1 else 2)
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
    """V_h over positions of the robot around hazards; states below 0 are feasible.

    Args:
      path: of the picture.
      xs: `[X]` positions, meters.
      ys: `[Y]` positions, meters.
      maps: names, e.g. of policies, to values `[Y, X]`; one panel each, all with the
        same color scale.
      hazards: centers, meters.
      radius: distance from a center below which a state is in violation, meters.
      velocity: of the robot in all these states, m/s, drawn as an arrow.
      title: above the panels.

    Raises:
      ValueError: if the values of a map do not fit the grid.
    """
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.patches import Circle

    for name, values in maps.items():
        if np.shape(values) != (len(ys), len(xs)):
            raise ValueError(
                f"the map {name!r} has shape {np.shape(values)}, expected {(len(ys), len(xs))}"
            )
    figure, axes = panels(1, len(maps), 3.0 * len(maps) + 0.9, 3.5)
    low = min(float(np.min(values)) for values in maps.values())
    high = max(float(np.max(values)) for values in maps.values())
    norm = TwoSlopeNorm(0.0, min(low, -0.1), max(high, 0.1))
    mesh = None
    for one, (name, values) in zip(axes, maps.items(), strict=True):
        mesh = one.pcolormesh(xs, ys, values, cmap="RdBu_r", norm=norm, shading="gouraud")
        if np.min(values) < 0 < np.max(values):
            one.contour(xs, ys, values, levels=[0.0], colors=TEXT, linewidths=1.4)
        for center in hazards:
            one.add_patch(Circle(center, radius, fill=False, ec=TEXT, lw=1.2, ls=DASHES))
        if velocity is not None:
            _velocity_arrow(one, velocity)
        one.set_aspect("equal")
        one.locator_params(nbins=5)
        one.grid(visible=False)
        one.set_xlim(xs[0], xs[-1])
        one.set_ylim(ys[0], ys[-1])
        label(one, "x [m]", "y [m]", name)
    colorbar(figure, mesh, axes, "$V_h$ (below 0: feasible)")
    figure_title(figure, title)
    return save(figure, path)


def _velocity_arrow(axes: Any, velocity: tuple[float, float]) -> None:
    """An arrow in the lower left corner, of fixed length, beside the speed."""
    from matplotlib.patheffects import withStroke

    speed = float(np.hypot(*velocity))
    if speed == 0:
        return
    outline = withStroke(linewidth=3.0, foreground="white")
    direction = np.array(velocity) / speed
    start = np.array([0.13, 0.13]) - 0.06 * direction
    axes.annotate(
        "",
        xy=tuple(start + 0.12 * direction),
        xytext=tuple(start),
        xycoords="axes fraction",
        arrowprops={"arrowstyle": "-|>", "color": TEXT, "lw": 1.4, "path_effects": [outline]},
    )
    box = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1.5}
    text = f"robot moving {speed:.2g} m/s"
    axes.text(
        0.24, 0.13, text, transform=axes.transAxes, fontsize=7.5, color=TEXT, va="center", bbox=box
    )


def _groups(trainings: Sequence[Training]) -> dict[str, dict[Training, str]]:
    """Trained policies and their colors, by the title of the panel that shows them."""
    ordered = sorted(set(trainings), key=lambda t: (t[0], AUGMENTATIONS.index(t[1])))
    if len(ordered) <= len(COLORS):
        return {"": dict(zip(ordered, COLORS, strict=False))}
    groups: dict[str, dict[Training, str]] = {}
    for training in ordered:
        color = COLORS[AUGMENTATIONS.index(training[1])]
        groups.setdefault(training[0], {})[training] = color
    return groups


def _training_handles(groups: Mapping[str, Mapping[Training, str]]) -> list[Any]:
    """A legend entry for each trained policy; for each augmentation if there are many panels."""
    names = {
        policy_name(*training) if len(groups) == 1 else f"augmentation {training[1]}": color
        for trainings in groups.values()
        for training, color in trainings.items()
    }
    return color_handles(names)


def _shield_handle(shield: str, line: str = "") -> Any:
    from matplotlib.lines import Line2D

    marker = _MARKERS[shield]
    return Line2D([], [], color=TEXT, ls=line, marker=marker, ms=5, label=SHIELD_NAMES[shield])


def _legend_in_columns(figure: Any, first: Sequence[Any], second: Sequence[Any]) -> None:
    """A legend below the figure with the first handles in columns of their own."""
    from matplotlib.lines import Line2D

    # A legend is filled column by column; invisible entries complete a column.
    height = min(3, max(len(first), len(second)))
    handles: list[Any] = []
    for part in (first, second):
        handles += part
        handles += [Line2D([], [], ls="", label=" ")] * (-len(part) % height)
    legend_below(figure, handles, -(-len(handles) // height))


def _draw_training(axes: Any, summaries: Sequence[Summary], color: str) -> None:
    """The policies of one training, which differ in their shields."""
    ordered = sorted(summaries, key=lambda s: SHIELDS.index(s.shield), reverse=True)
    points = [(s.mean_return.point, s.mean_cost.point) for s in ordered]
    axes.plot(*zip(*points, strict=True), color=color, lw=0.8, alpha=0.6, zorder=4)
    for summary in ordered:
        axes.errorbar(
            summary.mean_return.point,
            summary.mean_cost.point,
            xerr=error_bar(summary.mean_return),
            yerr=error_bar(summary.mean_cost),
            fmt=_MARKERS[summary.shield],
            ms=7,
            color=color,
            mec="white",
            mew=0.8,
            elinewidth=1.3,
            zorder=6,
        )


def _draw_curves(axes: Sequence[Any], rows: Sequence[Row], color: str, shield: str) -> None:
    steps = sorted({row["step"] for row in rows})
    names = ("return_mean", "cost_mean", "violation_free_share")
    for one, name in zip(axes, names, strict=True):
        scale = 100 if name == "violation_free_share" else 1
        values = [[scale * row[name] for row in rows if row["step"] == step] for step in steps]
        low, high = [min(v) for v in values], [max(v) for v in values]
        one.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
        one.plot(
            steps,
            [np.mean(v) for v in values],
            color=color,
            ls=SHIELD_LINES[shield],
            marker=_MARKERS[shield],
            ms=4,
            lw=1.6,
        )


def _stage_order(stage: str) -> tuple[str, int]:
    """By algorithm, then in the order of augmentations, as in the other pictures."""
    name, _, augmentation = stage.rpartition("-")
    if augmentation in AUGMENTATIONS:
        return name, AUGMENTATIONS.index(augmentation)
    return stage, 0


def _drawn(name: str, value: Any) -> bool:
    return name not in ("stage", "step") and value is not None
