"""The style of all pictures: figures, fonts, colors, legends and common axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proco_jax.common.files import write_atomic
from proco_jax.common.statistics import Interval

TEXT = "#2b2f36"
MUTED = "#8a8f98"
GRID = "#e6e8eb"
# Okabe and Ito 2008, distinguishable for color-blind readers, without the yellow, which
# has little contrast on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = (0, (4, 3))
SHIELD_LINES = {"none": "-", "filter": "--", "planner": ":"}
SHIELD_NAMES = {"none": "no shield", "filter": "filter", "planner": "planner"}


def panels(rows: int, columns: int, width: float, height: float, **layout: Any) -> tuple[Any, list]:
    """A figure of `width` by `height` inches and its axes, row by row.

    `layout` is passed to `Figure.subplots`, e.g. `sharex=True`. Matplotlib is
    imported here, so that only drawing needs it, and without pyplot, which would
    choose a backend for the whole process.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, **layout).flat)
    for one in axes:
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            one.spines[side].set_color(MUTED)
        one.tick_params(labelsize=8, color=MUTED, labelcolor=TEXT)
        one.grid(axis="y", color=GRID, lw=0.6)
        one.set_axisbelow(True)
    return figure, axes


def label(axes: Any, x: str, y: str, title: str = "") -> None:
    """Labels the axes, with units where they have one, and sets a title."""
    axes.set_xlabel(x, fontsize=9, color=TEXT)
    axes.set_ylabel(y, fontsize=9, color=TEXT)
    if title:
        axes.set_title(title, fontsize=9.5, color=TEXT, loc="left")


def figure_title(figure: Any, title: str) -> None:
    """A title above all panels, to the left."""
    if title:
        figure.suptitle(title, fontsize=9.5, color=TEXT, x=0.01, ha="left")


def legend(axes: Any, **options: Any) -> None:
    """A legend inside of the axes, if anything in them has a label."""
    if axes.get_legend_handles_labels()[0]:
        box = {"frameon": True, "framealpha": 0.8, "edgecolor": "none"}
        axes.legend(fontsize=7.5, labelcolor=TEXT, handletextpad=0.4, **(box | options))


def color_handles(colors: Mapping[str, str]) -> list[Any]:
    """Legend entries from labels to the colors of their lines."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=color, lw=3, label=name) for name, color in colors.items()]


def legend_below(figure: Any, handles: Sequence[Any], columns: int) -> None:
    """One legend for all panels, below them."""
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        fontsize=7.5,
        frameon=False,
        labelcolor=TEXT,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def note(axes: Any, text: str) -> None:
    """A remark in axes without data, below the middle and over any line there."""
    axes.text(
        0.5,
        0.3,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color=MUTED,
        bbox={"facecolor": "white", "lw": 0, "pad": 2},
    )


def colorbar(figure: Any, mesh: Any, axes: Any, text: str) -> None:
    """A color scale beside the axes."""
    bar = figure.colorbar(mesh, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label(text, fontsize=9, color=TEXT)
    bar.ax.tick_params(labelsize=8, color=MUTED, labelcolor=TEXT)
    bar.outline.set_visible(False)


def cost_axis(axes: Any, largest: float) -> None:
    """A cost axis from 0 to the largest cost, logarithmic above 1 where that exceeds 20."""
    if largest > 20:
        axes.set_yscale("symlog", linthresh=1.0, linscale=0.5)
        ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick <= largest * 1.5]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_ylim(-0.12, largest * 1.6)
    else:
        top = max(largest, 1.0) * 1.1
        axes.set_ylim(-0.03 * top, top)
    axes.minorticks_off()


def cost_limit_line(axes: Any, limit: float | None, *, named: bool = True) -> None:
    """A dashed line at the cost limit, named in the right margin, where no data is drawn."""
    if limit is None:
        return
    axes.axhline(limit, color=TEXT, lw=1.0, ls=DASHES, zorder=2)
    if named:
        axes.annotate(
            f"cost\nlimit\n{limit:g}",
            (1.0, limit),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            linespacing=1.0,
            color=TEXT,
        )


def error_bar(interval: Interval) -> list[list[float]]:
    """Lengths of the bars, not below 0: a percentile interval may not contain its point."""
    return [
        [max(0.0, interval.point - interval.low)],
        [max(0.0, interval.high - interval.point)],
    ]


def step_axis(axes: Any, steps: Sequence[float]) -> None:
    """Ticks at the steps themselves if there are at most six, else at round steps."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    distinct = sorted(set(steps))
    if len(distinct) <= 6:
        axes.set_xticks(distinct)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if max(distinct, default=0) >= 2000:
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))


def save(figure: Any, path: Path) -> Path:
    """Writes the figure atomically, in the format of the path's suffix."""
    kind = path.suffix.removeprefix(".") or "png"
    write_atomic(path, lambda partial: figure.savefig(partial, format=kind, facecolor="white"))
    return path


def _thousands(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if value else "0"
