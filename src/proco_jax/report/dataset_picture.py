"""The picture of a dataset: return and cost of its trajectories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.report.plot_style import (
    COLORS,
    cost_limit_line,
    figure_title,
    label,
    legend_below,
    note,
    panels,
    save,
)

# Color and legend of each part of the logs, in drawing order.
PARTS = {
    "dropped": ("#b4bac4", "dropped by the regime"),
    "train": (COLORS[0], "training"),
    "holdout": (COLORS[4], "held out"),
}
_BINS = 40


def draw_dataset(card: Mapping[str, Any], path: Path) -> Path:
    """Draws the trajectories of a dataset card.

    The upper panel shows return and cost of the trajectories with violations; the
    lower panel is a histogram of the returns of those without, whose cost is 0.

    Args:
      card: the content of `dataset.json`.
      path: of the picture, written atomically.
    """
    from matplotlib.patches import Patch

    figure, (upper, lower) = panels(2, 1, 5.4, 4.4, sharex=True, height_ratios=(3, 1))
    _draw_violating(upper, card)
    _draw_violation_free(lower, card)
    figure_title(
        figure,
        f"{card['task']}: regime {card['regime']} keeps {card['after']['episodes']} of "
        f"{card['before']['episodes']} trajectories",
    )
    present = [part for part in PARTS if any(r["part"] == part for r in card["trajectories"])]
    legend_below(figure, [Patch(color=PARTS[p][0], label=PARTS[p][1]) for p in present], 3)
    return save(figure, path)


def _draw_violating(axes: Any, card: Mapping[str, Any]) -> None:
    rows = [row for row in card["trajectories"] if row["cost"] > 0]
    for part, (color, _) in PARTS.items():
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            axes.scatter(
                [row["return"] for row in chosen],
                [row["cost"] for row in chosen],
                s=18,
                c=color,
                alpha=0.85,
                linewidths=0.3,
                edgecolors="white",
                zorder=3,
            )
    limit = card["cost_limit"]
    if not rows:
        note(axes, "no trajectory has a violation")
    costs = [row["cost"] for row in rows] + ([limit] if limit else [])
    if costs:
        axes.set_yscale("log")
        axes.set_ylim(min(1.0, *costs) / 1.4, max(100.0, *costs) * 1.4)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    cost_limit_line(axes, limit or None)
    label(axes, "", "cost of a trajectory")


def _draw_violation_free(axes: Any, card: Mapping[str, Any]) -> None:
    rows = [row for row in card["trajectories"] if row["cost"] == 0]
    returns = [row["return"] for row in card["trajectories"]]
    edges = np.histogram_bin_edges(returns, bins=_BINS)
    parts = [p for p in PARTS if any(row["part"] == p for row in rows)]
    if rows:
        axes.hist(
            [[row["return"] for row in rows if row["part"] == part] for part in parts],
            bins=edges.tolist(),
            stacked=True,
            color=[PARTS[part][0] for part in parts],
            zorder=3,
        )
    else:
        note(axes, "no trajectory is free of violations")
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    label(axes, "return of a trajectory", "violation-free\ntrajectories")
