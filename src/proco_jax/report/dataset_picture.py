"""The picture of a dataset: return against cost. Matplotlib is imported only to draw it."""

from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import write_atomic

# Colour and legend of each part, in drawing order.
PARTS = {
    "dropped": ("#b4bac4", "dropped by the regime"),
    "train": ("#1f5fa8", "trained on"),
    "holdout": ("#e08b1b", "held out"),
}
INK, LINE, LIMIT = "#2b2f36", "#8a8f98", "#b3261e"
BINS = 40


def draw_dataset(card: dict[str, Any], path: Path) -> None:
    """Draws the trajectories of a dataset card.

    Above, those that violate, by return and cost on a logarithmic axis; below,
    how many are violation-free at each return, since all of those lie at 0.

    Args:
      card: as `make_card` gives it.
      path: of the PNG, written atomically.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    # No pyplot: it would choose a backend for the whole process.
    figure = Figure(figsize=(5.4, 4.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _violating(above, card)
    _violation_free(below, card)
    for axes in (above, below):
        _dress(axes)
    before, after = card["before"], card["after"]
    figure.suptitle(
        f"{card['task']}: regime {card['regime']} keeps {after['episodes']} of "
        f"{before['episodes']} trajectories",
        fontsize=9.5,
        color=INK,
    )
    present = [part for part in PARTS if any(r["part"] == part for r in card["trajectories"])]
    figure.legend(
        handles=[Patch(color=PARTS[part][0], label=PARTS[part][1]) for part in present],
        loc="outside lower center",
        ncols=len(present),
        handlelength=1.0,
        fontsize=7.5,
        frameon=False,
        labelcolor=INK,
        handletextpad=0.3,
    )
    write_atomic(path, lambda temporary: figure.savefig(temporary))


def _violating(axes: Any, card: dict[str, Any]) -> None:
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
    costs = [row["cost"] for row in rows] + ([limit] if limit else [])
    if costs:
        axes.set_yscale("log")
        axes.set_ylim(min([1.0, *costs]) / 1.4, max([100.0, *costs]) * 1.4)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    if not rows:
        axes.text(0.5, 0.3, "no trajectory violates", transform=axes.transAxes, **_centered())
    if limit:
        axes.axhline(limit, color=LIMIT, lw=1.0, ls=(0, (4, 3)), zorder=2)
        axes.annotate(
            f"cost limit {limit:g}",
            (1.0, limit),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=LIMIT,
        )
    axes.set_ylabel("cost of a trajectory", fontsize=8.5, color=INK)


def _violation_free(axes: Any, card: dict[str, Any]) -> None:
    rows = [row for row in card["trajectories"] if row["cost"] == 0]
    returns = [row["return"] for row in card["trajectories"]]
    edges = np.histogram_bin_edges(returns, bins=BINS)
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
        axes.text(0.5, 0.5, "none is violation-free", transform=axes.transAxes, **_centered())
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    axes.set_ylabel("violation-free\ntrajectories", fontsize=8.5, color=INK)
    axes.set_xlabel("return of a trajectory", fontsize=8.5, color=INK)


def _dress(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(labelsize=8, color=LINE, labelcolor=INK)
    axes.grid(axis="y", color="#e6e8eb", lw=0.6, zorder=0)
    axes.set_axisbelow(True)


def _centered() -> dict[str, Any]:
    return {"ha": "center", "fontsize": 8, "color": LINE}
