"""How every picture looks: size, ink, colours that color-blind readers can tell apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proco_jax.common.files import write_atomic

INK = "#2b2f36"
PALE = "#8a8f98"
GRID = "#e6e8eb"
# Okabe and Ito 2008, without the yellow that white paper swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of `width` by `height` inches and its axes, row by row.

    Matplotlib is imported here, not before, and without pyplot, which would
    choose a backend for the whole process.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.flat)
    for one in axes:
        dress(one)
    return figure, axes


def dress(axes: Any) -> None:
    """Leaves two spines, a faint grid and small ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(PALE)
    axes.tick_params(labelsize=8, color=PALE, labelcolor=INK)
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.set_axisbelow(True)


def label(axes: Any, x: str, y: str, title: str = "") -> None:
    """Names the axes, with units where there are any."""
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    if title:
        axes.set_title(title, fontsize=9.5, color=INK, loc="left")


def legend(axes: Any, **where: Any) -> None:
    """A legend on pale ground, to be read over whatever it covers, where something has a label."""
    if axes.get_legend_handles_labels()[0]:
        ground = {"frameon": True, "framealpha": 0.8, "edgecolor": "none"}
        axes.legend(fontsize=7.5, labelcolor=INK, handletextpad=0.4, **ground, **where)


def cost_axis(axes: Any, largest: float, limit: float | None) -> None:
    """A cost axis from 0, logarithmic above 1 where costs reach far, with the limit's line."""
    largest = max(largest, limit or 1.0)
    if largest > 20:
        axes.set_yscale("symlog", linthresh=1.0, linscale=0.5)
        ticks = [tick for tick in (0, 1, 10, 100, 1000) if tick <= largest * 1.5]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_ylim(-0.06, largest * 1.6)
    else:
        axes.set_ylim(-0.02 * largest, largest * 1.1)
    axes.minorticks_off()
    if limit is not None:
        axes.axhline(limit, color=INK, lw=1.0, ls=(0, (4, 3)), zorder=2)
        axes.annotate(
            f"cost limit {limit:g}",
            (1.0, limit),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=INK,
        )


def step_axis(axes: Any, steps: Sequence[float]) -> None:
    """Ticks at the steps themselves where they are few, else round ones; `k` for thousands."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    distinct = sorted(set(steps))
    if len(distinct) <= 6:
        axes.set_xticks(distinct)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if max(distinct, default=0) >= 2000:
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _thousands(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if value else "0"


def save(figure: Any, path: Path) -> Path:
    """Writes the figure as a whole or not at all; the ending tells the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.removeprefix(".") or "png"
    write_atomic(path, lambda partial: figure.savefig(partial, format=kind, facecolor="white"))
    return path
